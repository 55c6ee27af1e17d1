"""What a patch is, and the order that the file `series` gives.

One file per intention in patches/rewrites/NAME.py, which holds one `PATCH`. The file `series` lists the names, one a
line, in the order of application; a name that is in one place only is an error.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import ClassVar

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
    """True of a tree in which `find` (an expression or statements) occurs nowhere in `within` of `file`."""

    file: str
    within: str
    find: str
    wanted: ClassVar[bool] = False

    @staticmethod
    def half_precision(file: str, within: str) -> tuple[Absent, ...]:
        """No fp16, however it is spelled."""
        return tuple(Absent(file, within, find) for find in ("torch.float16", "torch.half", "__x.half()", "'float16'"))

    @staticmethod
    def hard_coded(file: str, within: str) -> tuple[Absent, ...]:
        """No fp16 and no device, however they are spelled."""
        devices = tuple(Absent(file, within, find) for find in ("__x.cuda()", "'cuda'"))
        return (*Absent.half_precision(file, within), *devices)


@dataclass(frozen=True)
class Present(Absent):
    """True of a tree in which `find` occurs in `within` of `file`."""

    wanted: ClassVar[bool] = True


@dataclass(frozen=True)
class Import:
    """`from llava_finetune.upstream import NAMES` at the head of `within`; the patches of one function share it."""

    file: str
    within: str
    names: tuple[str, ...]


@dataclass(frozen=True)
class Patch:
    """One intention. `origin`: the thread or the measurement; `not_outside`: why no wrapper can do it.

    `proven_by`: the test, below tests/patches/, that fails without the patch. `needs`: the patches whose names or
    results this one uses. `imports`: what its code calls. `proofs`: what is true after the whole series. `drop_if`:
    `drop_when` as conditions on a tree before any patch; where it is empty, `drop_when` is for a reader to judge.
    """

    kind: Kind
    origin: str
    why: str
    not_outside: str
    drop_when: str
    edits: tuple[Edit, ...]
    proven_by: str = ""
    needs: tuple[str, ...] = ()
    imports: tuple[Import, ...] = ()
    proofs: tuple[Absent, ...] = ()
    drop_if: tuple[Absent, ...] = ()
    name: str = ""

    @property
    def files(self) -> tuple[str, ...]:
        """The files it edits, sorted."""
        return tuple(sorted({edit.file for edit in self.edits}))


def read_order(path: Path = SERIES_FILE) -> list[str]:
    """The names in the series file, comments and blank lines left out."""
    lines = (line.split("#", 1)[0].strip() for line in path.read_text(encoding="utf-8").splitlines())
    return [line for line in lines if line]


def load_series(only: Collection[Kind] = (), without: Collection[str] = ()) -> list[Patch]:
    """The patches in order: of the kinds `only` (all, when empty), less those named `without`.

    Raises SeriesError for a name without a file, a file without a name, a double name, an unknown or later need, an
    unknown name in `without`, and a choice that leaves out what a chosen patch needs.
    """
    patches = [_load(name) for name in _checked_order()]
    _check_needs(patches)
    unknown = sorted(set(without) - {patch.name for patch in patches})
    if unknown:
        close = difflib.get_close_matches(unknown[0], [patch.name for patch in patches], 1)
        hint = f" (did you mean {close[0]}?)" if close else ""
        raise SeriesError(f"--without {unknown[0]}: no such patch{hint}; all are shown by: python -m patches list")
    chosen = [patch for patch in patches if (not only or patch.kind in only) and patch.name not in without]
    _refuse_lacking(patches, chosen, only, without)
    return chosen


def _checked_order() -> list[str]:
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
    return order


def _check_needs(patches: Sequence[Patch]) -> None:
    before: set[str] = set()
    for patch in patches:
        for need in patch.needs:
            if need not in before:
                raise SeriesError(
                    f"patches/rewrites/{patch.name}.py needs `{need}`, which is no patch before it in patches/series; "
                    "correct the name, or move the line"
                )
        before.add(patch.name)


def dependents(patches: Sequence[Patch], names: Collection[str]) -> list[str]:
    """The patches that need one of `names`, directly or through others, in order."""
    lost, found = set(names), []
    for patch in patches:
        if patch.name not in lost and lost.intersection(patch.needs):
            lost.add(patch.name)
            found.append(patch.name)
    return found


def _refuse_lacking(
    patches: Sequence[Patch], chosen: Sequence[Patch], only: Collection[Kind], without: Collection[str]
) -> None:
    names = {patch.name for patch in chosen}
    lacking = [(patch, need) for patch in chosen for need in patch.needs if need not in names]
    if not lacking:
        return
    told = "; ".join(f"{patch.name} needs {need}" for patch, need in lacking)
    left_out = {patch.name for patch in patches} - names
    rest = [name for name in dependents(patches, left_out) if name in names]
    flags = [f"--only {kind.value}" for kind in only]
    flags += [f"--without {name}" for name in (*without, *rest)]
    raise SeriesError(f"{told}; leave those out too: {' '.join(flags)}")


def _load(name: str) -> Patch:
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise SeriesError(f"patches/series: `{name}` is no name; use lower case letters, digits and _")
    patch = getattr(importlib.import_module(f"patches.rewrites.{name}"), "PATCH", None)
    if not isinstance(patch, Patch):
        raise SeriesError(f"patches/rewrites/{name}.py holds no PATCH = Patch(...)")
    return Patch(**{**patch.__dict__, "name": name})


def series_hash() -> str:
    """SHA-256 of everything that decides the output: the series, its patches, the engine and the pristine sums."""
    code = ("pattern.py", "filling.py", "edits.py", "imports.py", "engine.py", "series.py")
    engine = [HERE / name for name in (*code, "pristine.sha256", "series")]
    digest = hashlib.sha256()
    for path in [*engine, *sorted(REWRITES.glob("*.py"))]:
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()
