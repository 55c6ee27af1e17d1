"""Marks of pictures that other tools write into texts: `<image 1>`, `<|image_1|>`, `<img>a.jpg</img>`, made `<image>`.

with_images([("human", "Is <image 2> like <image 1>?"), ("gpt", "no")], 2)      # refused: their order is another
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from data_prep.hf.parts import Unseen
from data_prep.records.marks import UNFILLED
from data_prep.records.record import IMAGE_TOKEN

Turn = tuple[str, str]
FOREIGN = re.compile(
    r"<image[ _-]?(\d+)>|<\|image_(\d+)\|>|<img>[^<>]*</img>|<\|image\|>|<ImageHere>|<image_placeholder>"
    r"|<\|vision_start\|>(?:<\|image_pad\|>)+<\|vision_end\|>|<\|image_pad\|>|<IMG>|\[IMG\]"
)
FILLED = re.compile(UNFILLED)
UNSEEN = re.compile(r"<(?:video|audio)>|<\|(?:video|audio)(?:_pad|_\d+)?\|>")


def with_images(turns: list[Turn], num_images: int, bare: bool = False) -> list[Turn]:
    """Return the turns with one `<image>` for each picture, at the front where the row does not place it.

    `bare`: the first question may be pictures alone, as captions have it.

    Raises ValueError for `<image>` that do not pair up with the pictures or stand in an answer, and for an empty
    question; Unseen for a video.
    """
    if unfilled := next((found for _, text in turns if "<" in text and (found := FILLED.search(text))), None):
        raise ValueError(f'{unfilled.group()} stands for a value under "objects": write it into the text')
    turns = _translated(turns, num_images)
    tokens = sum(text.count(IMAGE_TOKEN) for role, text in turns if role == "human")
    if tokens == 0 and num_images and (bare or turns[0][1].strip()):
        marks = "\n".join([IMAGE_TOKEN] * num_images)
        turns[0] = ("human", f"{marks}\n{turns[0][1]}" if turns[0][1] else marks)
    elif tokens != num_images and turns[0][1].strip():
        raise ValueError(f"{tokens} <image> for {num_images} pictures")
    if any(IMAGE_TOKEN in text for role, text in turns if role == "gpt"):
        raise ValueError("<image> in an answer")
    if any(role == "human" and not text.strip() for role, text in turns):
        raise ValueError("an empty question")
    return turns


def _translated(turns: list[Turn], num_images: int) -> list[Turn]:
    """Return the turns with other tools' marks as `<image>`, where there is one for each picture, in order."""
    questions = [text for role, text in turns if role == "human" and ("<" in text or "[IMG" in text)]
    if unseen := next((found for text in questions if (found := UNSEEN.search(text))), None):
        raise Unseen(f"{unseen.group()} in a question")
    marks = [mark for text in questions for mark in FOREIGN.finditer(text)]
    if not marks or any(IMAGE_TOKEN in text for text in questions):
        return turns
    _require_order([mark.group() for mark in marks], [mark[1] or mark[2] for mark in marks], num_images)
    return [(role, FOREIGN.sub(IMAGE_TOKEN, text) if role == "human" else text) for role, text in turns]


def _require_order(marks: Sequence[str], numbers: Sequence[str | None], num_images: int) -> None:
    if len(marks) != num_images:
        raise ValueError(f"{len(marks)} marks such as {marks[0]:.40} for {num_images} pictures")
    counted = [int(number) for number in numbers if number]
    if counted and counted != list(range(counted[0], counted[0] + len(counted))):
        raise ValueError(f"pictures in the order {', '.join(marks[:4])}; theirs in the row is another")
