"""Captions in a text file beside each picture: `a.jpg` and `a.txt`, as trainers of picture generators write them.

for place, row in rows_beside(Path("photos"), None): ...     # ("a.jpg", {"image": "a.jpg", "caption": "a dog"})
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data_prep.converters.encodings import encoding_of
from data_prep.converters.folder import pictures_below
from data_prep.errors import DataError

CAPTION_ENDINGS = (".txt", ".caption")


def text_beside(picture: Path) -> Path | None:
    """Return the file with the text of a picture: a.txt of a.jpg, or a.jpg.txt; None where there is none."""
    names = [
        name for end in CAPTION_ENDINGS for name in (picture.with_suffix(end), picture.with_name(picture.name + end))
    ]
    return next((name for name in names if name.is_file()), None)


def rows_beside(folder: Path, encoding: str | None, option: str = "--encoding") -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (place, row) for each picture of a folder, its caption empty where no text lies beside it.

    Raises DataError where no picture has one.
    """
    names = pictures_below(folder)
    if not any(text_beside(folder / name) for name in names):
        advice = "give a table of captions, or, where folders are the labels: python -m data_prep hf"
        raise DataError(folder, f"no text beside its pictures (a.txt beside a.jpg); {advice} {folder}")
    for name in names:
        path = text_beside(folder / name)
        text = path.read_text(encoding=encoding_of(path, encoding, option)).strip() if path else ""
        yield name, {"image": name, "caption": text}
