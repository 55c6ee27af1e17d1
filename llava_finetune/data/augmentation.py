"""Pictures varied from epoch to epoch, as far as every answer stays true: cut, mirrored, lit and coloured otherwise.

What a record's words would make false is left out for that record: no mirroring where a side or a writing is named, no
other colours where a colour is named, no cutting where things are counted. Boxes are moved along; where their scale is
not certain nothing moves. What is drawn depends on seed, epoch and record alone, so a resumed run sees the same.

    varied = Augmentation(frozenset(KINDS), seed=42).varied(record, [image], index=7, epoch=0)
    varied.record, varied.images, varied.done       # ("mirrored", "light x 1.12")
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from PIL import Image, ImageEnhance

from data_prep.boxes.box import Box, Size
from data_prep.boxes.rewrite import boxes_of_text, moved_text, scales_of
from data_prep.boxes.scale import Scale
from llava_finetune.config.augmenting import KINDS
from llava_finetune.data.allowed_changes import allowed

CUT = 0.12
"""The largest share of a side that is cut off at each edge of a picture without boxes."""

CUT_AROUND_BOXES = 0.35
MARGIN = 0.02
LEAST_SIDE = 32
"""Pixels that a side keeps; smaller pictures are not cut."""

CHANCES: Mapping[str, float] = {"crop": 0.5, "flip": 0.5, "light": 0.8, "colour": 0.5}


@dataclass(frozen=True)
class Varied:
    """A record as it is taught this time: its texts, its pictures, and in words what was done."""

    record: Mapping[str, Any]
    images: list[Image.Image]
    done: tuple[str, ...]


@dataclass(frozen=True)
class Augmentation:
    """Which kinds of change a run wants, and the seed that decides where and how strongly they come."""

    kinds: frozenset[str]
    seed: int

    def varied(self, record: Mapping[str, Any], images: list[Image.Image], index: int, epoch: int) -> Varied:
        """Return the record `index` as epoch `epoch` teaches it; what may not be changed is as it was."""
        draw = random.Random(f"{self.seed} {epoch} {index}")
        chances = {kind: draw.random() for kind in KINDS}  # each kind's luck is its own, whatever others are allowed
        wanted = {kind for kind in self.kinds & allowed(record) if chances[kind] < CHANCES[kind]}
        done: list[str] = []
        if len(images) == 1 and wanted & {"crop", "flip"}:
            record, images = _moved(record, images[0], wanted, draw, done)
        for kind, change in (("light", _lit), ("colour", _coloured)):
            if kind in wanted and images:
                strengths = draw.uniform(-1, 1), draw.uniform(-1, 1)
                images = [change(image, *strengths) for image in images]
                done.append(f"{kind} {strengths[0]:+.2f} {strengths[1]:+.2f}")
        return Varied(record, images, tuple(done))

    def reach(self, records: Iterable[Mapping[str, Any]]) -> Counter[str]:
        """Return how many records each kind may change."""
        return Counter(kind for record in records for kind in self.kinds & allowed(record))


def _moved(
    record: Mapping[str, Any], image: Image.Image, wanted: set[str], draw: random.Random, done: list[str]
) -> tuple[Mapping[str, Any], list[Image.Image]]:
    """Cut and mirror a picture, and move the boxes of its record along."""
    turns = record["conversations"]
    texts = [str(turn["value"]) for turn in turns]
    scales = scales_of(record, texts) or [[] for _ in texts]  # `allowed` has seen that all are certain
    size = image.size
    boxes = [box for text, some in zip(texts, scales, strict=True) for box in boxes_of_text(text, some, size)]
    left, top, right, bottom = _window(size, boxes, draw) if "crop" in wanted else (0, 0, *size)
    mirrored = "flip" in wanted
    after = (right - left, bottom - top)
    if after != size:
        image = image.crop((left, top, right, bottom))
        done.append(f"cut to {after[0]} x {after[1]}")
    if mirrored:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        done.append("mirrored")

    def move(box: Box) -> Box:
        inside = box.shifted(-left, -top)
        return Box(after[0] - inside.right, inside.top, after[0] - inside.left, inside.bottom) if mirrored else inside

    moved = [
        {**turn, "value": _text(text, size, after, some, move)}
        for turn, text, some in zip(turns, texts, scales, strict=True)
    ]
    return {**record, "conversations": moved}, [image]


def _text(text: str, before: Size, after: Size, scales: list[Scale], move: Callable[[Box], Box]) -> str:
    return moved_text(text, before, after, scales, move) if scales else text


def _window(size: Size, boxes: list[Box], draw: random.Random) -> tuple[int, int, int, int]:
    """Return left, top, right, bottom of what stays: every box with a margin, or nearly the whole picture."""
    most = CUT_AROUND_BOXES if boxes else CUT
    shares = [draw.random() * most for _ in range(4)]
    width, height = size
    if min(size) < LEAST_SIDE * 2:
        return 0, 0, width, height
    left, top = int(shares[0] * width), int(shares[1] * height)
    right, bottom = width - int(shares[2] * width), height - int(shares[3] * height)
    for box in boxes:
        left, top = min(left, int(box.left - MARGIN * width)), min(top, int(box.top - MARGIN * height))
        right, bottom = (
            max(right, int(box.right + MARGIN * width) + 1),
            max(bottom, int(box.bottom + MARGIN * height) + 1),
        )
    left, top, right, bottom = max(left, 0), max(top, 0), min(right, width), min(bottom, height)
    is_whole = min(right - left, bottom - top) < LEAST_SIDE
    return (0, 0, width, height) if is_whole else (left, top, right, bottom)


def _lit(image: Image.Image, brightness: float, contrast: float) -> Image.Image:
    """Brighter or darker by at most a fifth, and as much more or less contrast."""
    lit = ImageEnhance.Brightness(image).enhance(1 + 0.2 * brightness)
    return ImageEnhance.Contrast(lit).enhance(1 + 0.2 * contrast)


def _coloured(image: Image.Image, saturation: float, hue: float) -> Image.Image:
    """More or less colour by at most two fifths, and the circle of colours turned by at most a twelfth."""
    shown = ImageEnhance.Color(image).enhance(1 + 0.4 * saturation).convert("HSV")
    turned = shown.getchannel("H").point([(value + round(21 * hue)) % 256 for value in range(256)])
    return Image.merge("HSV", (turned, shown.getchannel("S"), shown.getchannel("V"))).convert("RGB")
