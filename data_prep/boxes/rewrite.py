"""Boxes of a text moved along with its picture: the same notation, scale and digits, other numbers.

moved_text("[0.10, 0.20, 0.50, 0.90]", (200, 100), (200, 100), [Scale.NORMALISED], lambda box: box.shifted(20, 0))
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from data_prep.boxes.box import Box, Size
from data_prep.boxes.notation import Marks, Written, box_text, read_boxes, replaced
from data_prep.boxes.scale import Scale
from data_prep.boxes.told import said_scale, scale_of


def scales_of(record: Mapping[str, Any], texts: list[str]) -> list[list[Scale]] | None:
    """Return the scale of each box of each text; None where one has no certain scale, or cannot be read."""
    said, found = said_scale(record), []
    for text in texts:
        reading = read_boxes(text)
        scales = [scale_of(box, said, None) for box in reading.boxes]
        known = [scale for scale in scales if scale is not None]
        if reading.unread or len(known) < len(scales) or any(box.numbers.is_reversed for box in reading.boxes):
            return None
        found.append(known)
    return found


def boxes_of_text(text: str, scales: list[Scale], size: Size) -> list[Box]:
    """Return the boxes of a text in pixels of its picture of `size`."""
    boxes = read_boxes(text).boxes
    return [scale.to_pixels(box.numbers, size) for box, scale in zip(boxes, scales, strict=True)]


def moved_text(text: str, before: Size, after: Size, scales: list[Scale], move: Callable[[Box], Box]) -> str:
    """Return a text whose boxes are moved, from a picture of size `before` to one of size `after`."""
    pending = iter(scales)

    def write(box: Written) -> str:
        scale = next(pending)
        moved = move(scale.to_pixels(box.numbers, before)).clipped(after)
        whole = box.text.startswith("<") or box.marks is Marks.NONE
        marks = box.marks if whole else Marks.NONE
        return box_text(scale.of_pixels(moved, after), scale, marks, box.decimals, box.is_points)

    return replaced(text, read_boxes(text), write)
