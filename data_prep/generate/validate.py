"""Is what the language model wrote a conversation that may be learned? Only then does it become a record.

turns_of('{"description": "A dog ..."}', "detail", "stop", "Describe it.")    # [("Describe it.", "A dog ...")]
turns_of("Sorry, I cannot see it", "detail", "stop", "Describe it.")          # Invalid("no JSON object: ...")
"""

from __future__ import annotations

import json
import re
from typing import Any, NamedTuple

from data_prep.check.texts import END_TOKENS, LONE_SURROGATE, ROLE_MARKERS
from data_prep.errors import quoted
from data_prep.records.json_text import is_deep
from data_prep.records.record import IMAGE_TOKEN

MIN_TURNS, MAX_TURNS = 2, 10
MIN_WORDS = {"conversation": 1, "detail": 25, "reasoning": 20}
TELLTALE = re.compile(
    r"\bcaptions?\b|\bbounding box|\bcoordinates?\b|\b(?:provided|given) (?:text|description|list|information)\b"
    r"|\bas an ai\b|\bi(?:'m| am) (?:sorry|unable)\b|\bi can(?:not|'t|\u2019t) (?:see|view)\b"
    r"|\b0\.\d{2,},? 0\.\d{2,}\b",
    re.IGNORECASE,
)
"""Words that show that the text was written from text: the model that learns them would speak of captions, too."""


class Invalid(NamedTuple):
    """Why a text must not be learned."""

    reason: str


Turn = tuple[str, str]


def turns_of(text: str, style: str, finish: str | None, question: str) -> list[Turn] | Invalid:
    """Return the (question, answer) pairs of an answer to the prompt of `style`, or why there are none.

    `finish` is the endpoint's finish_reason; `question` is put before a description.
    """
    if finish == "length":
        return Invalid("cut off by the length limit; raise --max-tokens")
    value = _object_in(text)
    if value is None:
        return Invalid(f"no JSON object: {quoted(text)}")
    pairs = _pairs(value, style, question)
    if isinstance(pairs, Invalid):
        return pairs
    for place, (asked, answer) in enumerate(pairs, 1):
        if reason := _fault(asked, answer, style):
            return Invalid(f"turn {place}: {reason}")
    if len({asked for asked, _ in pairs}) != len(pairs):
        return Invalid("a question stands twice")
    return pairs


def _object_in(text: str) -> dict[str, Any] | None:
    """Return the JSON object in `text`, which may stand in a fence or between other words."""
    start = text.find("{")
    if start < 0:
        return None
    try:
        value, _ = json.JSONDecoder(strict=False).raw_decode(text, start)
    except (ValueError, RecursionError):  # digits without end are a ValueError
        return None
    return value if isinstance(value, dict) and not is_deep(value) else None


def _pairs(value: dict[str, Any], style: str, question: str) -> list[Turn] | Invalid:
    if style == "detail":
        found: Any = [{"question": question, "answer": value.get("description")}]
    elif style == "reasoning":
        found = [value]
    else:
        found = value.get("turns")
        if not isinstance(found, list) or not MIN_TURNS <= len(found) <= MAX_TURNS:
            count = f"{len(found)} turns" if isinstance(found, list) else 'no list "turns"'
            return Invalid(f"{count}, expected {MIN_TURNS} to {MAX_TURNS}")
    pairs = []
    for turn in found:
        texts = [turn.get(key) if isinstance(turn, dict) else None for key in ("question", "answer")]
        if not all(isinstance(text, str) and text.strip() for text in texts):
            return Invalid(f"a turn without question or answer: {quoted(turn)}")
        pairs.append((str(texts[0]).strip(), str(texts[1]).strip()))
    return pairs


def _fault(asked: str, answer: str, style: str) -> str | None:
    for text in (asked, answer):
        if IMAGE_TOKEN in text:
            return f"{IMAGE_TOKEN} in a text"
        for pattern in (END_TOKENS, ROLE_MARKERS, LONE_SURROGATE, TELLTALE):
            if found := pattern.search(text):
                return f"{found.group()!r} in {quoted(text)}"
    if len(answer.split()) < MIN_WORDS[style]:
        return f"{len(answer.split())} words, expected at least {MIN_WORDS[style]}"
    return None
