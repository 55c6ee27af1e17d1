"""Rows of a source into answers.csv, joined with what is there: nothing that was typed is lost.

take(Store(workspace), Choice("pets.csv", images="photos", roles={"image": "file"}))
# Taken(added=120, filled=3, kept=7, without=0)
"""

from __future__ import annotations

import json
import stat
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from data_prep.converters.cells import local_name
from data_prep.converters.options import picture_problem
from data_prep.converters.rows import Reading, cell_at, read_rows
from data_prep.errors import DataError
from data_prep.files import atomic_file, copy_file, sha256_of
from llava_finetune.errors import UserError
from llava_finetune.studio.dialogues import ROW, is_plain, joined, read_dialogues, turn_rows, write_dialogues
from llava_finetune.studio.refusals import Refused
from llava_finetune.studio.sources import QUESTION, cell_text, folder_row, is_records, picture_names, records_in
from llava_finetune.studio.table import COLUMNS, Cells, Store
from llava_finetune.studio.uploads import ENDINGS_TAKEN
from llava_finetune.studio.workspace import OWN, Workspace

MOST_ROWS = 200_000
MOST_FILES = 100_000
MOST_UNPACKED = 50_000_000_000
"""Bytes that an archive may become."""


@dataclass(frozen=True)
class Choice:
    """A source, the folder of its pictures, which column is which, the question where no column has one, and the
    encoding of a table where one was chosen."""

    name: str
    images: str | None
    roles: Mapping[str, str | None]
    question: str = QUESTION
    labels: bool = False
    encoding: str | None = None


@dataclass(frozen=True)
class Taken:
    """What became of the rows of a source."""

    added: int
    filled: int
    kept: int
    without: int


def take(store: Store, choice: Choice) -> Taken:
    """Join the rows of a source with answers.csv, which is written whole or not at all.

    A row for the same picture and question fills in an answer that is missing and leaves one that was given; one that
    became a dialogue, or that a dialogue about that picture alone says already, is there.
    All rows name pictures below one folder: of a source in another one, pictures are linked into that of the rows.
    """
    space = store.space
    if not choice.images:
        raise Refused("which_folder")
    folder = space.below(choice.images)
    if not folder.is_dir():
        raise Refused("no_file", name=choice.images)
    with space.locked():
        table = store.read()
        before = space.images if table.rows else None
        root = before if before and before.is_dir() else folder
        rows = [dict(row) for row in table.typed]
        known = {(row["image"], row["question"]): place for place, row in enumerate(rows)}
        told = {_said(row) for row in table.rows if "of" in row and json.loads(row["pictures"]) == [row["image"]]}
        told |= {(image, question, "") for image, question, _ in told}  # an answer that is missing adds nothing
        once = [record[ROW] for record in read_dialogues(space.dialogues) if isinstance(record.get(ROW), dict)]
        became = {(row.get("image"), row.get("question")) for row in once}
        names, counts = list(table.names), {"added": 0, "filled": 0, "kept": 0, "without": 0}
        for row in rows_of(space, choice, folder):
            row["image"] = _brought(row["image"], folder, root)
            names += [name for name in row if name not in names]
            is_there = _said(row) in told or (row["image"], row["question"]) in became
            counts["kept" if is_there else _join(rows, known, row)] += 1
            if len(rows) > MOST_ROWS:
                raise Refused("too_many_rows", most=MOST_ROWS)
        counts["added"] += _keep_whole(space, choice, (folder, root), [row["id"] for row in rows])
        if rows:
            store.put(names, rows)
    space.keep(images=space.name_of(root))
    return Taken(**counts)


def _brought(name: str, folder: Path, root: Path) -> str:
    """The name below `root` of a picture below `folder`, which is linked into it where it lies elsewhere."""
    if folder == root or not name or picture_problem(folder, name):
        return name
    picture = folder / name
    if root not in picture.parents:
        picture = beside_others(picture, root / folder.name / Path(name).parent)
    return picture.relative_to(root).as_posix()


def beside_others(picture: Path, folder: Path) -> Path:
    """The picture in another folder, beside others of the same name: rows name those already. Two names for one file
    where the disk can, else a copy."""
    target, number = folder / picture.name, 2
    while target.exists() and not target.samefile(picture) and sha256_of(target) != sha256_of(picture):
        target = folder / f"{picture.stem}-{number}{picture.suffix}"
        number += 1
    if not target.exists():
        folder.mkdir(parents=True, exist_ok=True)
        try:
            target.hardlink_to(picture.resolve())
        except OSError:  # another disk, or one that has no links
            copy_file(picture, target)
    return target


def _keep_whole(space: Workspace, choice: Choice, folders: tuple[Path, Path], names: list[str]) -> int:
    """Keep the records of a source that no row can hold; return how many were added."""
    path = space.below(choice.name)
    if path.is_dir() or not is_records(path):
        return 0
    whole = [_with_local_names(record, *folders) for _, record in records_in(path) if not is_plain(record)]
    records, added = joined(read_dialogues(space.dialogues), whole, names)
    if added:
        write_dialogues(space.dialogues, records)
    return added


def _with_local_names(record: dict[str, Any], folder: Path, root: Path) -> dict[str, Any]:
    image = record.get("image")
    if isinstance(image, list):
        names = [_brought(local_name(one, folder), folder, root) if isinstance(one, str) else one for one in image]
        return {**record, "image": names}
    if not isinstance(image, str) or not image:
        return record
    return {**record, "image": _brought(local_name(image, folder), folder, root)}


