"""Rows of tables: CSV, TSV, JSONL, JSON, Excel, parquet or a folder, as dicts, with each row's place for messages.

for place, row in read_rows(Path("pets.csv")): ...      # ("line 2", {"image": "a.jpg", "question": ...})
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path, PurePosixPath
from shlex import quote
from typing import Any, NamedTuple

from data_prep.converters.beside import rows_beside
from data_prep.converters.delimited import delimited_rows
from data_prep.converters.excel import excel_rows
from data_prep.converters.json_rows import json_rows
from data_prep.converters.labels import label_names, with_names
from data_prep.converters.unpacking import MOST_UNPACKED, unpacked_rows
from data_prep.errors import DataError, first_line, shortened
from data_prep.records.foreign import ENDINGS

Row = dict[str, Any]
Placed = tuple[str, Row]
SHEETS = {".xls", ".ods", ".xlsb", ".numbers"}
TEXTS = {"", ".txt", ".token", ".dat", ".tab", ".text", ".lst"}
SPLITS = ("train", "test", "validation", "valid", "val", "dev", "eval")
SPLIT_COLUMNS = ("split", "data_split", "dataset_split", "subset", "set", "partition")
FORMATS = (".csv", ".tsv", ".jsonl", ".ndjson", ".json", ".xlsx", ".parquet")
NUM_NAMES = 30
"""Columns that a message lists; of a table with more, the first."""
NUM_COMPARED = 1000


class Reading(NamedTuple):
    """How a table is read: the sheet, the encoding, the bytes that a packed part may become.

    `option` and `sheet_option` are the options that name encoding and sheet, "" for a command that has none. `split` is
    read as the sheet or the list of that name where there is one; `empties_nan`: cells that say nan are empty.
    """

    sheet: str | None = None
    encoding: str | None = None
    most_unpacked: int = MOST_UNPACKED
    option: str = "--encoding"
    sheet_option: str = ""
    split: str | None = None
    empties_nan: bool = True


def read_rows(path: Path, reading: Reading = Reading()) -> Iterator[Placed]:  # noqa: B008  (immutable)
    """Yield (place, row) of a table, cells as text except in JSON and parquet; the first line of CSV names the columns.

    CSV, TSV, JSONL, Excel and parquet are streamed. Raises DataError for an unknown ending, an encoding that is not
    known, a line with more cells than columns, a packed part that becomes too large, and a broken file.
    """
    if path.is_dir():
        return rows_beside(path, reading.encoding, reading.option)
    if not path.exists():
        raise DataError(path, "no such file")
    if not path.is_file():
        raise DataError(path, "not a regular file; give a table")
    ending = path.suffix.lower()
    if ending in {".csv", ".tsv"}:
        usual = "\t" if ending == ".tsv" else None
        return delimited_rows(path, usual, reading.encoding, reading.option, reading.empties_nan)
    if ending in {".jsonl", ".ndjson", ".json"}:
        return json_rows(path, reading.sheet or reading.split, reading.encoding, reading.option)
    if ending in {".xlsx", ".xlsm"}:
        options = (reading.sheet_option, reading.split, reading.empties_nan)
        return excel_rows(path, reading.sheet, reading.most_unpacked, *options)
    if ending == ".parquet":
        return _parquet(path, reading.most_unpacked)
    advice = "save it as .xlsx" if ending in SHEETS else f"tables end in {', '.join(FORMATS)}"
    advice += "; where it is a text with a line for each row, rename it to .csv or .tsv" if ending in TEXTS else ""
    raise DataError(path, f"a table of an unknown kind ({ending or 'no ending'}); {advice}")


def _parquet(path: Path, most_unpacked: int) -> Iterator[Placed]:
    import pyarrow
    import pyarrow.parquet

    try:
        with path.open("rb") as stream, pyarrow.parquet.ParquetFile(path) as file:
            names = label_names(file.schema_arrow.metadata)
            for number, row in enumerate(unpacked_rows(file, stream, path, most_unpacked), 1):
                yield f"row {number}", with_names(row, names) if names else row
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise DataError(path, f"not a parquet file, or damaged ({first_line(error):.100}); fetch it again") from None


def cell_at(row: Mapping[str, Any], name: str) -> Any:
    """Return the cell of a column; `query.en` reaches into an object, or into each object of a list."""
    if name in row:
        return row[name]
    value: Any = row
    for step in name.split("."):
        value = _step(value, step)
    return value


def _step(value: Any, step: str) -> Any:
    if isinstance(value, list):
        return [_step(one, step) for one in value]
    return value.get(step) if isinstance(value, Mapping) else None


def has_column(row: Mapping[str, Any], name: str) -> bool:
    """Say whether a row has a column, or an object that a dotted name begins with."""
    return name in row or ("." in name and name.split(".")[0] in row)


def column(row: Row, asked: str | None, usual: Sequence[str], what: str, path: object, option: str) -> str:
    """Return the name of the column that holds `what`: the one asked for, or the first of the usual names.

    `option` is the option that would name it, "" where there is none.
    Raises DataError that lists the columns and suggests the nearest name.
    """
    if asked is not None:
        if has_column(row, asked):
            return asked
        near = _near_column(asked, row)
        hint = f', did you mean "{near}"?' if near else ""
        raise DataError(path, f'no column "{asked}"{hint}; there are {names_of(row)}')
    if found := usual_column(row, usual):
        return found
    near = _near_usual(usual, row)
    hint = f', did you mean "{near}"?' if near else ""
    problem = f"no column for the {what} (looked for {', '.join(usual)}){hint}; there are {names_of(row)}"
    advice = f"name it: {_option_for(row, what, usual, option)}" if option else "rename the column that has it"
    raise DataError(path, f"{problem}; {advice}")


class Wanted(NamedTuple):
    """A column that a table needs: the one asked for or the usual names, what it holds, the option that names it."""

    asked: str | None
    usual: Sequence[str]
    what: str
    option: str


def refuse_foreign(row: Mapping[str, Any], path: object) -> None:
    """Raise DataError for rows of other programs that are known and not read, with what to do."""
    if {"data", "annotations"} <= set(row):
        raise DataError(path, "Label Studio's own JSON; export it there as JSON-MIN or CSV, a column for each answer")
    if {"custom_id", "body"} <= set(row):
        raise DataError(path, "requests of OpenAI's batches, which hold no answers; give dialogues (messages)")


def require_columns(row: Row, wanted: Sequence[Wanted], path: object) -> None:
    """Raise DataError where two columns or more are neither named nor known, with the options that name them all.

    Where one is missing, rows of other programs and a first line that is a row are told as what they are.
    """
    missing = [one for one in wanted if one.asked is None and not usual_column(row, one.usual)]
    if not missing:
        return
    refuse_foreign(row, path)
    if picture := next((name for name in row if PurePosixPath(str(name)).suffix.lower() in ENDINGS), None):
        names = ",".join(one.what.replace("picture", "image") for one in wanted)
        problem = f"its first line names no columns but a picture, {shortened(str(picture))}"
        raise DataError(path, f"{problem}; put a line with their names above it, such as {names}")
    if len(missing) > 1:
        options = " ".join(_option_for(row, one.what, one.usual, one.option) for one in missing)
        whats = " and ".join(f"the {one.what}" for one in missing)
        title = (
            ", or delete what stands above the columns' names" if len(row) == 1 or len(missing) == len(wanted) else ""
        )
        raise DataError(
            path, f"no columns of usual names for {whats}; there are {names_of(row)}; name them: {options}{title}"
        )


def _option_for(row: Row, what: str, usual: Sequence[str], option: str) -> str:
    """Return an option with the column that looks right: by its name, or by what its first cell holds."""
    name = _near_usual(usual, row) or _by_content(row, what)
    return f"{option} {quote(name) if name else 'COLUMN'}"


def _near_usual(usual: Sequence[str], row: Row) -> str | None:
    return next((near for name in usual if (near := _near_column(name, row, 0.75))), None)


def _by_content(row: Row, what: str) -> str | None:
    ends = {"picture": tuple(ENDINGS), "question": ("?",)}.get(what)
    cells = ((name, cell.strip().lower()) for name, cell in row.items() if isinstance(cell, str))
    return next((str(name) for name, cell in cells if ends and cell.endswith(ends)), None)


def usual_column(row: Mapping[str, Any], usual: Sequence[str]) -> str | None:
    """Return the first of the usual names that is a column, whatever its case; None where there is none."""
    lowered = {str(name).strip().lower(): str(name) for name in row}
    return next((lowered[name] for name in usual if name in lowered), None)


def split_of(row: Mapping[str, Any]) -> str | None:
    """Return the part of a data set (train, test ...) that a row says to be of, in small letters; None for none.

    Of a column named split that is any word, "" where its cell is empty; of the others (subset, set ...) one of SPLITS.
    """
    name = usual_column(row, SPLIT_COLUMNS)
    if name is None:
        return None
    word = "" if row[name] is None else str(row[name]).strip().lower()
    return word if name.strip().lower().endswith("split") or word in SPLITS else None


def say_splits(path: Path, known: Mapping[str | None, int]) -> None:
    """Say that rows of several parts (train, test) were all taken, and how to take one."""
    if len(named := {name: count for name, count in known.items() if name}) > 1:
        counts = ", ".join(f"{name:.60} {count:,}" for name, count in islice(named.items(), NUM_NAMES))
        print(f"{path}: rows of several splits are taken ({counts}); one alone: python -m data_prep hf --split NAME")


def names_of(row: Mapping[str, Any]) -> str:
    """Return the names of the columns for a message, the first where there are many."""
    names = [str(name)[:60] for name in islice(row, NUM_NAMES)]
    more = len(row) - len(names)
    return ", ".join(names) + (f" and {more:,} more" if more else "")


def _near_column(name: str, row: Row, cutoff: float = 0.6) -> str | None:
    lowered = {str(column).lower(): str(column) for column in islice(row, NUM_COMPARED)}
    near = difflib.get_close_matches(name.lower(), lowered, 1, cutoff)
    return lowered[near[0]] if near else None
