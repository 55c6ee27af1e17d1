"""Boxes drawn over a picture of a page: an SVG that lies on the <img> and scales with it.

overlay((640, 480), [(Box(10, 20, 300, 400), "reference"), (Box(12, 18, 280, 390), "answer")])
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from data_prep.boxes.box import Box, Size
from data_prep.boxes.notation import read_boxes
from data_prep.boxes.told import Seen, said_scale, scale_of, tell

STROKES = {"reference": ("#12a150", "none"), "answer": ("#e5484d", "6 4")}
"""The colour of each kind of box, and its dashes, so that they differ without colours too."""


def overlay(size: tuple[float, float], boxes: Iterable[tuple[Box, str]]) -> str:
    """Return an SVG of a picture's `size` with the boxes, each of one of the kinds of STROKES; empty without any."""
    drawn = "".join(_rectangle(box, kind) for box, kind in boxes)
    if not drawn:
        return ""
    width, height = size
    return (
        f'<svg class="boxes" viewBox="0 0 {width:g} {height:g}" preserveAspectRatio="xMidYMid meet" '
        f'aria-hidden="true">{drawn}</svg>'
    )


def _rectangle(box: Box, kind: str) -> str:
    colour, dashes = STROKES[kind]
    place = (
        f'x="{box.left:.2f}" y="{box.top:.2f}" width="{box.right - box.left:.2f}" height="{box.bottom - box.top:.2f}"'
    )
    line = f'fill="none" vector-effect="non-scaling-stroke" stroke-dasharray="{dashes}"'
    white = f'<rect {place} {line} stroke="#fff" stroke-width="4" stroke-opacity=".75"/>'
    return f'{white}<rect class="{html.escape(kind)}" {place} {line} stroke="{colour}" stroke-width="2"/>'


def boxes_in_pixels(texts: Sequence[str], size: Size, record: Mapping[str, Any]) -> list[list[Box]]:
    """Return, for each text about one picture, its boxes in pixels of that picture.

    Whole numbers of which nothing tells the scale are pixels where all of them fit into the picture, else thousandths.
    """
    readings = [read_boxes(text).boxes for text in texts]
    told = tell(Seen(box, size) for reading in readings for box in reading).scale
    said = said_scale(record)
    drawn = []
    for reading in readings:
        scaled = [(scale_of(box, said, told), box.numbers) for box in reading]
        drawn.append([scale.to_pixels(numbers, size) if scale else numbers for scale, numbers in scaled])
    return [[box for box in boxes if not box.is_reversed] for boxes in drawn]
