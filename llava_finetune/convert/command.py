"""What the command lines of export and import share: where from, where to, and how the check at the end runs.

parser = conversion_parser("export", "Write ...", EXAMPLES, model="folder or hub id in upstream's layout")
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from llava_finetune.flags import command_parser


def conversion_parser(name: str, description: str, examples: str, *, model: str) -> argparse.ArgumentParser:
    """A parser with the model, the output folder, --conversation and the flags of the check. `model`: its help."""
    out = command_parser(
        name,
        description,
        examples,
    )
    out.add_argument("model", help=model)
    out.add_argument("output", type=Path, help="folder to write; must be new or empty")
    out.add_argument("--conversation", help="conversation template (default: as the model's files say)")
    out.add_argument(
        "--dtype", default="auto", help="dtype of the check: auto (the model's own), float32, bfloat16, float16"
    )
    out.add_argument("--device", default="auto", help="device of the check (default: auto)")
    out.add_argument("--json", action="store_true", help="print the result as JSON")
    return out


def report(result: Any, lines: Sequence[str], *, as_json: bool) -> int:
    """Print a result dataclass as JSON, or as lines for a person; returns the exit code 0."""
    print(json.dumps(asdict(result)) if as_json else "\n".join(lines))
    return 0
