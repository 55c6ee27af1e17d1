"""Calls of the first screen: what lies here, the grid, what was typed, check and split.

CALLS["rows"](studio, {"first": 0, "count": 100})      # {"version": ..., "total": 20000, "rows": [...]}
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any, Literal

from pydantic import BaseModel, Field

from data_prep.converters.encodings import NotUtf8
from llava_finetune import __version__
from llava_finetune.errors import UserError
from llava_finetune.studio import buttons, hub, intake, jobs, turns
from llava_finetune.studio.dialogues import record_of
from llava_finetune.studio.refusals import LANGUAGES, Refused
from llava_finetune.studio.shared import Studio
from llava_finetune.studio.sources import QUESTION, preview, sources
from llava_finetune.studio.table import Cells, Edit, Table, is_open

MOST_ROWS = 500


class Fitting(BaseModel):
    """Which rows fit: by what they lack, by a text in them, or by their ids; the row `keep`, which somebody types into,
    fits always."""

    show: str = "all"
    text: str = Field("", max_length=500)
    ids: list[str] = Field([], max_length=2000)
    keep: str = ""


class RowsAsked(Fitting):
    """A stretch of the grid, of all rows or of those that fit."""

    first: int = Field(0, ge=0)
    count: int = Field(100, ge=0, le=MOST_ROWS)


class TurnAsked(Fitting):
    """A turn to be added behind a row's, or the row's own to be taken out, as it was seen."""

    row: str
    act: Literal["add", "remove"]
    question: str = ""
    answer: str = ""


class PutBackAsked(Fitting):
    """A record that shall be as it was before it came to a state."""

    record: str
    state: str


class EditAsked(BaseModel):
    """One cell, as it was seen and as it shall be."""

    row: str
    column: str
    was: str
    now: str


class EditsAsked(BaseModel):
    """What was typed since the last save."""

    edits: list[EditAsked] = Field(max_length=2000)


class LookAsked(BaseModel):
    """A source to look into."""

    name: str
    images: str | None = None
    encoding: str | None = Field(None, max_length=40)


class TakeAsked(LookAsked):
    """A source to take, and which of its columns is which."""

    roles: dict[str, str | None] = {}
    question: str = Field("", max_length=2000)
    labels: bool = False


class PrepareAsked(BaseModel):
    """How to check and split."""

    test: float = Field(0.2, gt=0, lt=1)
    mend: bool = False
    dry: bool = False


def state(studio: Studio, asked: dict[str, Any]) -> dict[str, Any]:
    """Where the page stands: the workspace, what was chosen, and how much there is."""
    space = studio.space
    settings, table = space.settings(), studio.store.read()
    return {
        "workspace": str(space.folder),
        "name": space.folder.name,
        "version": __version__,
        "images": settings.get("images"),
        "language": settings.get("language"),
        "rows": len(table.rows),
        "table": table.version,
    }


def listed(studio: Studio, asked: dict[str, Any]) -> dict[str, Any]:
    """What lies in the workspace and could be taken."""
    return {"sources": [asdict(one) for one in sources(studio.space)]}


def looked(studio: Studio, asked: dict[str, Any]) -> dict[str, Any]:
    """The first rows of a source, or the `readings` of a table in which letters are not told; an archive is unpacked
    first."""
    given = LookAsked.model_validate(asked)
    if given.name.lower().endswith(".zip"):
        folder = intake.unpack(studio.space, given.name)
        inside = [one for one in sources(studio.space) if one.name == folder or one.name.startswith(f"{folder}/")]
        tables = [one for one in inside if one.kind == "table"]
        given = LookAsked(name=tables[0].name if tables else folder, encoding=None)
    try:
        return asdict(preview(studio.space, given.name, given.images, given.encoding))
    except NotUtf8 as error:
        if not error.readings or not given.name.lower().endswith((".csv", ".tsv")):
            raise
        return {"name": given.name, "readings": error.readings}


def fetched(studio: Studio, asked: dict[str, Any]) -> dict[str, Any]:
    """Fetch a data set of the hub, or with `dry` only show the command; `records` is what to look at afterwards."""
    given = hub.HubAsked.model_validate(asked)
    space, steps = studio.space, hub.fetch(studio.space, given)
    name = hub.name_of(given.name)
    where = {"records": f"{hub.folder_of(name)}/records.json", "images": hub.images_of(space, name)}
    if given.dry:
        return {"command": buttons.shown(steps, space), **where}
    once = jobs.while_made("fetching", "hub", name)
    return {"job": jobs.start(space, "hub", name, steps, unless=once, name=name).id, **where}


def taken(studio: Studio, asked: dict[str, Any]) -> dict[str, Any]:
    """Join a source with the table."""
    given = TakeAsked.model_validate(asked)
    asked_of_all = given.question or QUESTION
    choice = intake.Choice(given.name, given.images, given.roles, asked_of_all, given.labels, given.encoding)
    return {"counts": asdict(intake.take(studio.store, choice)), **state(studio, {})}


def rows(studio: Studio, asked: dict[str, Any]) -> dict[str, Any]:
    """A stretch of the rows that fit, and how many fit."""
    given = RowsAsked.model_validate(asked)
    table = studio.store.read()
    chosen = _chosen(studio, table, given)
    about = studio.findings.marks(table).rows
    part = chosen[given.first : given.first + given.count]
    shown = [_sent(row) | about.get(record_of(row), {}) for row in part]
    return {
        "version": table.version,
        "total": len(chosen),
        "all": len(table.rows),
        "rows": shown,
    }


def _chosen(studio: Studio, table: Table, asked: Fitting) -> Sequence[Cells]:
    text, fits = asked.text.strip().casefold(), _filter(studio, table, asked)
    if fits is None and not text:
        return table.rows

    def has_text(row: Cells) -> bool:
        return not text or any(text in row[name].casefold() for name in ("image", "question", "answer"))

    return [row for row in table.rows if row["id"] == asked.keep or ((fits is None or fits(row)) and has_text(row))]


def _filter(studio: Studio, table: Table, asked: Fitting) -> Callable[[Cells], bool] | None:
    """Whether a row fits what shall be shown; None where all do."""
    if asked.show == "all":
        return None
    if asked.show == "open":
        return is_open
    if asked.show == "ids":
        wanted = frozenset(asked.ids)
        return lambda row: row["id"] in wanted
    about = studio.findings.marks(table).rows
    what, _, kind = asked.show.partition(":")
    if what == "part":
        return lambda row: about.get(record_of(row), {}).get("part") == kind
    found = {name: mark.get("found", []) for name, mark in about.items()}
    return lambda row: kind in found.get(record_of(row), []) if kind else bool(found.get(record_of(row)))


def _sent(row: Cells) -> dict[str, Any]:
    sent: dict[str, Any] = {name: row[name] for name in ("id", "image", "question", "answer")}
    if "of" in row:
        sent |= {"turn": int(row["turn"]), "turns": int(row["turns"]), "pictures": json.loads(row["pictures"])}
    return sent


def edited(studio: Studio, asked: dict[str, Any]) -> dict[str, Any]:
    """Take what was typed; what somebody else changed meanwhile comes back."""
    given = EditsAsked.model_validate(asked)
    return asdict(studio.store.apply([Edit(one.row, one.column, one.was, one.now) for one in given.edits]))


def turned(studio: Studio, asked: dict[str, Any]) -> dict[str, Any]:
    """Add a turn to the record of a row, or take the row's own out."""
    given = TurnAsked.model_validate(asked)
    if given.act == "add":
        return _moved(studio, given, turns.add(studio.store, given.row))
    return _moved(studio, given, turns.remove(studio.store, given.row, (given.question, given.answer)))


