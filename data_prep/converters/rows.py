"""Rows of tables: CSV, TSV, JSONL, JSON, Excel or parquet, as dicts, with the place of each row for messages.

for place, row in read_rows(Path("pets.csv")): ...      # ("line 2", {"image": "a.jpg", "question": ...})
"""

from __future__ import annotations

import csv
import datetime
import difflib
import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from data_prep.errors import DataError
from data_prep.records.json_text import BOM, decode_utf8, kind_of
from data_prep.records.record import read_records

Row = dict[str, Any]
Placed = tuple[str, Row]
FORMATS = (".csv", ".tsv", ".jsonl", ".ndjson", ".json", ".xlsx", ".parquet")


def read_rows(path: Path, sheet: str | None = None) -> Iterator[Placed]:
    """Yield (place, row) of a table, cells as text except in JSONL; the first line of CSV and Excel names the columns.

    CSV, TSV, JSONL, Excel and parquet are streamed. Raises DataError for an unknown ending, text that is not UTF-8,
    a line with more cells than columns, and a broken file.
    """
    if not path.is_file():
        raise DataError(path, "no such file")
    ending = path.suffix.lower()
    if ending in {".csv", ".tsv"}:
        return _delimited(path, "\t" if ending == ".tsv" else None)
    if ending in {".jsonl", ".ndjson", ".json"}:
        return _json(path)
    if ending == ".xlsx":
        return _excel(path, sheet)
    if ending == ".parquet":
        return _parquet(path)
    advice = "save it as .xlsx" if ending == ".xls" else f"tables end in {', '.join(FORMATS)}"
    raise DataError(path, f"a table of an unknown kind ({ending or 'no ending'}); {advice}")


def _delimited(path: Path, delimiter: str | None) -> Iterator[Placed]:
    with path.open("rb") as stream:
        head = stream.read(65536)
        if head.startswith((b"\xff\xfe", b"\xfe\xff")):
            raise DataError(path, "UTF-16 text (Excel's `Unicode text`); save it as `CSV UTF-8`")
        stream.seek(0)
        lines = _text_lines(stream, path)
        first = head.removeprefix(BOM).split(b"\n")[0].decode("utf-8", "replace")
        reader = csv.reader(lines, delimiter=delimiter or _delimiter(first), strict=True)
        try:
            yield from _named(reader, path)
        except csv.Error as error:
            raise DataError(path, f"line {reader.line_num}: broken CSV ({error}); look for a stray quote") from None


def _delimiter(header: str) -> str:
    """Return the delimiter that a header has most of: comma, or the semicolon of Excel in much of Europe, or tab."""
    return max(",;\t", key=header.count)


def _text_lines(stream: io.BufferedReader, path: Path) -> Iterator[str]:
    for number, line in enumerate(stream, 1):
        yield decode_utf8(line.removeprefix(BOM) if number == 1 else line, path, number)


def _named(reader: Any, path: Path) -> Iterator[Placed]:
    header = next(reader, None)
    if not header:
        raise DataError(path, "an empty table; the first line names the columns")
    names = [name.strip() for name in header]
    _refuse_twice(names, path)
    for cells in reader:
        if not any(cell.strip() for cell in cells):
            continue
        if len(cells) > len(names):
            problem = f"line {reader.line_num}: {len(cells)} cells for {len(names)} columns"
            raise DataError(path, f"{problem}; put quotes around a text with a comma in it")
        yield f"line {reader.line_num}", dict(zip(names, cells + [""] * (len(names) - len(cells)), strict=True))


def _refuse_twice(names: Sequence[str], path: Path) -> None:
    twice = next((name for place, name in enumerate(names) if name and name in names[:place]), None)
    if twice:
        raise DataError(path, f'the column "{twice}" stands twice; rename one')


def _json(path: Path) -> Iterator[Placed]:
    records = read_records(path)
    for index in range(len(records)):
        yield f"line {records.line(index)}", records[index]


