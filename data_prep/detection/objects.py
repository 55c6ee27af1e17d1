"""What annotation tools export, in one form: pictures with named objects, each with its box or why it has none.

Sheet("a.jpg", (640, 480), [Marked("dog", Box(10, 20, 300, 400))], "instances.json image 7")
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from data_prep.boxes.box import Box, Size
from data_prep.errors import quoted
from data_prep.records.output import Reason

LABELS = ("label", "class", "name", "category", "type", "object", "object_name")
"""Attributes that hold an object's name, where --label does not say which; else an only attribute does."""


class NoBox(ValueError):
    """A shape that is no box and holds none; the message says what it is."""


class Marked(NamedTuple):
    """One object: its name, its box in pixels of the size that the export names, or else why it cannot be used."""

    label: str
    box: Box | None
    problem: str = ""
    reason: Reason = Reason.BAD_BOX


class Sheet(NamedTuple):
    """One picture of an export. `size` is what the export says, None where it says none; `are_shares`: as in YOLO.

    `where` names the place in the export for messages.
    """

    image: str
    size: Size | None
    objects: Sequence[Marked]
    where: str
    are_shares: bool = False


def numbers_of(values: Any, count: int | None = None) -> list[float]:
    """Return finite numbers; raise NoBox for another count, text that is no number, NaN and infinity."""
    if not isinstance(values, list | tuple) or (count is not None and len(values) != count):
        raise NoBox(f"expected {count or 'a list of'} numbers, found {quoted(values)}")
    try:
        numbers = [float(value) for value in values if not isinstance(value, bool)]
    except (TypeError, ValueError, OverflowError):
        raise NoBox(f"expected numbers, found {quoted(values)}") from None
    if len(numbers) != len(values) or not all(map(math.isfinite, numbers)):
        raise NoBox(f"expected finite numbers, found {quoted(values)}")
    return numbers


def size_of(width: Any, height: Any) -> Size | None:
    """Return the size that an export says of a picture, in numbers or as text; None where it says none."""
    try:
        sides = numbers_of([width, height])
    except NoBox:
        return None
    return (int(sides[0]), int(sides[1])) if min(sides) >= 1 else None


def of_sides(values: Any) -> Box:
    """Return the box of x, y, width, height; raise NoBox for what are not four numbers, or no width or height."""
    x, y, width, height = numbers_of(values, 4)
    return whole(Box(x, y, x + width, y + height))


def of_points(values: Sequence[float]) -> Box:
    """Return the box around the points x1, y1, x2, y2, ...; raise NoBox for less than two, and for a flat one."""
    across, down = values[::2], values[1::2]
    if len(across) < 2 or len(across) != len(down):
        raise NoBox(f"{len(values)} numbers are no outline")
    return whole(Box(min(across), min(down), max(across), max(down)))


def whole(box: Box) -> Box:
    """Return a box; raise NoBox where it encloses nothing."""
    if box.is_reversed:
        raise NoBox(f"no width or no height: {', '.join(f'{side:g}' for side in box)}")
    return box


def named(attributes: Any, wanted: str | None, box: Callable[[], Box]) -> Marked:
    """Return a region's object. Where its attributes name none, the problem says which there are, and the option.

    `box` makes its box, or raises NoBox.
    """
    label = _label_of(attributes, wanted)
    try:
        found = box()
    except NoBox as error:
        return Marked(label, None, str(error))
    return Marked(label, found) if label else Marked("", None, _nameless(attributes, wanted), Reason.NO_LABEL)


def _nameless(attributes: Any, wanted: str | None) -> str:
    names = [str(name) for name in attributes] if isinstance(attributes, dict) else []
    there = ", ".join(names[:6])
    if wanted is None and len(names) > 1 and not set(LABELS) & set(names):
        return f"several attributes ({there}); say which holds an object's name: --label {names[0]}"
    if wanted is not None and names and wanted not in names:
        return f"no attribute {quoted(wanted, 40)}, only {there}; say which holds an object's name: --label {names[0]}"
    return "a box without a name"


def _label_of(attributes: Any, wanted: str | None) -> str:
    """Return the name in a region's attributes: a text, a chosen option, or several ticked ones; "" for none."""
    if not isinstance(attributes, dict):
        return attributes.strip() if isinstance(attributes, str) else ""
    names = [wanted] if wanted else [name for name in LABELS if name in attributes]
    if not names and len(attributes) == 1:
        names = list(attributes)
    value = attributes.get(names[0]) if names else None
    if isinstance(value, Mapping):
        return " and ".join(str(name) for name, ticked in value.items() if ticked)
    return text_of(value)


def text_of(name: Any) -> str:
    """Return a name that is a text or a number as text; "" for anything else.

    >>> text_of(7)
    '7'
    """
    return str(name).strip() if isinstance(name, str | int | float) else ""
