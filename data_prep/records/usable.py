"""A record as training and scoring use it: its types looked at once, before anything indexes into it.

`check` reads any record and tells everything that is wrong with it; who uses one needs only this.

    record = usable(records[7])        # DataError: record "a": conversations: expected a list, found a string "x"
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec

from data_prep.records.json_text import conform, require_characters

TEXTS = ("id", "conversations", "question_type")
"""What of a record is read as text, shown, or written again."""
Some = TypeVar("Some", bound=Mapping[str, Any])


class Turn(msgspec.Struct, rename={"side": "from"}):
    """One turn; `value` is looked at by those who know which turn of which side it is."""

    side: str
    value: Any


class UsableRecord(msgspec.Struct):
    """What a record must be before its conversation is encoded or asked; other fields are nobody's matter."""

    conversations: list[Turn] | None = None
    image: str | list[str] | None = None
    question_type: str | None = None
    question_types: list[str | None] | None = None
    question_id: int | str | None = None
    independent_turns: bool | None = None


class TaughtTurn(msgspec.Struct, rename={"side": "from"}):
    """One turn of a record to learn from."""

    side: str
    value: str


class TaughtRecord(msgspec.Struct):
    """A record to learn from: there are turns, and each is a text."""

    conversations: list[TaughtTurn]
    image: str | list[str] | None = None
    independent_turns: bool | None = None


def usable(record: Some, kind: type[msgspec.Struct] = UsableRecord) -> Some:
    """Return the record. Raises DataError that names it, the place in it, what is expected and found.

    A text that holds half of a surrogate pair is refused too: no tokenizer takes it.
    """
    texts = [record.get(name) for name in TEXTS]
    try:
        msgspec.convert(record, kind)
        msgspec.json.encode(texts)
    except (msgspec.ValidationError, UnicodeEncodeError, OverflowError):  # the last: an id of more than 64 bits
        where = f'record "{str(record.get("id"))[:80]}"'
        conform(record, kind, where)
        require_characters(texts, where)
    return record


def taught(record: Some) -> Some:
    """Return a record to learn from. Raises DataError as `usable` does."""
    return usable(record, TaughtRecord)
