"""How the next token is chosen and when an answer ends; text that grows token by token.

stream = TextStream(tokenizer, stops=("\\n\\n",))
stream.push(token)          # the text that is certain now
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import torch

COLDEST = 1e-3
"""Below this temperature a token is certain: fp32 logits divided by less would be infinite."""


BYTE = re.compile("<0x[0-9A-F]{2}>")
"""A token of SentencePiece that is one byte: a run of them is read as a whole, and becomes marks if any byte is odd."""


@dataclass(frozen=True)
class Sampling:
    """`temperature` 0 is greedy; `top_p` keeps the likeliest tokens up to that mass; `stop` texts end an answer."""

    max_new_tokens: int = 512
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()

    @property
    def is_greedy(self) -> bool:
        """Whether the likeliest token is always taken."""
        return self.temperature < COLDEST


def choose(logits: torch.Tensor, sampling: Sampling, generator: torch.Generator | None) -> int:
    """The next token for one row of logits (vocabulary, fp32)."""
    if sampling.is_greedy:
        return int(logits.argmax())
    probabilities = torch.softmax(logits / sampling.temperature, -1)
    if sampling.top_p < 1:
        ordered, order = probabilities.sort(descending=True)
        # A token stays while the mass before it is below top_p; the likeliest stays, also where that is 0 in fp32.
        kept = ordered.cumsum(-1) - ordered < sampling.top_p
        kept[0] = True
        probabilities = torch.zeros_like(probabilities).scatter(0, order[kept], ordered[kept])
    return int(torch.multinomial(probabilities, 1, generator=generator))


class TextStream:
    """Turns tokens into text as they come; nothing is given out that a later token could still change or cut.

    Held back: half a character, a run of byte tokens, white space at the ends of the answer, and the beginning of a
    stop text.
    """

    def __init__(self, tokenizer: Any, stops: tuple[str, ...] = ()) -> None:
        self.tokenizer = tokenizer
        self.stops = tuple(stop for stop in stops if stop)
        self.ids: list[int] = []
        self.begin = self.read = 0
        self.text = ""
        self.given = 0
        self.stopped = False

    def push(self, token: int) -> str:
        """Add a token; returns the text that is certain now, nothing after a stop text."""
        if self.stopped:
            return ""
        self.ids.append(token)
        before = self._decode(self.ids[self.begin : self.read])
        now = self._decode(self.ids[self.begin :])
        text = self.text + now[len(before) :]
        may_change = now.endswith("\ufffd") or BYTE.fullmatch(self.tokenizer.convert_ids_to_tokens(token) or "")
        if len(now) > len(before) and (not may_change or any(stop in text for stop in self.stops)):
            self.text = text
            self.begin, self.read = self.read, len(self.ids)
        if not self.given:
            self.text = self.text.lstrip()
        self._cut_at_stop()
        certain = self.text[: len(self.text.rstrip()) - self._possible_stop()]
        return self._give(len(certain.rstrip()))

    def finish(self) -> str:
        """The rest of the text at the end of the answer."""
        if not self.stopped:
            before = self._decode(self.ids[self.begin : self.read])
            self.text += self._decode(self.ids[self.begin :])[len(before) :]
            self._cut_at_stop()
        if not self.given:
            self.text = self.text.lstrip()
        return self._give(len(self.text.rstrip()))

    def _decode(self, ids: list[int]) -> str:
        return str(self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def _give(self, end: int) -> str:
        if end <= self.given:
            return ""
        piece, self.given = self.text[self.given : end], end
        return piece

    def _cut_at_stop(self) -> None:
        places = [place for stop in self.stops if (place := self.text.find(stop)) >= 0]
        if places:
            self.text, self.stopped = self.text[: min(places)], True

    def _possible_stop(self) -> int:
        """How many characters at the end may be the beginning of a stop text."""
        text = self.text.rstrip()
        longest = 0
        for stop in self.stops:
            for length in range(min(len(stop) - 1, len(text)), 0, -1):
                if text.endswith(stop[:length]):
                    longest = max(longest, length)
                    break
        return longest
