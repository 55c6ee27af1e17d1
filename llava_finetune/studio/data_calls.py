"""Calls of the first screen: what lies here, the grid, what was typed, check and split.

CALLS["rows"](studio, {"first": 0, "count": 100})      # {"version": ..., "total": 20000, "rows": [...]}
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from pydantic import BaseModel, Field

from llava_finetune import __version__
from llava_finetune.errors import UserError
from llava_finetune.studio import commands, hub, intake, jobs
from llava_finetune.studio.dialogues import record_of
from llava_finetune.studio.refusals import Refused
from llava_finetune.studio.shared import Studio
from llava_finetune.studio.sources import QUESTION, preview, sources
from llava_finetune.studio.table import Cells, Edit, Table

MOST_ROWS = 500


class RowsAsked(BaseModel):
    """A stretch of the grid, of all rows or of those that fit."""

    first: int = Field(0, ge=0)
    count: int = Field(100, ge=0, le=MOST_ROWS)
    show: str = "all"
    text: str = Field("", max_length=500)


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
    """The first rows of a source; an archive is unpacked first."""
    given = LookAsked.model_validate(asked)
    if given.name.lower().endswith(".zip"):
        folder = intake.unpack(studio.space, given.name)
        inside = [one for one in sources(studio.space) if one.name == folder or one.name.startswith(f"{folder}/")]
        tables = [one for one in inside if one.kind == "table"]
        given = LookAsked(name=tables[0].name if tables else folder)
    return asdict(preview(studio.space, given.name, given.images))


def fetched(studio: Studio, asked: dict[str, Any]) -> dict[str, Any]:
    """Fetch a data set of the hub, or with `dry` only show the command; `records` is what to look at afterwards."""
    given = hub.HubAsked.model_validate(asked)
    space, steps = studio.space, hub.fetch(studio.space, given)
    name = hub.name_of(given.name)
    where = {"records": f"{hub.folder_of(name)}/records.json", "images": hub.images_of(space, name)}
    if given.dry:
        return {"command": commands.shown(steps, space), **where}
    before = [one for one in jobs.jobs(space) if one.kind == "hub" and one.about.get("name") == name]
    if any(jobs.look(one).state not in jobs.ENDED for one in before):
        raise Refused("fetching", name=name)
    return {"job": jobs.start(space, "hub", name, steps, name=name).id, **where}


def taken(studio: Studio, asked: dict[str, Any]) -> dict[str, Any]:
    """Join a source with the table."""
    given = TakeAsked.model_validate(asked)
    choice = intake.Choice(given.name, given.images, given.roles, given.question or QUESTION, given.labels)
    return {"words": intake.take(studio.store, choice).words, **state(studio, {})}


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


def _chosen(studio: Studio, table: Table, asked: RowsAsked) -> Sequence[Cells]:
    found: Sequence[Cells] = table.rows
    if asked.show == "open":
        found = [row for row in found if not row["answer"].strip()]
    elif asked.show != "all":
        about = studio.findings.marks(table).rows
        kind = asked.show.partition(":")[2]
        if asked.show.startswith("part:"):
            found = [row for row in found if about.get(record_of(row), {}).get("part") == kind]
        else:
            wanted = [about.get(record_of(row), {}).get("found", []) for row in found]
            pairs = zip(found, wanted, strict=True)
            found = [row for row, kinds in pairs if (kind in kinds if kind else kinds)]
    if text := asked.text.strip().casefold():
        found = [row for row in found if any(text in row[name].casefold() for name in ("image", "question", "answer"))]
    return found


def _sent(row: Cells) -> dict[str, Any]:
    sent: dict[str, Any] = {name: row[name] for name in ("id", "image", "question", "answer")}
    if "of" in row:
        sent |= {"turn": int(row["turn"]), "turns": int(row["turns"]), "pictures": json.loads(row["pictures"])}
    return sent


def edited(studio: Studio, asked: dict[str, Any]) -> dict[str, Any]:
    """Take what was typed; what somebody else changed meanwhile comes back."""
    given = EditsAsked.model_validate(asked)
    refused = studio.store.apply([Edit(one.row, one.column, one.was, one.now) for one in given.edits])
    return {"refused": [asdict(one) for one in refused], "version": studio.store.read().version}


def found(studio: Studio, asked: dict[str, Any]) -> dict[str, Any]:
    """What stands in the way, and where."""
    return studio.findings.summary(studio.store.read())


def prepared(studio: Studio, asked: dict[str, Any]) -> dict[str, Any]:
    """Start check and split, or with `dry` only show their commands."""
    given = PrepareAsked.model_validate(asked)
    steps = commands.prepare(studio.space, given.test, mend=given.mend)
    if given.dry:
        return {"command": commands.shown(steps, studio.space)}
    before = [one for one in jobs.jobs(studio.space) if one.kind == "prepare"]
    if any(jobs.look(one).state not in jobs.ENDED for one in before):
        raise Refused("checking")
    studio.space.keep(mend=given.mend or None, test=given.test)
    return {"job": jobs.start(studio.space, "prepare", "Check and split", steps).id}


def kept(studio: Studio, asked: dict[str, Any]) -> dict[str, Any]:
    """Keep the page's language."""
    language = asked.get("language")
    if language not in ("en", "de", "zh"):
        raise UserError("language: en, de or zh")
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
    "findings": found,
    "prepare": prepared,
    "keep": kept,
}
