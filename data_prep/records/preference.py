"""A record with a preference: the same question answered twice, `chosen` the better way and `rejected` the worse.

    {"id": "p-1", "image": "a.jpg", "conversations": [{"from": "human", "value": "<image>\\nIs there a dog?"}],
     "chosen": "no", "rejected": "yes"}

The conversation ends with the question, or with the chosen answer behind it: then `chosen` may be left out, and the
file is one for ordinary training too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from data_prep.errors import DataError, quoted
from data_prep.records.usable import usable


@dataclass(frozen=True)
class Pair:
    """The turns up to the question, and two answers to it."""

    turns: list[dict[str, Any]]
    chosen: str
    rejected: str

    def answered(self, answer: str) -> list[dict[str, Any]]:
        """The conversation with an answer."""
        return [*self.turns, {"from": "gpt", "value": answer}]


def is_pair(record: Mapping[str, Any]) -> bool:
    """Whether a record has a preference, whole or not."""
    return "rejected" in record


def text_of(value: Any) -> str | None:
    """The text of an answer; it may stand in a turn (`value` or `content`), a part (`text`), or a list of one."""
    if isinstance(value, list) and len(value) == 1:
        return text_of(value[0])
    if isinstance(value, Mapping):
        return text_of(value.get("value", value.get("content", value.get("text"))))
    return value if isinstance(value, str) else None


def pair_of(record: Mapping[str, Any]) -> Pair:
    """The pair of a record. Raises DataError that names it and says which answer is missing, or what contradicts."""
    where = f'record "{str(record.get("id"))[:80]}"'
    turns = list(usable(record).get("conversations") or [])
    said = text_of(turns[-1]["value"]) if turns and turns[-1]["from"] == "gpt" else None
    if said is not None:
        turns = turns[:-1]
    chosen = text_of(record["chosen"]) if "chosen" in record else said
    rejected = text_of(record.get("rejected"))
    for key, text in (("chosen", chosen), ("rejected", rejected)):
        if text is None or not text.strip():
            raise DataError(where, f"{key}: expected the text of an answer, found {quoted(record.get(key))}")
    if not turns or turns[-1]["from"] != "human":
        raise DataError(where, "a pair's conversation ends with the human's question, or with the chosen answer")
    if said is not None and said != chosen:
        raise DataError(
            where, f"its conversation ends with {quoted(said, 40)}, and chosen is {quoted(chosen, 40)}; keep one"
        )
    assert chosen is not None and rejected is not None
    return Pair(turns, chosen, rejected)