def _said(row: Cells) -> tuple[str, str, str]:
    return row["image"], row["question"], row["answer"].strip()


def _join(rows: list[Cells], known: dict[tuple[str, str], int], row: Cells) -> str:
    """Put one row beside the others; say what became of it."""
    if not row["image"]:
        return "without"
    place = known.get((row["image"], row["question"]))
    if place is None:
        known[row["image"], row["question"]] = len(rows)
        rows.append(row)
        return "added"
    if row["answer"] and not rows[place]["answer"]:
        rows[place]["answer"] = row["answer"]
        return "filled"
    return "kept"


def rows_of(space: Workspace, choice: Choice, folder: Path) -> Iterator[Cells]:
    """The rows of a source with the columns of answers.csv; other columns (choices, notes) come along."""
    path = space.below(choice.name)
    asked = choice.question.strip() or QUESTION
    if path.is_dir():
        for name in picture_names(path):
            row = folder_row(path, name, choice.labels)
            yield {"id": "", "image": row["image"], "question": asked, "answer": row["answer"]}
        return
    if is_records(path):
        for _, record in records_in(path):
            if is_plain(record):
                row = turn_rows(record)[0]
                own = {name: row[name] for name in ("question", "answer")}
                yield {"id": row["of"], "image": local_name(row["image"], folder), **own}
        return
    columns = {role: name for role, name in choice.roles.items() if name}
    if not columns.get("image"):
        raise Refused("which_column", name=choice.name)
    for _, row in read_rows(path, Reading(encoding=choice.encoding)):
        yield _row(row, columns, folder, asked)


def _row(row: Mapping[str, Any], columns: Mapping[str, str], folder: Path, asked: str) -> Cells:
    cells = {role: cell_text(cell_at(row, columns[role])).strip() if role in columns else "" for role in COLUMNS[1:]}
    cells["image"] = local_name(cells["image"], folder) if cells["image"] else ""
    taken = {*columns.values(), *COLUMNS}
    more = {str(name).strip(): cell_text(value) for name, value in row.items() if name not in taken}
    return {"id": cell_text(row.get("id")), **cells, "question": cells["question"] or asked, **more}


def unpack(space: Workspace, name: str) -> str:
    """Unpack an archive into a folder beside it; return the folder's name in the workspace.

    Pictures, tables and texts alone are unpacked: a package of Python would be imported by what runs in the workspace.
    Raises UserError for names that lead out, links, and more than is allowed; a half unpacked folder is left out.
    """
    archive = space.below(name)
    if not archive.is_file():
        raise Refused("no_file", name=name)
    space.hidden.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="unpacking-", dir=space.hidden) as begun:
        whole = Path(begun) / "whole"
        try:
            with zipfile.ZipFile(archive) as file:
                members = [one for one in file.infolist() if _is_wanted(one, name)]
                total = sum(one.file_size for one in members)
                if len(members) > MOST_FILES or total > MOST_UNPACKED:
                    raise Refused("large_archive", name=name, files=len(members), bytes=total)
                if not members:
                    raise Refused("empty_archive", name=name)
                target = _place_of(space.below(str(PurePosixPath(name).with_suffix(""))), members)
                if target.exists():
                    return space.name_of(target)
                for one in members:
                    _unpack_one(file, one, whole)
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
            raise Refused("bad_archive", name=name, problem=str(error)) from None
        whole.replace(target)
    return space.name_of(target)


def _place_of(wanted: Path, members: list[zipfile.ZipInfo]) -> Path:
    """The first free name for the folder, or the folder into which the same members were unpacked before."""
    place, number = wanted, 1
    while place.name in OWN or (place.exists() and not all(_lies_in(place, one) for one in members)):
        place = wanted.with_name(f"{wanted.name}-unpacked" + (f"-{number}" if number > 1 else ""))
        number += 1
    return place


def _lies_in(folder: Path, member: zipfile.ZipInfo) -> bool:
    path = folder / member.filename.replace("\\", "/")
    return path.is_file() and path.stat().st_size == member.file_size


def _is_wanted(member: zipfile.ZipInfo, name: str) -> bool:
    """Whether a member is unpacked: data, nothing that a system adds. Raises UserError for one that leads out."""
    parts = PurePosixPath(member.filename.replace("\\", "/")).parts
    if member.filename.startswith("/") or ".." in parts or stat.S_ISLNK(member.external_attr >> 16):
        raise UserError(f"{name}: holds {member.filename[:100]!r}, which leads out of the folder; nothing was unpacked")
    if not parts or member.is_dir() or parts[0] == "__MACOSX" or parts[-1].startswith("."):
        return False
    return PurePosixPath(parts[-1]).suffix.lower() in ENDINGS_TAKEN


def _unpack_one(file: zipfile.ZipFile, member: zipfile.ZipInfo, target: Path) -> None:
    left = member.file_size
    with file.open(member) as packed, atomic_file(target / member.filename.replace("\\", "/")) as out:
        while block := packed.read(1 << 20):
            left -= len(block)
            if left < 0:
                raise DataError(target / member.filename, "becomes larger than the archive says; nothing was kept")
            out.write(block)
