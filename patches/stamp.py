"""The patched tree's stamp: which upstream, which series, which bytes; and the refusal of a stale tree.

from patches.stamp import require_current, read_stamp
require_current()                # raises StaleTree with the command to run
read_stamp()["series"]           # what a run's manifest logs
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from patches import UPSTREAM_COMMIT, UPSTREAM_VERSION

ROOT = Path(__file__).resolve().parent.parent
OUTPUT = Path("build/patched")
STAMP = "llava/_stamp.json"
APPLY = "Run: python -m patches apply"


class StaleTree(Exception):
    """build/patched/llava is missing, stale or edited; the message says which and what to run."""


def make_stamp(files: Mapping[str, bytes], series: str, only: str) -> bytes:
    """The stamp's bytes. `only` is "all" or the kind of patches that were applied."""
    content = {
        "upstream": {"version": UPSTREAM_VERSION, "commit": UPSTREAM_COMMIT},
        "series": series,
        "only": only,
        "files": {name: hashlib.sha256(data).hexdigest() for name, data in sorted(files.items())},
    }
    return (json.dumps(content, indent=1) + "\n").encode()


def read_stamp(root: Path | None = None) -> dict[str, Any]:
    """The stamp below the repository `root`. Raises StaleTree when there is none."""
    path = (root or ROOT) / OUTPUT / STAMP
    try:
        stamp: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise StaleTree(f"{OUTPUT}/llava: no patched upstream there (no readable stamp). {APPLY}") from None
    return stamp


def require_current(root: Path | None = None) -> dict[str, Any]:
    """The stamp, after checking that the tree is what the committed series writes. Raises StaleTree."""
    from patches.series import series_hash

    base = root or ROOT
    stamp = read_stamp(base)
    if stamp.get("series") != (current := series_hash()):
        raise StaleTree(
            f"{OUTPUT}/llava: stale: written by patch series {str(stamp.get('series'))[:12]}, "
            f"the checkout has {current[:12]}. {APPLY}"
        )
    if stamp.get("only") != "all":
        raise StaleTree(f"{OUTPUT}/llava: holds only the {stamp.get('only')} patches. {APPLY}")
    for name, expected in stamp["files"].items():
        path = base / OUTPUT / name
        if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != expected:
            raise StaleTree(
                f"{OUTPUT}/{name}: edited or removed since it was written; change the series instead. {APPLY}"
            )
    return stamp
