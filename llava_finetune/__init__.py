"""Run time of llava-finetune: train, evaluate, merge, import, export, chat, serve, report, plan, doctor.

Importing it is cheap (no torch) and makes `import llava` mean build/patched/llava of this checkout, the tree that
`python -m patches apply` writes.

    python -m llava_finetune --help
"""

import sys
from pathlib import Path

__version__ = "0.1.0"

ROOT = Path(__file__).resolve().parent.parent
"""The checkout that holds this package."""

PATCHED = ROOT / "build" / "patched"
"""Folder that holds the patched `llava` package."""


def _prefer_patched_llava() -> None:
    """Put build/patched first on the import path, before any `llava` that pip has installed."""
    entry = str(PATCHED)
    if entry in sys.path:
        sys.path.remove(entry)
    sys.path.insert(0, entry)


_prefer_patched_llava()
