"""The folder that is meant where pictures are not in the one given: a level too high or too low, or another spelling.

folder_with("data", ["a.jpg", "b.jpg"])      # Path("data/photos"), where both lie there
spelled_alike("data/photo")                  # Path("data/photos"), where none is nearer
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from shlex import quote

NUM_TRIED = 20
"""Names that are looked for in each folder."""
NUM_FOLDERS = 300
"""Folders that are looked into at most."""
DEPTH = 3

Name = str | os.PathLike[str]


def folder_with(folder: Name, missing: Iterable[str]) -> Path | None:
    """Return the folder near `folder` that has at least half of the `missing` names; None where none or two have."""
    names = [name for name in islice(dict.fromkeys(missing), NUM_TRIED) if _is_below(name)]
    if not names:
        return None
    found = [
        place for place in islice(_around(Path(folder)), NUM_FOLDERS) if _num_there(place, names) * 2 >= len(names)
    ]
    return found[0] if len(found) == 1 else None


def spelled_alike(folder: Name) -> Path | None:
    """Return the folder beside a missing `folder` whose name is nearly the same, in whatever case; None for none."""
    path = Path(folder)
    try:
        beside = {one.name.casefold(): one for one in path.parent.iterdir() if one.is_dir()}
    except OSError:
        return None
    near = difflib.get_close_matches(path.name.casefold(), beside, 1, 0.7)
    return beside[near[0]] if near else None


def meant(folder: Name, otherwise: str) -> str:
    """Return the advice about a folder that is missing: the one that is spelled alike, else `otherwise`."""
    near = spelled_alike(folder)
    return f"did you mean {near}?" if near else otherwise


def images_flag(folder: Path) -> str:
    """Return a folder that has the pictures, and the flag that names it, as a shell takes it."""
    return f"{folder}: --images {quote(str(folder))}"


def _is_below(name: str) -> bool:
    return not os.path.isabs(name) and ".." not in Path(name).parts and "\0" not in name  # noqa: PTH117


def _num_there(folder: Path, names: list[str]) -> int:
    return sum(os.path.isfile(folder / name) for name in names)  # noqa: PTH113


def _around(folder: Path) -> Iterator[Path]:
    """Yield the folders below `folder`, level by level, then the one above it, then those beside it."""
    level = [folder]
    for _ in range(DEPTH):
        level = [below for one in level for below in _folders_in(one)]
        yield from level
    above = folder.absolute().parent
    yield above
    yield from (beside for beside in _folders_in(above) if beside.name != folder.absolute().name)


def _folders_in(folder: Path) -> list[Path]:
    try:
        inside = [Path(one.path) for one in os.scandir(folder) if one.is_dir() and not one.name.startswith(".")]
    except OSError:
        return []
    return sorted(inside)[:NUM_FOLDERS]
