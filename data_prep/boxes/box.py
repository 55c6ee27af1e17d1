"""A box in a picture, in pixels of the upright picture, and what turning or cutting the picture makes of it.

Coordinates are edges, not pixels: the box of the whole picture of 640 x 480 is Box(0, 0, 640, 480), as COCO counts.

    >>> Box(0, 0, 10, 10).iou(Box(0, 0, 10, 20))
    0.5
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

Size = tuple[int, int]
"""Width and height."""

UNDONE = {6: 8, 8: 6}
"""The EXIF orientation that undoes another; the other six undo themselves."""


class Box(NamedTuple):
    """Left, top, right and bottom edge. It is reversed where right is not beyond left, or bottom not below top."""

    left: float
    top: float
    right: float
    bottom: float

    @property
    def is_reversed(self) -> bool:
        return self.right <= self.left or self.bottom <= self.top

    @property
    def area(self) -> float:
        return 0.0 if self.is_reversed else (self.right - self.left) * (self.bottom - self.top)

    def scaled(self, across: float, down: float) -> Box:
        """Return the box with its horizontal edges times `across` and its vertical ones times `down`."""
        return Box(self.left * across, self.top * down, self.right * across, self.bottom * down)

    def shifted(self, across: float, down: float) -> Box:
        """Return the box moved to the right and down."""
        return Box(self.left + across, self.top + down, self.right + across, self.bottom + down)

    def clipped(self, size: tuple[float, float]) -> Box:
        """Return what of the box lies in a picture of `size` (width, height); reversed where nothing does."""
        width, height = size
        left, right = (min(max(edge, 0.0), width) for edge in (self.left, self.right))
        top, bottom = (min(max(edge, 0.0), height) for edge in (self.top, self.bottom))
        return Box(left, top, right, bottom)

    def iou(self, other: Box) -> float:
        """Return the intersection over the union of two boxes; 0 for a reversed one."""
        shared = Box(
            max(self.left, other.left),
            max(self.top, other.top),
            min(self.right, other.right),
            min(self.bottom, other.bottom),
        ).area
        together = self.area + other.area - shared
        return shared / together if together > 0 and self.area and other.area else 0.0

    def excess(self, size: tuple[float, float]) -> float:
        """Return how far the box reaches out of a picture of `size`, at the edge where it is most; 0 for inside."""
        width, height = size
        return max(-self.left, -self.top, self.right - width, self.bottom - height, 0.0)


def turned(box: Box, size: Size, orientation: int) -> Box:
    """Return a box of the stored pixels (`size`) as it lies when the picture stands upright, by EXIF `orientation`."""
    width, height = size
    left, top, right, bottom = box
    across, down = (width - right, width - left), (height - bottom, height - top)
    edges = {
        2: (across[0], top, across[1], bottom),
        3: (across[0], down[0], across[1], down[1]),
        4: (left, down[0], right, down[1]),
        5: (top, left, bottom, right),
        6: (down[0], left, down[1], right),
        7: (down[0], across[0], down[1], across[1]),
        8: (top, across[0], bottom, across[1]),
    }
    return Box(*edges.get(orientation, tuple(box)))


def turned_back(box: Box, size: Size, orientation: int) -> Box:
    """Return a box of the upright picture (`size`: upright) as it lies in the stored pixels."""
    return turned(box, size, UNDONE.get(orientation, orientation))


def matched(wanted: Sequence[Box], found: Sequence[Box]) -> list[float]:
    """Return the IoU of each box of `wanted` with its partner in `found`, best pairs first; 0 for one without."""
    pairs = sorted((-one.iou(other), i, j) for i, one in enumerate(wanted) for j, other in enumerate(found))
    ious, taken = [0.0] * len(wanted), set[int]()
    for iou, i, j in pairs:
        if iou < 0 and not ious[i] and j not in taken:
            ious[i] = -iou
            taken.add(j)
    return ious
