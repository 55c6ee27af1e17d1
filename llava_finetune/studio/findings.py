"""What stands in the way, at its picture: what the table lacks, what `check` found, what was mended, and the parts.

known = Findings(space)
known.marks(table).rows["row-7"]      # {"part": "test", "found": ["image truncated"]}
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data_prep.check.kinds import KINDS
from data_prep.converters.options import picture_problem
from data_prep.errors import DataError
from data_prep.files import sha256_of
from data_prep.records.output import meta_path
from data_prep.records.record import read_records
from llava_finetune.studio.buttons import has_answers, split_file
from llava_finetune.studio.dialogues import pictures_of, record_of
from llava_finetune.studio.documents import CheckFile, MetaFile, read_known
from llava_finetune.studio.table import Table, is_open, stamp_of
from llava_finetune.studio.workspace import Workspace

PARTS = ("train", "test")
TYPED = frozenset({"answers.csv", "typed.json"})
"""Sources of records in which typed answers are."""
NUM_COMMON = 40
"""Answers that are offered while one is typed: the commonest."""


@dataclass(frozen=True)
class Marks:
    """Each row's findings and part, by its id; the findings by kind; the size of each part; pictures in both."""

    rows: Mapping[str, dict[str, Any]] = field(default_factory=dict)
    kinds: tuple[dict[str, Any], ...] = ()
    parts: Mapping[str, int] = field(default_factory=dict)
    shared: tuple[str, ...] = ()
    ok: bool | None = None
    number: int = 0


class Findings:
    """What is known about the rows; read again when one of the files changed, or other rows came."""

    def __init__(self, space: Workspace) -> None:
        self.space = space
        self._turn = threading.Lock()
        self._key: tuple[Any, ...] = ()
        self._of: Mapping[str, int] | None = None
        self._marks = Marks()

    def marks(self, table: Table) -> Marks:
        """The marks of the table's rows."""
        space = self.space
        files = (space.folder / "check.json", space.records, split_file(space, "train"), split_file(space, "test"))
        with self._turn:
            images = space.images
            key = (*map(stamp_of, files), images, stamp_of(images) if images else None)
            if key != self._key or table.places is not self._of:
                self._marks = _marks(space, table, self._marks.number + 1)
                self._key, self._of = key, table.places
            return self._marks

    def summary(self, table: Table) -> dict[str, Any]:
        """Counts, findings by kind, and whether check and split are of the table as it is (`fresh`)."""
        marks = self.marks(table)
        given = Counter(answer for row in table.rows if (answer := row["answer"].strip()))
        waiting = Counter("of" in row for row in table.rows if is_open(row))
        return {
            "kinds": marks.kinds,
            "marked": sum("found" in mark for mark in marks.rows.values()),
            "parts": marks.parts,
            "shared": marks.shared,
            "ok": marks.ok,
            "marks": marks.number,
            "total": len(table.rows),
            "answered": given.total(),
            "common": [answer for answer, _ in given.most_common(NUM_COMMON)],
            "mended": _mended(self.space),
            "open": waiting[False],
            "open_turns": waiting[True],
            "fresh": self.is_fresh(table),
        }

    def is_fresh(self, table: Table) -> bool:
        """Whether the parts were made from the table as it is: what was typed while they were made is not in them."""
        space = self.space
        split, records = stamp_of(split_file(space, "train"))[0], stamp_of(space.records)[0]
        files = [path for path in (space.answers, space.dialogues) if path.is_file()]
        metas = [read_known(meta_path(path), MetaFile) for path in (space.records, space.folder / "typed.json")]
        made_of = {Path(source.get("path") or "").name for source in metas[0].get("sources", [])}
        if len(files) > 1 and not made_of & TYPED and not has_answers(space.images, table.typed):
            files.remove(space.answers)  # nothing of it is in the records
        if not split or split < records or not files:
            return False
        sums = {source.get("sha256") for meta in metas for source in meta.get("sources", [])} - {None}
        return all(sha256_of(path) in sums if sums else split >= stamp_of(path)[0] for path in files)


def _marks(space: Workspace, table: Table, number: int) -> Marks:
    rows: dict[str, dict[str, Any]] = {}
    kinds = _missing(space, table, rows)
    file = space.folder / "check.json"
    is_newest = stamp_of(file)[0] >= stamp_of(space.records)[0]  # else it names places in records that are gone
    check = read_known(file, CheckFile) if is_newest else {}
    kinds += _checked(space, check, rows)
    parts, shared = _parts(space, table, rows)
    return Marks(rows, tuple(kinds), parts, shared, bool(check.get("ok")) if check else None, number)


def _mark(rows: dict[str, dict[str, Any]], row: str, kind: str) -> None:
    found = rows.setdefault(row, {}).setdefault("found", [])
    if kind not in found:
        found.append(kind)


def _missing(space: Workspace, table: Table, rows: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows whose picture has no file that may be read, and answers to no question: they become no record, so `check`
    never sees them."""
    images = space.images
    found: dict[str, list[str]] = {"image missing": [], "empty text": []}
    for row in table.typed:
        if images is not None and picture_problem(images, row["image"]):
            found["image missing"].append(row["id"])
        if row["answer"].strip() and not row["question"].strip():
            found["empty text"].append(row["id"])
    for kind, places in found.items():
        for place in places:
            _mark(rows, place, kind)
    left_out = {"is_mendable": False, "is_left_out": True}
    return [{**_kind(kind, len(places), places[:200]), **left_out} for kind, places in found.items() if places]


def _kind(name: str, count: int, places: list[str], detail: str = "") -> dict[str, Any]:
    kind = KINDS[name]
    return {
        "kind": name,
        "severity": kind.severity.value,
        "count": count,
        "is_mendable": bool(kind.fixed),
        "detail": detail,
        "rows": places,
    }


def _checked(space: Workspace, check: dict[str, Any], rows: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """The findings of check.json, at the rows whose records they name."""
    ids: list[str] = []
    if check:
        try:
            ids = [str(record.get("id")) for record in read_records(space.records)]
        except (DataError, OSError):
            return []
    out = []
    for found in check.get("findings", []):
        if found["kind"] not in KINDS:
            continue
        places = list(dict.fromkeys(ids[index] for index in found.get("indices", []) if 0 <= index < len(ids)))
        for row in places:
            _mark(rows, row, found["kind"])
        details = [one["detail"] for one in found["examples"]]
        out.append(_kind(found["kind"], found["count"], places[:200], details[0] if details else ""))
    return out


def _parts(space: Workspace, table: Table, rows: dict[str, dict[str, Any]]) -> tuple[dict[str, int], tuple[str, ...]]:
    """How many records each part has, and pictures that are in both; the rows are told their part."""
    counts: dict[str, int] = {}
    known = {record_of(row) for row in table.rows}
    seen: list[set[str]] = []
    for part in PARTS:
        try:
            records = read_records(split_file(space, part))
        except (DataError, OSError):
            continue
        counts[part] = len(records)
        seen.append({name for record in records for name in pictures_of(record)})
        for record in records:
            if (name := str(record.get("id"))) in known:
                rows.setdefault(name, {})["part"] = part
    return counts, tuple(sorted(set.intersection(*seen)))[:20] if len(seen) == len(PARTS) else ()


def _mended(space: Workspace) -> dict[str, Any] | None:
    """What `check --fix` did to which record."""
    meta = read_known(space.folder / "mended.meta.json", MetaFile)
    if not meta or not space.settings().get("mend"):
        return None
    return {"counts": meta.get("counts", {}), "dropped": meta.get("dropped", [])[:200]}
