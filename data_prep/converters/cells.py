"""The pictures that a row of a table names: one, several in a cell, or a column for each.

columns = image_columns(row, None, "pets.csv")      # ("image",), or ("image_1", "image_2")
names_in(row, columns, Path("photos"))              # ["a.jpg", "b.jpg"] of "a.jpg; b.jpg"
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

from data_prep.converters.options import files_meant, picture_problem
from data_prep.converters.rows import Placed, Row, cell_at, column
from data_prep.converters.texts import NoText, listed, text_of
from data_prep.converters.usual_names import IMAGE_NAMES
from data_prep.errors import DataError
from data_prep.records.near_names import near_name
from data_prep.records.output import Reason

FIRST = re.compile(r"(.*?)([ _-]?)(0*)([01])")
SEPARATORS = ("\n", ";", "|", ",", " ")
EMBEDDED = re.compile(r"data:|[A-Za-z0-9+/\s]{200}")
"""How a picture written into a cell as base64 begins."""


def image_columns(row: Row, asked: str | None, source: object) -> tuple[str, ...]:
    """Return the columns of pictures: the one asked for or usual, and with image_1 also image_2, image_3 ...

    Raises DataError, as `column` does, when there is none.
    """
    first = column(row, asked, IMAGE_NAMES, "picture", source, "--image-column")
    return (first, *numbered_after(row, first)) if asked is None else (first,)


def numbered_after(row: Mapping[str, Any], first: str) -> list[str]:
    """Return the columns that go on counting where `first` begins: image_2, image_3 ... after image_1."""
    found = FIRST.fullmatch(first)
    if not found:
        return []
    base, mark, zeros, digit = found.groups()
    names: list[str] = []
    while (name := f"{base}{mark}{str(int(digit) + len(names) + 1).zfill(len(zeros) + 1)}") in row:
        names.append(name)
    return names


def names_in(
    row: Mapping[str, Any], columns: tuple[str, ...], folder: Path, there: set[str] | None = None
) -> list[str]:
    """Return the names below `folder` of the pictures that a row names; none where its cells are empty.

    `there` gets those that were seen to be there. Raises NoText for a cell that is no name.
    """
    seen = set() if there is None else there
    return [name for place in columns for name in _names(cell_at(row, place), folder, place, seen)]


@dataclass(frozen=True)
class Named:
    """A row, the pictures that it names, and what is wrong with each that is none; `problem`: why it names nothing."""

    place: str
    row: Row
    names: list[str]
    missing: dict[str, Reason]
    problem: NoText | None = None

    def meaning(self, files: Mapping[str, str]) -> Named:
        """Return the row with the files that names without a picture mean."""
        names = [files.get(name, name) for name in self.names]
        return replace(self, names=names, missing={name: self.missing[name] for name in self.missing if name in names})


def named_rows(rows: Iterable[Placed], columns: tuple[str, ...], folder: Path) -> Iterator[Named]:
    """Yield the rows with the pictures that they name, missing ones by the file that their name means.

    The files are looked for when the first row comes whose picture is missing, by all such names at once, as with the
    paths of another machine: the rows from there on are read ahead.
    """
    coming = (_named(place, row, columns, folder) for place, row in rows)
    for one in coming:
        if one.missing:
            ahead = [one, *coming]
            files = files_meant(folder, {name for each in ahead for name in each.missing})
            yield from (each.meaning(files) for each in ahead)
        else:
            yield one


def _named(place: str, row: Row, columns: tuple[str, ...], folder: Path) -> Named:
    try:
        names = names_in(row, columns, folder, there := set[str]())
    except NoText as error:
        return Named(place, row, [], {}, error)
    problems = ((name, picture_problem(folder, name)) for name in names if name not in there)
    return Named(place, row, names, {name: problem for name, problem in problems if problem})


def _names(cell: Any, folder: Path, place: str, there: set[str]) -> list[str]:
    if isinstance(cell, Mapping):
        cell = cell.get("path") or cell.get("file_name") or cell.get("url") or cell
    if isinstance(cell, list | tuple):
        return [name for one in cell for name in _names(one, folder, place, there)]
    try:
        text = text_of(cell).strip()
    except NoText as error:
        raise NoText(f'column "{place}": {error}; a picture is a name') from None
    if not text:
        return []
    found = listed(text)
    if isinstance(found, list):
        return _names(found, folder, place, there)
    name, problem = _local(text, folder)
    if problem is None:
        there.add(name)
    return [name] if problem is None else _several(text, folder) or [name]


def _several(text: str, folder: Path) -> list[str]:
    """Return the names that a cell lists, where one of them at least is there; none for a cell that lists nothing."""
    for mark in SEPARATORS:
        parts = [part.strip().strip("\"'") for part in text.split(mark)]
        names = [local_name(part, folder) for part in parts if part]
        if len(names) > 1 and any(picture_problem(folder, name) is None for name in names):
            return names
    return []


def local_name(text: str, folder: Path) -> str:
    """Return the name below `folder` that a cell means: a path as it is, an address as the file it was saved to.

    `./a.jpg` is `a.jpg`; a path that begins with the folder itself loses it; for `https://host/x/a.jpg?w=1` the names
    `host/x/a.jpg`, `x/a.jpg` and `a.jpg` are looked for. A name that no file has is that of the file it means: with
    backslashes, in another case or Unicode form (see `near_names`).
    """
    return _local(text, folder)[0]


def _local(text: str, folder: Path) -> tuple[str, Reason | None]:
    """Return what `local_name` does, and why no record can name it: None where its picture is there."""
    if "://" in text:
        try:
            parts = urlsplit(text)
        except ValueError:  # a bracket that is opened and not closed
            return text, picture_problem(folder, text)
        steps = [step for step in unquote(parts.path).split("/") if step]
        wanted = ["/".join([parts.netloc, *steps]), *("/".join(steps[place:]) for place in range(len(steps)))]
        found = next((name for name in wanted if picture_problem(folder, name) is None), None)
        return (wanted[-1], picture_problem(folder, wanted[-1])) if found is None else (found, None)
    path = PurePosixPath(text)
    if path.is_absolute() and path.is_relative_to(str(folder.absolute())):
        name = str(path.relative_to(str(folder.absolute())))
        return name, picture_problem(folder, name)
    name = text.removeprefix("./")
    problem = picture_problem(folder, name)
    near = near_name(folder, name) if problem else None
    return (near, None) if near else (name, problem)


def refuse_embedded(row: Row, columns: tuple[str, ...], source: object, command: str) -> None:
    """Raise DataError for pictures that are written into the cells: `command` writes them as files."""
    for place in columns:
        value = cell_at(row, place)
        one = value[0] if isinstance(value, list) and value else value
        inside = one.get("bytes") if isinstance(one, Mapping) else one
        if isinstance(inside, bytes) or (isinstance(inside, str) and EMBEDDED.match(inside)):
            raise DataError(source, f'column "{place}" holds pictures themselves; {command} writes them as files')
