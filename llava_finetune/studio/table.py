"""answers.csv and dialogues.json: what the grid shows and what is typed into it. The files are the truth.

An edit says what it saw: where the cell holds something else by now, it is refused and the other text is handed back,
so that two pages, or a page and a spreadsheet, never overwrite each other in silence.

    store = Store(workspace)
    store.apply([Edit("row-1", "answer", was="", now="white knight")]).refused      # [] when all were taken
"""

from __future__ import annotations

import csv
import io
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from data_prep.converters.rows import Reading, read_rows
from data_prep.converters.texts import text_of
from data_prep.files import write_text
from llava_finetune.errors import UserError
from llava_finetune.studio.dialogues import (
    BEFORE,
    Record,
    as_dialogue,
    ids_of,
    in_place,
    read_dialogues,
    record_of,
    take_name,
    with_turn,
    write_dialogues,
)
from llava_finetune.studio.workspace import Workspace

COLUMNS = ("id", "image", "question", "answer")
EDITED = ("question", "answer")
LONGEST = 20_000
"""Characters of a cell."""

READING = Reading(empties_nan=False)
"""A text that is typed stays as it is, nan too."""

Cells = dict[str, str]
Stamp = tuple[int, int, int]
NOTHING: Stamp = (0, 0, 0)
"""The stamp of a file that is not there."""


@dataclass(frozen=True)
class Edit:
    """One cell: what it held when it was shown, and what it shall hold."""

    row: str
    column: str
    was: str
    now: str


@dataclass(frozen=True)
class Conflict:
    """An edit that was refused, and what stands there instead; `now` None: the row is gone."""

    row: str
    column: str
    now: str | None


@dataclass(frozen=True)
class Applied:
    """The edits that were not taken, and the table's version before and after the others."""

    refused: list[Conflict]
    before: str
    version: str


@dataclass(frozen=True)
class Table:
    """The rows of answers.csv and the turns of dialogues, each with an id of its own, and what told their newest."""

    names: tuple[str, ...] = COLUMNS
    rows: tuple[Cells, ...] = ()
    stamp: Stamp = NOTHING
    talks: Stamp = NOTHING
    places: Mapping[str, int] = field(default_factory=dict)

    @property
    def version(self) -> str:
        """Changes whenever the file changes."""
        return "-".join(f"{part:x}" for part in (*self.stamp, *self.talks))

    @property
    def typed(self) -> list[Cells]:
        """The rows that stand in answers.csv."""
        return [row for row in self.rows if "of" not in row]

    def placed(self) -> Table:
        """The same table, with the place of each id."""
        return replace(self, places={row["id"]: place for place, row in enumerate(self.rows)})


def is_open(row: Cells) -> bool:
    """Whether a row waits to be filled in: for its answer, a turn of a dialogue for its question too."""
    return not row["answer"].strip() or ("of" in row and not row["question"].strip())


def stamp_of(path: Path) -> Stamp:
    """What tells one state of a file from another; zeros where there is none."""
    try:
        found = path.stat()
    except OSError:
        return NOTHING
    return (found.st_mtime_ns, found.st_size, found.st_ino)


def read_table(path: Path, taken: Iterable[str] = ()) -> Table:
    """The table at `path`, empty where there is none; no row gets an id that is `taken`.

    Raises DataError for a file that is no such table.
    """
    stamp = stamp_of(path)
    if stamp == NOTHING:
        return Table()
    rows = [{name: text_of(value) for name, value in row.items()} for _, row in read_rows(path, READING)]
    names = tuple(dict.fromkeys([*COLUMNS, *(name for row in rows[:1] for name in row)]))
    return Table(names, tuple(_with_ids(rows, taken)), stamp).placed()


def _with_ids(rows: Iterable[Cells], taken: Iterable[str]) -> Iterable[Cells]:
    """Each row with an id that no other has, and no dialogue (`taken`): its own, else its number in the file."""
    seen = set(taken)
    for number, row in enumerate(rows, 1):
        yield {**dict.fromkeys(COLUMNS, ""), **row, "id": take_name(row.get("id") or f"row-{number}", seen)}


def table_text(names: Sequence[str], rows: Iterable[Mapping[str, str]]) -> str:
    """A table as CSV; it begins with a BOM, so that spreadsheets open it as UTF-8.

    A name with another delimiter in it is quoted: whoever reads the table counts them in the header. So is a cell with
    a lone carriage return, which Python's writer leaves bare before 3.13.
    """
    text = io.StringIO()
    usual, quoted = (
        csv.DictWriter(text, names, extrasaction="ignore", restval="", quoting=quoting, lineterminator="\n")
        for quoting in (csv.QUOTE_MINIMAL, csv.QUOTE_ALL)
    )
    (quoted if any(mark in name for name in names for mark in ";\t|") else usual).writeheader()
    for row in rows:
        (quoted if any("\r" in value for value in row.values()) else usual).writerow(row)
    return "\ufeff" + text.getvalue()


