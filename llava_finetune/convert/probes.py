"""Conversations and pictures with which a conversion or a merge is checked on the spot.

Why: one square picture and one short question would hide a cropped border, a missing end token and a lost second turn.

    for probe in probes(image_size=336): probe.turns, probe.messages, probe.pictures
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy
from PIL import Image

from data_prep.records.marks import IMAGE_TOKEN


@dataclass(frozen=True)
class Probe:
    """A conversation with its pictures; `turns` are human/gpt records, a None at the end asks for an answer."""

    name: str
    exchanges: tuple[tuple[str, str | None], ...]
    pictures: tuple[Image.Image, ...]

    @property
    def turns(self) -> list[dict[str, Any]]:
        """Upstream's layout: pictures first in the first human turn."""
        out: list[dict[str, Any]] = []
        for number, (question, answer) in enumerate(self.exchanges):
            marks = f"{IMAGE_TOKEN}\n" * len(self.pictures) if number == 0 else ""
            out += [{"from": "human", "value": marks + question}, {"from": "gpt", "value": answer}]
        return out if self.exchanges[-1][1] is not None else out[:-1]

    @property
    def messages(self) -> list[dict[str, Any]]:
        """The same conversation as transformers' chat messages."""
        out: list[dict[str, Any]] = []
        for number, (question, answer) in enumerate(self.exchanges):
            content: list[dict[str, Any]] = []
            if number == 0:
                content += [{"type": "image", "image": picture} for picture in self.pictures]
            out.append({"role": "user", "content": [*content, {"type": "text", "text": question}]})
            if answer is not None:
                out.append({"role": "assistant", "content": [{"type": "text", "text": answer}]})
        return out

    @property
    def is_open(self) -> bool:
        """Whether the conversation ends with a question."""
        return self.exchanges[-1][1] is None


def noise(width: int, height: int, seed: int) -> Image.Image:
    """A reproducible RGB picture whose every border matters."""
    pixels = numpy.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=numpy.uint8)
    return Image.fromarray(pixels)


def probes(image_size: int) -> tuple[Probe, ...]:
    """Wide and tall pictures, one turn and several, answered and open, with and without pictures."""
    wide = noise(image_size * 2 - 3, image_size - 5, 0)
    tall = noise(image_size // 2 + 1, image_size + 9, 1)
    question = "What is in the picture?\nAnswer the question using a single word or phrase."
    return (
        Probe("open question", ((question, None),), (wide,)),
        Probe("three turns", (("What colour is it?", "dark red"), ("And 2?", "No."), ("Why?", "It's so.")), (tall,)),
        Probe("two pictures", (("Compare them.", "The first is wider."), ("Are you sure?", None)), (wide, tall)),
        Probe("text alone", (("Hello!", "Hi."), ("two  spaces  kept?", None)), ()),
    )
