"""What lies in the workspace and could become rows: folders of pictures, tables, records, archives.

found = sources(workspace)                      # [Source("photos", "pictures", 120), Source("pets.csv", "table", 0)]
look = preview(workspace, "pets.csv", None)     # its columns, which is which, and the first rows
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from data_prep.converters.beside import text_beside
from data_prep.converters.captions import CAPTION_NAMES
from data_prep.converters.cells import local_name
from data_prep.converters.encodings import encoding_of
from data_prep.converters.folder import pictures_below
from data_prep.converters.options import picture_problem
from data_prep.converters.rows import FORMATS, Reading, read_rows, usual_column
from data_prep.converters.texts import NoText, text_of
from data_prep.converters.usual_names import ANSWER_NAMES, IMAGE_NAMES, QUESTION_NAMES
from data_prep.errors import DataError
from data_prep.records.foreign import ENDINGS
from llava_finetune.studio.dialogues import require_turns, turn_rows
from llava_finetune.studio.refusals import Refused
from llava_finetune.studio.workspace import OWN, Workspace

MOST_ENTRIES = 50_000
LOOKED_AT = 200
"""Rows of a table whose pictures are looked for, to find the folder that they are named relative to."""
SHOWN = 5
QUESTION = "What is in this picture?"
ROLES = {"image": IMAGE_NAMES, "question": QUESTION_NAMES, "answer": (*ANSWER_NAMES, *CAPTION_NAMES)}


@dataclass(frozen=True)
class Source:
    """A thing in the workspace: its name, pictures, table or archive, and how many pictures lie in it."""

    name: str
    kind: str
    pictures: int = 0


def sources(space: Workspace) -> list[Source]:
    """What could be read, folders of pictures first; our own files and hidden ones are left out."""
    space.require()
    counts: dict[str, int] = {}
    files: list[Source] = []
    for number, path in enumerate(_files(space.folder)):
        if number > MOST_ENTRIES:
            break
        below = path.relative_to(space.folder)
        ending = path.suffix.lower()
        if ending in ENDINGS:
            top = below.parts[0] if len(below.parts) > 1 else "."
            counts[top] = counts.get(top, 0) + 1
        elif ending == ".zip":
            files.append(Source(below.as_posix(), "archive"))
        elif ending in FORMATS:
            files.append(Source(below.as_posix(), "table"))
    folders = [Source(name, "pictures", count) for name, count in sorted(counts.items())]
    return [*folders, *sorted(files, key=lambda one: one.name)]


def _files(folder: Path) -> Iterator[Path]:
    for place, folders, names in os.walk(folder):
        is_top = Path(place) == folder
        folders[:] = sorted(name for name in folders if not name.startswith(".") and not (is_top and name in OWN))
        kept = (name for name in sorted(names) if not name.startswith(".") and not (is_top and name in OWN))
        yield from (Path(place) / name for name in kept)


@dataclass(frozen=True)
class Preview:
    """What a source holds: its columns, which of them is which, its first rows, and the folder of their pictures."""

    name: str
    kind: str
    columns: list[str]
    roles: dict[str, str | None]
    rows: list[dict[str, str]]
    images: str | None
    seen: int
    found: int
    labels: bool = False
    encoding: str | None = None


def preview(space: Workspace, name: str, images: str | None, encoding: str | None = None) -> Preview:
    """Look into a source, a table of an `encoding` that was chosen.

    Raises DataError or UserError, in words, for what cannot be read, and NotUtf8 with the encodings to choose from.
    """
    path = space.below(name)
    if path.is_dir():
        names = picture_names(path)
        has_labels = len({Path(one).parts[0] for one in names if "/" in one}) > 1
        shown = [folder_row(path, one, has_labels) for one in names[:SHOWN]]
        roles: dict[str, str | None] = {"image": "image", "question": None, "answer": "answer"}
        return Preview(name, "pictures", [], roles, shown, name, len(names), len(names), has_labels)
    if is_records(path):
        rows = list(islice(record_rows(path), LOOKED_AT))
        roles = {"image": "image", "question": "question", "answer": "answer"}
    else:
        rows = [row for _, row in islice(read_rows(path, Reading(encoding=encoding)), LOOKED_AT)]
        if not rows:
            raise Refused("no_row", name=name)
        roles = {role: usual_column(rows[0], usual) for role, usual in ROLES.items()}
        first = next((str(one) for one in rows[0] if Path(str(one)).suffix.lower() in ENDINGS), None)
        if first and not roles["image"]:
            raise Refused("no_header", name=name, first=first)
    column = roles["image"]
    folder, found = _folder_of(space, rows, column, images) if column else (images, 0)
    shown = [{key: cell_text(value)[:200] for key, value in row.items()} for row in rows[:SHOWN]]
    if column and folder:
        shown = [{**row, "": _local(row.get(column, ""), space.below(folder))} for row in shown]
    kind = "records" if is_records(path) else "table"
    return Preview(name, kind, [str(one) for one in rows[0]], roles, shown, folder, len(rows), found, False, encoding)


def picture_names(folder: Path) -> list[str]:
    """Names of the pictures below a folder. Raises DataError for one that is not UTF-8: no table can hold it."""
    names = pictures_below(folder)
    for name in names:
        if not is_text(name):
            shown = name.encode(errors="surrogateescape").decode(errors="replace")
            advice = "rename it, for example with: convmv -r --notest -f latin1 -t utf8 FOLDER"
            raise DataError(folder, f"the name of the picture {shown} is not UTF-8; {advice}")
    return names


def is_text(name: str) -> bool:
    """Whether a file's name is UTF-8: the system gives the bytes of others as halves of surrogate pairs."""
    return not any("\ud800" <= letter <= "\udfff" for letter in name)


