"""Which scale the boxes of a file have, by what is there: decimals, marks, numbers beyond 1000 or beyond the picture.

    told = tell([Seen(written, (640, 480)), ...])       # Told(Scale.THOUSAND, "3 of 12 boxes reach beyond ...")

Whole numbers up to 1000 that fit into every picture can be pixels or thousandths; then nothing is guessed. A record
that was written here says its scale under the key `box_scale`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from data_prep.boxes.box import Size
from data_prep.boxes.notation import Marks, Written
from data_prep.boxes.scale import Scale

KEY = "box_scale"
FEW = 20
"""From so many boxes on it is no accident that all of them stay inside small pictures."""

SMALL = 800
"""Pixels of a side: boxes in thousandths of a picture that small reach beyond it, as pixels, more often than not."""

MANY, ODD = 0.3, 0.1
"""The share of boxes that speaks against a scale, and the share that may be mistakes."""

SLACK = 1.0


class Seen(NamedTuple):
    """A box as written, and the size of its upright picture where it is known."""

    box: Written
    size: Size | None


class Told(NamedTuple):
    """The scale of the boxes that are written in whole numbers, or None with why it cannot be told."""

    scale: Scale | None
    why: str


def has_shares(box: Written) -> bool:
    """Return whether the numbers are shares from 0 to 1, or meant as such: decimals of which none is beyond 2."""
    return max(box.numbers) <= (2 if box.has_decimals else 1)


def said_scale(record: Mapping[str, Any]) -> Scale | None:
    """Return the scale that a record names itself; None where it names none, or one that is not known."""
    return next((scale for scale in Scale if scale.value == record.get(KEY)), None)


def scale_of(box: Written, said: Scale | None, whole: Scale | None) -> Scale | None:
    """Return the scale of one box: what its record says, shares by their look, `whole` for whole numbers."""
    if said is not None:
        return said
    if has_shares(box):
        return Scale.NORMALISED
    return Scale.THOUSAND if box.marks is not Marks.NONE and max(box.numbers) <= 1000 else whole


def tell(seen: Iterable[Seen]) -> Told:
    """Return the scale of the boxes in whole numbers without marks; shares and marked ones speak for themselves."""
    plain = [one for one in seen if scale_of(one.box, None, None) is None]
    if not plain:
        return Told(None, "no box in whole numbers without marks")
    count = len(plain)
    large = sum(max(one.box.numbers) > 1000 + SLACK for one in plain)
    beyond = sum(one.size is not None and one.box.numbers.excess(one.size) > SLACK for one in plain)
    if large > beyond and beyond <= ODD * count:
        return Told(Scale.PIXELS, f"{large} of {count} boxes have numbers beyond 1000")
    if beyond >= MANY * count and large <= ODD * count:
        return Told(Scale.THOUSAND, f"{beyond} of {count} boxes reach beyond their picture as pixels")
    small = sum(one.size is not None and min(one.size) <= SMALL for one in plain)
    if not large and beyond <= ODD * count and small >= max(FEW, count / 2):
        return Told(Scale.PIXELS, f"{count - beyond} of {count} boxes lie inside their pictures as pixels")
    if beyond or large:
        problem = (
            f"{beyond} of {count} boxes in whole numbers reach beyond their picture as pixels, {large} beyond 1000"
        )
        return Told(None, problem)
    return Told(None, f"all {count} boxes in whole numbers can be pixels, or thousandths of the picture")
