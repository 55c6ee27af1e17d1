"""What a patch is, and the order that the file `series` gives.

One file per intention in patches/rewrites/NAME.py, which holds one `PATCH`. The file `series` lists the names, one a
line, in the order of application; a name that is in one place only is an error.
"""

from __future__ import annotations

import hashlib
import importlib
import re
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from patches.edits import Edit

HERE = Path(__file__).resolve().parent
SERIES_FILE = HERE / "series"
REWRITES = HERE / "rewrites"


class Kind(str, Enum):
    """Why a patch exists."""

    STACK = "stack"  # what today's packages force; upstream's behaviour stays as it is
    MEND = "mend"  # what upstream's users suffered from
    BACKPORT = "backport"  # a later fix of upstream's own
    REFUSE = "refuse"  # unsupported parts say so and name the replacement


class SeriesError(Exception):
    """The series or a patch file is not what it should be; the message names the file."""


@dataclass(frozen=True)
class Absent:
    """A proof: after the whole series, `find` (an expression) occurs nowhere in `within` of `file`."""

    file: str
    within: str
    find: str


@dataclass(frozen=True)
class Patch:
    """One intention. `origin`: the thread or the measurement; `not_outside`: why no wrapper can do it."""

    kind: Kind
    origin: str
    why: str
    not_outside: str
    drop_when: str
    edits: tuple[Edit, ...]
    proofs: tuple[Absent, ...] = ()
    name: str = ""

    @property
    def files(self) -> tuple[str, ...]:
        """The files it edits, sorted."""
        return tuple(sorted({edit.file for edit in self.edits}))


def read_order(path: Path = SERIES_FILE) -> list[str]:
    """The names in the series file, comments and blank lines left out."""
    lines = (line.split("#", 1)[0].strip() for line in path.read_text(encoding="utf-8").splitlines())
    return [line for line in lines if line]


def load_series(only: Kind | None = None) -> list[Patch]:
    """The patches in order. Raises SeriesError for a name without a file, a file without a name, or a double name."""
    order = read_order()
    files = {path.stem for path in REWRITES.glob("*.py") if path.stem != "__init__"}
    for name in order:
        if order.count(name) > 1:
            raise SeriesError(f"patches/series: `{name}` is listed twice; remove one line")
        if name not in files:
            raise SeriesError(
                f"patches/series: `{name}` has no patches/rewrites/{name}.py; add the file or remove the line"
            )
    unlisted = sorted(files - set(order))
    if unlisted:
        raise SeriesError(f"patches/rewrites/{unlisted[0]}.py is not in patches/series; add a line or remove the file")
    patches = [_load(name) for name in order]
    return [patch for patch in patches if only is None or patch.kind is only]


def _load(name: str) -> Patch:
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise SeriesError(f"patches/series: `{name}` is no name; use lower case letters, digits and _")
    patch = getattr(importlib.import_module(f"patches.rewrites.{name}"), "PATCH", None)
    if not isinstance(patch, Patch):
        raise SeriesError(f"patches/rewrites/{name}.py holds no PATCH = Patch(...)")
    return Patch(**{**patch.__dict__, "name": name})


def series_hash() -> str:
    """SHA-256 of everything that decides the output: the series, its patches, the engine and the pristine sums."""
    engine = [HERE / name for name in ("pattern.py", "edits.py", "engine.py", "series.py", "pristine.sha256", "series")]
    digest = hashlib.sha256()
    for path in [*engine, *sorted(REWRITES.glob("*.py"))]:
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()