def folder_row(folder: Path, name: str, has_labels: bool) -> dict[str, str]:
    """A row for a picture: its answer is the text beside it, or with `has_labels` the name of its first folder."""
    beside = text_beside(folder / name)
    label = Path(name).parts[0] if has_labels and "/" in name else ""
    text = beside.read_text(encoding=encoding_of(beside, None, "")).strip() if beside else label
    return {"image": name, "question": "", "answer": text, "": name}


def _folder_of(space: Workspace, rows: list[dict[str, Any]], column: str, asked: str | None) -> tuple[str | None, int]:
    """The folder below which most of the rows' pictures are found, and how many of them."""
    names = [cell_text(row.get(column)) for row in rows]
    candidates = [asked] if asked else [one.name for one in sources(space) if one.kind == "pictures"]
    best: tuple[str | None, int] = (asked, 0)
    for candidate in [*candidates, *([] if asked else _inner(space, candidates))]:
        folder = space.below(str(candidate))
        found = sum(picture_problem(folder, _local(one, folder)) is None for one in names if one)
        if found > best[1] or best[0] is None:
            best = (str(candidate), found)
    return best


def _inner(space: Workspace, tops: list[str]) -> list[str]:
    """Folders inside the folders of pictures: a table may stand beside `data/photos` and name `a.jpg`."""
    found = []
    for top in tops:
        for place, folders, _ in os.walk(space.below(top)):
            folders[:] = [one for one in folders if not one.startswith(".") and one not in OWN]
            found += [space.name_of(Path(place) / one) for one in folders]
            if len(found) > 50:
                break
    return found[:50]


def _local(text: str, folder: Path) -> str:
    return local_name(text, folder) if text else ""


def cell_text(value: Any) -> str:
    """A cell as text: a list as JSON, what is no text as nothing."""
    if isinstance(value, list | dict):
        return json.dumps(value, ensure_ascii=False, default=str)
    try:
        return text_of(value)
    except NoText:
        return ""


def is_records(path: Path) -> bool:
    """Whether a file holds records in the human/gpt layout."""
    if path.suffix.lower() not in {".json", ".jsonl"}:
        return False
    try:
        first = next(iter(read_rows(path, Reading())))[1]
    except (DataError, StopIteration):
        return False
    return isinstance(first.get("conversations"), list)


def record_rows(path: Path) -> Iterator[dict[str, str]]:
    """A row for each question of the records. Raises DataError for a record without one that an answer follows."""
    for _, record in records_in(path):
        yield from turn_rows(record)


def records_in(path: Path) -> Iterator[tuple[Any, dict[str, Any]]]:
    """Place and record of a file. Raises DataError for a record that nothing can be learned from."""
    for place, record in read_rows(path, Reading()):
        require_turns(path, place, record)
        yield place, dict(record)
