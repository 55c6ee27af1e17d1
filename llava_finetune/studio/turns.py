"""Turns that are added to a record of the grid, taken out of it, and put back.

changed = remove(store, "talk #2/2", seen=("And how dark?", "light"))      # Changed("talk #1/1", "talk", "5f3a...")
put_back(store, "talk", changed.state)

A row of answers.csv that gets a second turn moves into dialogues.json, as the record that it becomes. Each change says
what it saw: where somebody else changed the record meanwhile it is refused, and nothing is written. A record that loses
a turn is kept as it was, whatever it holds, below a name that says what it became.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

from data_prep.errors import DataError
from data_prep.files import write_json
from data_prep.records.json_text import read_json
from llava_finetune.studio.dialogues import Record, num_turns, turn_id, turn_rows, with_new_turn, without_turn
from llava_finetune.studio.refusals import Refused
from llava_finetune.studio.table import Cells, Store

MOST_KEPT = 100
"""Records that are kept as they were before a turn was taken out, the newest."""


@dataclass(frozen=True)
class Changed:
    """The row to go to, its record, and what tells the record as it is now from any other."""

    row: str
    record: str
    state: str


def add(store: Store, row: str) -> Changed:
    """Put an empty turn behind the one of a row. Raises Refused where the row is not there any more."""
    with store.space.locked():
        cells = _row(store, row)
        record, turn = store.record(cells), int(cells.get("turn", 1))
        return _keep(store, with_new_turn(record, turn), turn + 1)


def remove(store: Store, row: str, seen: Sequence[str]) -> Changed:
    """Take out the turn of a row with the question and answer that were `seen`. Raises Refused for an only turn."""
    with store.space.locked():
        cells = _row(store, row)
        if (cells["question"], cells["answer"]) != tuple(seen):
            raise Refused("turn_changed")
        if int(cells.get("turns", 1)) < 2:
            raise Refused("only_turn")
        record, turn = store.record(cells), int(cells["turn"])
        after = without_turn(record, turn)
        write_json(_before(store, _state(after)), record)  # first: a disk without room for it keeps the turn
        for old in sorted(_before(store, "").parent.iterdir(), key=lambda path: path.stat().st_mtime)[:-MOST_KEPT]:
            old.unlink()
        return _keep(store, after, max(1, turn - 1))


def put_back(store: Store, name: str, state: str) -> Changed:
    """Make a record what it was before it came to a `state` by losing a turn. Raises Refused where it is another."""
    with store.space.locked():
        cells = next((row for row in store.read().rows if row.get("of") == name), None)
        record = store.record(cells) if cells else None
        if record is None or _state(record) != state:
            raise Refused("turn_changed")
        try:
            before: Record = read_json(_before(store, state))
        except (OSError, DataError):
            raise Refused("turn_changed") from None
        pairs = zip(turn_rows(record), turn_rows(before), strict=False)
        same = sum(1 for _ in takewhile(lambda two: two[0]["question"] == two[1]["question"], pairs))
        return _keep(store, before, min(num_turns(before), same + 1))


def _state(record: Record) -> str:
    """What tells a record from any other."""
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


def _before(store: Store, state: str) -> Path:
    return store.space.hidden / "before" / f"{state}.json"


def _row(store: Store, row: str) -> Cells:
    table = store.read()
    if row not in table.places:
        raise Refused("turn_changed")
    return table.rows[table.places[row]]


def _keep(store: Store, record: Record, turn: int) -> Changed:
    store.keep(record)
    name = str(record["id"])
    return Changed(turn_id(name, turn, num_turns(record)), name, _state(record))
