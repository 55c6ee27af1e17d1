"""Exports of a file for each picture: the files below a folder, and the picture that each is about.

list(files_below(Path("labels"), (".txt",)))
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from data_prep.converters.options import picture_problem
from data_prep.errors import DataError
from data_prep.records.foreign import ENDINGS


def files_below(source: Path, endings: Sequence[str]) -> Iterator[Path]:
    """Yield `source`, or the files below it that have one of the endings, sorted; hidden ones are left out.

    Raises DataError where there is no such file or folder, and for a folder without such files.
    """
    if source.is_file():
        yield source
        return
    if not source.is_dir():
        raise DataError(source, "no such file or folder")
    found = False
    for folder, folders, names in os.walk(source, onerror=_refuse):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if name.lower().endswith(tuple(endings)) and not name.startswith("."):
                found = True
                yield Path(folder, name)
    if not found:
        raise DataError(source, f"no {' or '.join(endings)} file in it or below it")


def _refuse(error: OSError) -> None:
    raise DataError(error.filename, f"cannot be read ({error.strerror}); its files would be missing")


def picture_of_stem(folder: Path, stems: Sequence[str]) -> str | None:
    """Return the picture in `folder` that has one of the names without ending, with any ending of a picture."""
    for stem in stems:
        for ending in ENDINGS:
            for name in (f"{stem}{ending}", f"{stem}{ending.upper()}"):
                if picture_problem(folder, name) is None:
                    return name
    return None


def stems_of(label: PurePosixPath) -> list[str]:
    """Return where the picture of a label file may lie: `labels/train/a.txt` has images/train/a, train/a, or a."""
    parts = label.with_suffix("").parts
    places = [place for place, part in enumerate(parts[:-1]) if part == "labels"]
    swapped = [[*parts[:place], "images", *parts[place + 1 :]] for place in reversed(places)]
    whole = [*swapped, list(parts)]
    return list(dict.fromkeys("/".join(steps[place:]) for steps in whole for place in range(len(steps))))
