"""Boxes as models write them: found in a text, and written.

    read_boxes("a dog [0.12, 0.34, 0.56, 0.78]").boxes[0].numbers       # Box(0.12, 0.34, 0.56, 0.78)

Read are `[x1, y1, x2, y2]` (LLaVA, Qwen2.5-VL's "bbox_2d"), `(x1,y1),(x2,y2)`, `<box>...</box>` (Qwen-VL, InternVL,
MiniCPM-V) and `<|box_start|>...<|box_end|>` (Qwen2-VL), with integers or decimals. Which scale the numbers have is
another question: see `told`.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum

from data_prep.boxes.box import Box
from data_prep.boxes.scale import Scale

_NUMBER = r"([-+]?(?:\d{1,9}(?:\.\d{1,17})?|\.\d{1,17}))"
_N = rf"\s*{_NUMBER}\s*"
_FOUR = ",".join([_N] * 4)
# White space is matched in one way only: in two, a gap of thousands of blanks takes minutes.
_BARE = r"(?:\s*,\s*|\s+)".join([_NUMBER] * 4)
CORES = re.compile(rf"\[{_FOUR}\]|\({_FOUR}\)|\({_N},{_N}\)\s*(?:,\s*)?\({_N},{_N}\)|(?<=<box>)\s*{_BARE}\s*(?=</box>)")
"""Four numbers in brackets or parentheses, as two points, or bare between <box> and </box>."""

MARKED = re.compile(
    r"<\|box_start\|>(?:(?!<\|box_start\|>).){0,2000}?(?:<\|box_end\|>|(?=<\|box_start\|>)|$)"
    r"|<box>(?:(?!<box>).){0,2000}?(?:</box>|(?=<box>)|$)",
    re.DOTALL,
)
"""A mark that is opened again before it is closed ends there: time grows with the text, not with its square."""

KEYED = re.compile(r"[\"']?(?:bbox(?:_2d)?|bounding_box|box_2d)[\"']?\s*[:=]\s*(\[[^\[\]]{0,200}\])", re.IGNORECASE)
SHARES = re.compile(r"\[\s*(?:[01]?\.\d{1,17}\s*,\s*){2,5}[01]?\.\d{1,17}\s*\]")
"""Lists of shares: those of another length than four are boxes that lost or gained a number."""


class Marks(Enum):
    """What stands around the numbers: nothing, <box> tags, or Qwen2-VL's tokens."""

    NONE = "none"
    TAGS = "box"
    QWEN = "qwen"


@dataclass(frozen=True)
class Written:
    """A box as it stands in a text: from `start` to `end` with its marks, its four numbers, how they are written."""

    start: int
    end: int
    numbers: Box
    marks: Marks
    is_points: bool
    decimals: int
    text: str

    @property
    def has_decimals(self) -> bool:
        return self.decimals > 0


@dataclass(frozen=True)
class Reading:
    """The boxes of one text, and what looks like a box and is none, as it stands there."""

    boxes: tuple[Written, ...]
    unread: tuple[str, ...]


NOTHING = Reading((), ())


def read_boxes(text: str) -> Reading:
    """Return the boxes of a text in their order, and what could not be read as one."""
    if "[" not in text and "(" not in text and "<box" not in text and "<|box" not in text:
        return NOTHING
    regions = list(MARKED.finditer(text))
    cores = list(CORES.finditer(text))
    starts = [core.start() for core in cores]
    held = [bisect_left(starts, one.end()) - bisect_left(starts, one.start()) for one in regions]
    boxes = tuple(_written(core, regions, held) for core in cores)
    suspects = [*regions, *KEYED.finditer(text), *SHARES.finditer(text)]
    unread = dict.fromkeys(found.group()[:80] for found in suspects if not _overlaps(found, boxes))
    return Reading(boxes, tuple(unread))


def _overlaps(found: re.Match[str], boxes: Sequence[Written]) -> bool:
    after = bisect_left(boxes, found.end(), key=lambda box: box.start)  # boxes stand in order, and apart
    return after > 0 and boxes[after - 1].end > found.start()


def _written(core: re.Match[str], regions: Sequence[re.Match[str]], held: Sequence[int]) -> Written:
    """Return the box of a core; marks that hold it alone belong to it, those of several stay where they are.

    `held` is how many cores each of the regions holds.
    """
    numbers = [number for number in core.groups() if number is not None]
    place = bisect_right(regions, core.start(), key=lambda one: one.start()) - 1
    region = regions[place] if place >= 0 and core.start() < regions[place].end() else None
    whole = region if region and held[place] == 1 and region.group().endswith(("</box>", "<|box_end|>")) else core
    marks = Marks.NONE if region is None else Marks.QWEN if region.group().startswith("<|") else Marks.TAGS
    return Written(
        whole.start(),
        whole.end(),
        Box(*map(float, numbers)),
        marks,
        core.group().count("(") == 2,
        max(len(number.partition(".")[2]) for number in numbers),
        whole.group(),
    )


def box_text(numbers: Box, scale: Scale, marks: Marks = Marks.NONE, decimals: int = 3, points: bool = False) -> str:
    """Return numbers of `scale` as text: shares with `decimals`, others whole; marked boxes as two points.

    >>> box_text(Box(0.125, 0.25, 0.5, 1), Scale.NORMALISED)
    '[0.125, 0.250, 0.500, 1.000]'
    """
    left, top, right, bottom = (f"{side + 0.0:.{decimals if scale.most == 1 else 0}f}" for side in numbers)
    if marks is Marks.NONE and not points:
        return f"[{left}, {top}, {right}, {bottom}]"
    inner = f"({left},{top}),({right},{bottom})"
    around = {Marks.NONE: ("", ""), Marks.TAGS: ("<box>", "</box>"), Marks.QWEN: ("<|box_start|>", "<|box_end|>")}
    return inner.join(around[marks])


def replaced(text: str, reading: Reading, write: Callable[[Written], str]) -> str:
    """Return the text with each of its boxes replaced by what `write` makes of it."""
    pieces, place = [], 0
    for box in reading.boxes:
        pieces += [text[place : box.start], write(box)]
        place = box.end
    return "".join([*pieces, text[place:]])
