"""Boxes in texts that teach no place, or a wrong one: not readable, reversed, outside the picture, on several scales.

box_findings(report, [Boxed(place, ...)], {"a.jpg": Facts(...)})
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from data_prep.boxes.box import Box, Size
from data_prep.boxes.notation import Reading, Written, read_boxes
from data_prep.boxes.scale import Scale
from data_prep.boxes.told import FEW, Seen, said_scale, scale_of, tell
from data_prep.check.inspect import Facts
from data_prep.check.report import Example, Report


class Boxed(NamedTuple):
    """The boxes of one record: where it stands (with its picture), what was read, the scale that it names."""

    place: Example
    reading: Reading
    said: Scale | None
    has_one_picture: bool


def boxes_of(record: Mapping[str, Any]) -> tuple[Reading, Scale | None, bool] | None:
    """Return the last three of a `Boxed` for a record, or None for one without boxes."""
    turns = record.get("conversations")
    texts = [turn.get("value") for turn in turns if isinstance(turn, dict)] if isinstance(turns, list) else []
    readings = [read_boxes(text) for text in texts if isinstance(text, str)]
    found = [reading for reading in readings if reading.boxes or reading.unread]
    if not found:
        return None
    boxes = tuple(box for reading in found for box in reading.boxes)
    unread = tuple(text for reading in found for text in reading.unread)
    return Reading(boxes, unread), said_scale(record), isinstance(record.get("image"), str)


def box_findings(report: Report, boxed: Sequence[Boxed], facts: Mapping[str, Facts]) -> None:
    """Add what is wrong with the boxes of a file; without pictures only what needs no picture's size."""
    sizes = {id(one): _size(one, facts) for one in boxed}
    plain = [
        Seen(box, sizes[id(one)]) for one in boxed for box in one.reading.boxes if scale_of(box, one.said, None) is None
    ]
    told = tell(plain)
    whole = told.scale if told.scale is not Scale.THOUSAND or len(plain) >= FEW else None
    scales: dict[Scale, Boxed] = {}
    for one in boxed:
        for kind, detail in _faults(one, sizes[id(one)], whole):
            report.add(kind, replace(one.place, detail=detail))
        for box in one.reading.boxes:
            scales.setdefault(scale_of(box, one.said, whole) or Scale.PIXELS, one)
    if len(scales) > 1:
        named = ", ".join(f'{scale.value} as in record "{one.place.record}"' for scale, one in scales.items())
        report.add("boxes on several scales", replace(list(scales.values())[1].place, detail=named))


def _size(one: Boxed, facts: Mapping[str, Facts]) -> Size | None:
    name = one.place.image
    found = facts.get(name) if name and one.has_one_picture else None
    return (found.width, found.height) if found and found.width else None


def _faults(one: Boxed, size: Size | None, whole: Scale | None) -> Iterator[tuple[str, str]]:
    yield from (("box not readable", text) for text in one.reading.unread)
    for box in one.reading.boxes:
        if box.numbers.is_reversed:
            yield "box reversed", box.text + _as_xywh(box, size)
        elif detail := _outside(box, size, scale_of(box, one.said, whole)):
            yield "box outside the picture", f"{box.text} {detail}"


def _as_xywh(box: Written, size: Size | None) -> str:
    x, y, width, height = box.numbers
    fits = size is not None and min(width, height) > 0 and Box(x, y, x + width, y + height).excess(size) <= 1
    return "; as x, y, width, height it fits" if fits else ""


def _outside(box: Written, size: Size | None, scale: Scale | None) -> str | None:
    """Return how a box reaches out of its picture, or None; whole numbers of an unknown scale are taken as pixels."""
    if scale is not None and scale.most is not None:
        beyond = box.numbers.excess((scale.most, scale.most)) > scale.unit
        return f"reaches beyond 0 to {scale.most:g}" if beyond else None
    if size is None or box.numbers.excess(size) <= 1:
        return None
    fits = scale is None and max(box.numbers) <= 1000 and min(box.numbers) >= 0
    return f"as pixels; the picture has {size[0]} x {size[1]}{'; as thousandths it fits' if fits else ''}"
