"""The size of a picture as it stands upright, read from its header, each picture once.

sizes = Sizes(Path("images")); sizes.upright("a.jpg")      # (480, 640) of a photo stored as 640 x 480, turned
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from data_prep.boxes.box import Size
from data_prep.errors import DataError, PictureError, printable
from data_prep.records.picture import resolve_image, stored_size
from data_prep.records.record import images_of


class PictureSize(NamedTuple):
    """The stored pixels' width and height, and the EXIF orientation that turns them upright."""

    stored: Size
    orientation: int = 1

    @property
    def upright(self) -> Size:
        return (self.stored[1], self.stored[0]) if self.orientation >= 5 else self.stored


class Sizes:
    """Sizes of the pictures of one folder by name; what cannot be read is None, and `problems` says why."""

    def __init__(self, folder: Path) -> None:
        """Keep the folder; nothing is read yet."""
        self.folder = folder
        self.problems: dict[str, str] = {}
        self._known: dict[str, PictureSize | None] = {}

    def of(self, name: str) -> PictureSize | None:
        """Return the size of picture `name`, or None where it cannot be read."""
        if name not in self._known:
            try:
                self._known[name] = PictureSize(*stored_size(resolve_image(self.folder, name)))
            except PictureError as error:
                self._known[name], self.problems[name] = None, error.problem
        return self._known[name]

    def of_record(self, record: Mapping[str, Any]) -> PictureSize | None:
        """Return the size of a record's picture; None where it has none, several, or one that cannot be read."""
        return self.of(names[0]) if len(names := images_of(record)) == 1 else None

    def why_none(self, record: Mapping[str, Any]) -> str:
        """Return why `of_record` gave None."""
        try:
            names = images_of(record)
        except DataError as error:
            return error.problem
        if len(names) != 1:
            return f"{len(names)} pictures, and a box does not say which it is of" if names else "no picture"
        return f"{printable(names[0])}: {self.problems.get(names[0], 'no size')}"