class Store:
    """answers.csv, read again when somebody else wrote it, written whole under the workspace's lock."""

    def __init__(self, space: Workspace) -> None:
        self.space = space
        self._table = Table()
        self._turn = threading.Lock()

    def read(self) -> Table:
        """The newest table."""
        self.space.require()
        with self._turn:
            talks = self.space.dialogues
            if (stamp_of(self.space.answers), stamp_of(talks)) != (self._table.stamp, self._table.talks):
                stamp = stamp_of(talks)
                records = read_dialogues(talks)
                table = read_table(self.space.answers, ids_of(records))
                self._table = replace(table, rows=tuple(in_place(table.rows, records)), talks=stamp).placed()
            return self._table

    def apply(self, edits: Sequence[Edit]) -> Applied:
        """Take the edits whose cells are as they were seen, and write; the others come back.

        Raises UserError for a column that is not edited or a text too long, DataError for a full disk: nothing is
        taken then.
        """
        for edit in edits:
            if edit.column not in EDITED or len(edit.now) > LONGEST:
                raise UserError(f"only {' and '.join(EDITED)} are typed here, of {LONGEST:,} characters at most")
        with self.space.locked():
            table = self.read()
            rows, refused, is_changed = list(table.rows), [], False
            said: list[tuple[Cells, Edit]] = []
            for edit in edits:
                place = table.places.get(edit.row)
                found = rows[place][edit.column] if place is not None else None
                if place is None or found not in (edit.was, edit.now):
                    refused.append(Conflict(edit.row, edit.column, found))
                elif found != edit.now:
                    rows[place] = {**rows[place], edit.column: edit.now}
                    if "of" in rows[place]:
                        said.append((rows[place], edit))
                    else:
                        is_changed = True
            if said:
                self._say(said)
            if is_changed:
                self._write(table.names, rows, table.places)
            return Applied(refused, table.version, self.read().version)

    def _say(self, said: Sequence[tuple[Cells, Edit]]) -> None:
        """Write what was typed into turns of dialogues."""
        records = {str(record["id"]): record for record in read_dialogues(self.space.dialogues)}
        for row, edit in said:
            records[row["of"]] = with_turn(records[row["of"]], int(row["turn"]), edit.column, edit.now)
        write_dialogues(self.space.dialogues, records.values())

    def record(self, row: Cells) -> Record:
        """The record behind a row: a dialogue, or what a row of the table would become. Raises Refused for no text."""
        if "of" not in row:
            table = self.read()
            place = table.places.get(row["id"], len(table.rows))  # answers.csv may have changed meanwhile
            behind = table.rows[place + 1 : place + 2]
            before = {BEFORE: record_of(behind[0])} if behind else {}
            return as_dialogue(row, self.space.images or self.space.folder) | before
        return next(one for one in read_dialogues(self.space.dialogues) if one["id"] == row["of"])

    def keep(self, record: Record) -> None:
        """Put a record among the dialogues, in place of the dialogue or the row of its id; the lock is held."""
        before = read_dialogues(self.space.dialogues)
        others = [record if one["id"] == record["id"] else one for one in before]
        write_dialogues(self.space.dialogues, others if record in others else [*before, record])
        typed = read_table(self.space.answers, ids_of(before))
        rest = [row for row in typed.rows if row["id"] != record["id"]]
        if len(rest) < len(typed.rows):
            self.put(typed.names, rest)

    def put(self, names: Sequence[str], rows: Iterable[Cells]) -> None:
        """Write the whole table; the caller holds the workspace's lock."""
        self._write(tuple(names), list(_with_ids(rows, ids_of(read_dialogues(self.space.dialogues)))))

    def _write(self, names: Sequence[str], rows: Sequence[Cells], places: Mapping[str, int] | None = None) -> None:
        """Write, and keep what was written; `places` where rows and pictures are as they were."""
        write_text(self.space.answers, table_text(names, [row for row in rows if "of" not in row]))
        if places is None:
            return  # the next look reads it, with the dialogues
        with self._turn:
            talks = stamp_of(self.space.dialogues)
            written = Table(tuple(names), tuple(rows), stamp_of(self.space.answers), talks)
            self._table = replace(written, places=places)