def put_back(studio: Studio, asked: dict[str, Any]) -> dict[str, Any]:
    """Make a record what it was before a turn was taken out."""
    given = PutBackAsked.model_validate(asked)
    return _moved(studio, given, turns.put_back(studio.store, given.record, given.state))


def _moved(studio: Studio, asked: Fitting, changed: turns.Changed) -> dict[str, Any]:
    """What changed, and where the row to go to stands among those that fit."""
    table = studio.store.read()
    rows = _chosen(studio, table, asked.model_copy(update={"keep": changed.row}))
    index = next((place for place, row in enumerate(rows) if row["id"] == changed.row), 0)
    return {**asdict(changed), "index": index, "version": table.version}


def found(studio: Studio, asked: dict[str, Any]) -> dict[str, Any]:
    """What stands in the way, and where."""
    return studio.findings.summary(studio.store.read())


def prepared(studio: Studio, asked: dict[str, Any]) -> dict[str, Any]:
    """Start check and split, or with `dry` only show their commands."""
    given = PrepareAsked.model_validate(asked)
    steps = buttons.prepare(studio.space, given.test, mend=given.mend)
    if given.dry:
        return {"command": buttons.shown(steps, studio.space)}

    def busy(other: jobs.Job) -> Refused | None:
        return Refused("checking") if other.kind == "prepare" else None

    job = jobs.start(studio.space, "prepare", "Check and split", steps, unless=busy)
    studio.space.keep(mend=given.mend or None, test=given.test)  # what a refused click asked for is no choice
    return {"job": job.id}


def kept(studio: Studio, asked: dict[str, Any]) -> dict[str, Any]:
    """Keep the page's language."""
    language = asked.get("language")
    if language not in LANGUAGES:
        raise UserError(f"language: one of {', '.join(LANGUAGES)}")
    studio.space.keep(language=language)
    return {}


CALLS: dict[str, Callable[[Studio, dict[str, Any]], dict[str, Any]]] = {
    "state": state,
    "sources": listed,
    "look": looked,
    "hub": fetched,
    "take": taken,
    "rows": rows,
    "edit": edited,
    "turn": turned,
    "put-back": put_back,
    "findings": found,
    "prepare": prepared,
    "keep": kept,
}
