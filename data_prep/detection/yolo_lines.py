"""What a line of YOLO's labels says behind its class: a box, an outline, or a box and the key points of a pose.

The numbers are alike. A data.yaml with `kpt_shape` says which they are; else an odd count, or a visibility of 0, 1 or 2
behind every point, tells key points, and lines of different lengths or points beyond "their box" tell outlines:

    told = tell([[0.5, 0.5, 0.2, 0.4, 0.45, 0.6, 2.0]], None)      # Lines.KEY_POINTS
    box_of([0.5, 0.5, 0.2, 0.4, 0.45, 0.6, 2.0], told, None)       # Box(0.4, 0.3, 0.6, 0.7)
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import Enum

from data_prep.boxes.box import Box
from data_prep.detection.objects import NoBox, of_points, whole

BOX = (4, 5)
"""Numbers of a box: middle and sides, and a confidence."""
SLACK = 0.01
MANY = 0.9
"""The share of lines that can be a box with key points from which on outlines are not sure."""
SURE = 4
"""Visibilities from which on 0 and 1 at every third place are no accident."""

KeyPoints = tuple[int, int]
"""`kpt_shape`: how many key points, and numbers of each: 2, or 3 with its visibility."""


class Lines(Enum):
    """What lines with more numbers than a box's are."""

    OUTLINES = "outlines"
    KEY_POINTS = "key-points"


class NotTold(ValueError):
    """Lines that can be outlines as well as boxes with key points; the message says why."""


def words_of(line: str) -> list[str]:
    """Return the words of a line, which stand between blanks, commas or semicolons; 0,5 may be a half."""
    line = line.strip(" \t,;")
    words = line.split()
    mark = ";" if ";" in line else ","
    return line.split(mark) if all(word.endswith(mark) for word in words[:-1]) else words


def tell(lines: Iterable[Sequence[float]], shape: KeyPoints | None) -> Lines:
    """Return what the lines of a data set are; raise NotTold where nothing decides it."""
    if shape is not None:
        return Lines.KEY_POINTS
    found: dict[Lines | None, int] = {None: 0, Lines.OUTLINES: 0, Lines.KEY_POINTS: 0}
    lengths = set()
    for numbers in lines:
        if len(numbers) > max(BOX) and (len(numbers) % 2 == 0 or _has_visibilities(numbers)):
            found[_kind(numbers)] += 1
            lengths.add(len(numbers))
    outlines, poses, either = found[Lines.OUTLINES], found[Lines.KEY_POINTS], found[None]
    if poses:
        return Lines.KEY_POINTS if poses >= outlines else Lines.OUTLINES
    if len(lengths) == 1 and either >= MANY * (either + outlines):
        length = lengths.pop()
        raise NotTold(
            f"{either} lines of {length} numbers can be outlines of {length // 2} points, or a box and "
            f"{(length - 4) // 2} key points"
        )
    return Lines.OUTLINES


def box_of(numbers: Sequence[float], lines: Lines, shape: KeyPoints | None) -> Box:
    """Return a line's box: its own, or what spans an outline's points; raise NoBox where it has none."""
    if len(numbers) not in BOX and lines is Lines.OUTLINES:
        return of_points(numbers)
    if shape is not None and len(numbers) not in BOX:
        wanted = 4 + shape[0] * shape[1]
        if len(numbers) - wanted not in (0, 1):  # the last may be a confidence
            raise NoBox(f"{len(numbers)} numbers behind the class; kpt_shape {[*shape]} means {wanted}")
    if len(numbers) < min(BOX):
        raise NoBox(f"{len(numbers)} numbers are no box")
    x, y, width, height = numbers[:4]
    return whole(Box(x - width / 2, y - height / 2, x + width / 2, y + height / 2))


def _kind(numbers: Sequence[float]) -> Lines | None:
    """Return what one line can only be; None where it can be both."""
    if _has_visibilities(numbers):
        visible = numbers[6::3]
        # No outline has an odd count, or a coordinate of 2.
        if len(numbers) % 2 or 2 in visible or len(visible) >= SURE:
            return Lines.KEY_POINTS
    points = zip(numbers[4::2], numbers[5::2], strict=True)
    return None if _holds(numbers, [point for point in points if any(point)]) else Lines.OUTLINES


def _has_visibilities(numbers: Sequence[float]) -> bool:
    return (len(numbers) - 4) % 3 == 0 and all(number in (0, 1, 2) for number in numbers[6::3])


def _holds(numbers: Sequence[float], points: Iterable[tuple[float, float]]) -> bool:
    """Say whether the first four numbers are a box inside the picture that holds the points."""
    x, y, width, height = numbers[:4]
    sides = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
    if min(sides) < -SLACK or max(sides) > 1 + SLACK:
        return False
    left, top, right, bottom = sides
    return all(
        left - SLACK <= across <= right + SLACK and top - SLACK <= down <= bottom + SLACK for across, down in points
    )