def _excel(path: Path, sheet: str | None) -> Iterator[Placed]:
    try:
        import openpyxl
    except ImportError:
        raise DataError(path, "pip install openpyxl to read Excel, or save it as CSV UTF-8") from None
    try:
        book = openpyxl.load_workbook(path, read_only=True, data_only=True)
    except Exception as error:
        raise DataError(path, f"not an Excel file ({error}); save it again as .xlsx or as CSV UTF-8") from None
    try:
        if sheet and sheet not in book.sheetnames:
            raise DataError(path, f'no sheet "{sheet}"; there are {", ".join(book.sheetnames)}')
        rows = (book[sheet] if sheet else book.worksheets[0]).iter_rows(values_only=True)
        names = [cell_text(cell).strip() for cell in next(rows, ())]
        if not any(names):
            raise DataError(path, "an empty sheet; the first row names the columns")
        _refuse_twice(names, path)
        for number, cells in enumerate(rows, 2):
            row = {name: cell_text(cell) for name, cell in zip(names, cells, strict=False) if name}
            if any(row.values()):
                yield f"row {number}", row
    finally:
        book.close()


def cell_text(cell: Any) -> str:
    """Return an Excel cell as the text a person sees: 3.0 is 3, a date is 2024-05-01, TRUE is true, empty is empty."""
    if cell is None:
        return ""
    if isinstance(cell, bool):
        return "true" if cell else "false"
    if isinstance(cell, float) and cell.is_integer():
        return str(int(cell))
    if isinstance(cell, datetime.datetime):
        return cell.date().isoformat() if cell.time() == datetime.time() else cell.isoformat(sep=" ")
    return cell.isoformat() if isinstance(cell, (datetime.date, datetime.time)) else str(cell)


def _parquet(path: Path) -> Iterator[Placed]:
    import pyarrow
    import pyarrow.parquet

    try:
        file = pyarrow.parquet.ParquetFile(path)
    except (pyarrow.ArrowInvalid, OSError) as error:
        raise DataError(path, f"not a parquet file ({str(error).splitlines()[0]}); fetch it again") from None
    number = 0
    with file:
        for batch in file.iter_batches(batch_size=256):
            for row in batch.to_pylist():
                number += 1
                yield f"row {number}", row


def column(row: Row, asked: str | None, usual: Sequence[str], what: str, path: object, option: str) -> str:
    """Return the name of the column that holds `what`: the one asked for, or the first of the usual names.

    `option` is the option that would name it, "" where there is none.
    Raises DataError that lists the columns and suggests the nearest name.
    """
    if asked is not None:
        if asked in row:
            return asked
        raise DataError(path, f'no column "{asked}"{_nearest(asked, row)}; there are {", ".join(map(str, row))}')
    lowered = {str(name).strip().lower(): str(name) for name in row}
    if found := next((lowered[name] for name in usual if name in lowered), None):
        return found
    near = next((hint for name in usual if (hint := _nearest(name, row))), "")
    problem = f"no column for the {what} (looked for {', '.join(usual)}){near}"
    advice = f"name it with {option}" if option else "rename the column that has it"
    raise DataError(path, f"{problem}; there are {', '.join(map(str, row))}; {advice}")


def _nearest(name: str, row: Row) -> str:
    lowered = {str(column).lower(): str(column) for column in row}
    near = difflib.get_close_matches(name.lower(), lowered, 1, 0.6)
    return f', did you mean "{lowered[near[0]]}"?' if near else ""


def as_texts(value: Any, path: object, place: str) -> list[str]:
    """Return a cell as texts: a text, a number, or a list of them (also a JSON list in a text cell).

    Raises DataError for an object, where a text should be.
    """
    if isinstance(value, str) and value.lstrip().startswith("[") and value.rstrip().endswith("]"):
        try:
            value = json.loads(value)
        except json.JSONDecodeError:
            return [value]
    if value is None:
        return []
    if isinstance(value, dict):
        raise DataError(path, f"{place}: expected a text, found {kind_of(value)} {value!r:.60}")
    values = value if isinstance(value, list) else [value]
    return [text for one in values if one is not None and (text := cell_text(one)).strip()]
