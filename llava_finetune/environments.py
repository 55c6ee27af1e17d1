"""Where each engine lives: an environment of its own with pinned versions, made by scripts/engines.sh when asked for.

Why apart: engines pin a torch and a transformers of their own, and this project must not follow them.

    python = engine_python("llama.cpp")
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from llava_finetune import ROOT
from llava_finetune.errors import UserError

#: The engines that have an environment, and the module that one needs.
MODULES: Mapping[str, str] = MappingProxyType(
    {
        "llama.cpp": "xllamacpp",
        "llama-quantize": "cyllama",
        "vllm": "vllm",
        "transformers": "transformers",
    }
)
VARIABLE = "LLAVA_ENGINES"


def environments_folder() -> Path:
    """$LLAVA_ENGINES, else build/engines of the checkout."""
    return Path(os.environ.get(VARIABLE) or ROOT / "build" / "engines")


def engine_python(engine: str) -> str:
    """The interpreter that has an engine: its environment's, else this one where the engine happens to be installed.

    Raises UserError, with the command that installs it, when neither has.
    """
    own = environments_folder() / engine / "bin" / "python"
    if own.is_file():
        if not (environments_folder() / engine / ".ready").is_file():
            raise UserError(f"{engine}: {own.parent.parent} was not made to its end: bash scripts/engines.sh {engine}")
        return str(own)
    if importlib.util.find_spec(MODULES[engine]) is not None:
        return sys.executable
    raise UserError(f"{engine}: not installed (no {own}); install it with: bash scripts/engines.sh {engine}")
