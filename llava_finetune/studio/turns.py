"""Turns that are added to a record of the grid, taken out of it, and put back.

changed = add(store, "talk #2/2")      # Changed("talk #3/3", "talk", was=[... 4 turns], now=[... 6 turns])
put_back(store, "talk", was=changed.now, now=changed.was)

A row of answers.csv that gets a second turn moves into dialogues.json, whole. Each change says what it saw: where
somebody else changed the record meanwhile it is refused, and nothing is written.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

from llava_finetune.studio.dialogues import Record, num_turns, turn_id, with_new_turn, without_turn
from llava_finetune.studio.refusals import Refused
from llava_finetune.studio.table import Cells, Store

Turns = list[dict[str, Any]]


@dataclass(frozen=True)
class Changed:
    """The row to go to, its record, and the record's turns before and after."""

    row: str
    record: str
    was: Turns
    now: Turns


def add(store: Store, row: str) -> Changed:
    """Put an empty turn behind the one of a row. Raises Refused where the row is not there any more."""
    with store.space.locked():
        cells = _row(store, row)
        record, turn = store.record(cells), int(cells.get("turn", 1))
        return _keep(store, record, with_new_turn(record, turn), turn + 1)


def remove(store: Store, row: str, seen: Sequence[str]) -> Changed:
    """Take out the turn of a row with the question and answer that were `seen`. Raises Refused for an only turn."""
    with store.space.locked():
        cells = _row(store, row)
        if (cells["question"], cells["answer"]) != tuple(seen):
            raise Refused("turn_changed")
        if int(cells.get("turns", 1)) < 2:
            raise Refused("only_turn")
        record, turn = store.record(cells), int(cells["turn"])
        return _keep(store, record, without_turn(record, turn), max(1, turn - 1))


def put_back(store: Store, name: str, was: Turns, now: Turns) -> Changed:
    """Give a record the turns `now` where it still has those that it `was` left with. Raises Refused otherwise."""
    with store.space.locked():
        cells = next((row for row in store.read().rows if row.get("of") == name), None)
        record = store.record(cells) if cells else None
        if record is None or record["conversations"] != was:
            raise Refused("turn_changed")
        after = {**record, "conversations": now}
        if not num_turns(after):
            raise Refused("only_turn")
        same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(was, now, strict=False)))
        return _keep(store, record, after, min(num_turns(after), same // 2 + 1))


def _row(store: Store, row: str) -> Cells:
    table = store.read()
    if row not in table.places:
        raise Refused("turn_changed")
    return table.rows[table.places[row]]


def _keep(store: Store, before: Record, after: Record, turn: int) -> Changed:
    store.keep(after)
    name = str(after["id"])
    return Changed(turn_id(name, turn, num_turns(after)), name, before["conversations"], after["conversations"])
