"""Excel sheets as rows: read to their last row whatever they say of their size, and never more than was allowed.

for place, row in excel_rows(Path("pets.xlsx"), None, 256 << 20): ...      # ("row 2", {"image": "a.jpg", ...})
"""

from __future__ import annotations

import re
import zipfile
import zlib
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any

from data_prep.converters.delimited import BEFORE_HEADER, no_values, refuse_twice
from data_prep.converters.texts import NoText, text_of
from data_prep.converters.unpacking import Allowance
from data_prep.converters.usual_names import IMAGE_NAMES, USUAL_NAMES
from data_prep.errors import DataError, first_line

MOST_ROWS = 1_048_576
"""Of a sheet in Excel itself."""
LOOKED_AT = 100
"""Rows in which formulas are looked for."""
ZEROS = re.compile("0+")
MERGED = re.compile(rb'<(?:\w+:)?mergeCell\s[^<>]*?ref="([A-Z]{1,3})(\d{1,7}):[A-Z]{1,3}(\d{1,7})"[^<>]*>')
LONGEST_TAG = 200
PERCENT = re.compile(r"(?:#,##)?0(?:\.(0+))?[ _]*%.*")
"""25 %, 25.0% and the like, with a format for negative numbers behind it."""


def excel_rows(
    path: Path,
    sheet: str | None,
    most_bytes: int,
    option: str = "--sheet",
    split: str | None = None,
    empties_nan: bool = True,
) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield (place, row) of a sheet, cells as the texts that Excel shows; the first row of two cells names the columns.

    `option` is the option that names the sheet, "" for a command that has none. Where no `sheet` is asked for, the one
    that is named as the `split` is read, and the places begin with its name. Cells that say nan are empty
    unless `empties_nan` is False.
    Raises DataError for a file that is no .xlsx, one that unpacks to more than `most_bytes`, damaged sheets, an unknown
    `sheet`, and a column named twice.
    """
    try:
        import openpyxl
    except ImportError:
        raise DataError(path, "pip install openpyxl to read Excel, or save it as CSV UTF-8") from None
    _refuse_bombs(path, most_bytes)
    try:
        book = openpyxl.load_workbook(path, read_only=True, data_only=True)
    except Exception as error:  # openpyxl raises anything on damaged files
        raise DataError(
            path, f"not an Excel file ({first_line(error):.100}); save it again as .xlsx or CSV UTF-8"
        ) from None
    try:
        own = next((one.title for one in book.worksheets if split and one.title.lower() == split.lower()), None)
        chosen = _sheet(book, sheet or own, path, option)
        begin = f"{own} " if own and not sheet else ""
        allowance = Allowance(path, path.stat().st_size, most_bytes)
        with no_values(path, empties_nan) as blank:
            rows = _named(_cells(chosen, path), path, allowance, _merged(chosen, path), blank, begin)
            empty = yield from rows
        if empty:
            _say_formulas(path, chosen.title, empty)
    finally:
        book.close()


def _sheet(book: Any, wanted: str | None, path: Path, option: str) -> Any:
    """Return the sheet asked for, else the first that is shown; what is not read is said."""
    sheets = {one.title: one for one in book.worksheets}  # charts are none
    if wanted and wanted not in sheets:
        raise DataError(path, f'no sheet of cells "{wanted}"; there are {", ".join(sheets)}')
    if not sheets:
        raise DataError(path, "no sheet of cells in it")
    shown = [name for name, one in sheets.items() if one.sheet_state == "visible"] or list(sheets)
    if not wanted and len(shown) > 1:
        others = ", ".join(shown[1:])
        advice = f"others with {option}: {others}" if option else f"not {others}; move the one you mean to the front"
        print(f'{path}: the sheet "{shown[0]}" is read; {advice}')
    return sheets[wanted or shown[0]]


def _refuse_bombs(path: Path, most_bytes: int) -> None:
    """Raise DataError for a part that unpacks to too much, or that defines entities, which can grow without end."""
    with path.open("rb") as stream:
        if stream.read(4) == b"\xd0\xcf\x11\xe0":
            raise DataError(path, "an old Excel file, or one with a password; save it as .xlsx without one")
    try:
        with zipfile.ZipFile(path) as packed:
            for part in packed.infolist():
                if part.file_size > most_bytes:
                    size = f"{part.filename} unpacks to {part.file_size / 2**20:,.0f} MB"
                    allowed = f"more than the {most_bytes / 2**20:,.0f} MB allowed"
                    raise DataError(path, f"{size}, {allowed}; where it is meant, raise --max-unpacked")
                if part.filename.endswith((".xml", ".rels")):
                    with packed.open(part) as xml:
                        if b"<!DOCTYPE" in xml.read(4096).replace(b"\0", b""):
                            raise DataError(path, f"{part.filename} defines XML entities, which Excel never does")
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, OSError, EOFError) as error:
        raise DataError(
            path, f"not an Excel file ({first_line(error):.100}); save it again as .xlsx or CSV UTF-8"
        ) from None


def _cells(sheet: Any, path: Path) -> Iterator[tuple[int, Sequence[Any]]]:
    """Yield number and cells of each row that has a cell."""
    sheet.reset_dimensions()  # what it says of its size is often wrong: other programs write A1
    number = 0
    rows = sheet.iter_rows()
    while True:
        try:
            cells = next(rows, None)
        except Exception as error:  # openpyxl raises anything on damaged sheets
            raise DataError(
                path, f"a damaged sheet after row {number} ({first_line(error):.100}); save it again"
            ) from None
        if cells is None:
            return
        number += 1
        if number > MOST_ROWS:
            raise DataError(path, f"row {number}: a sheet ends at row {MOST_ROWS:,}; save it again, or as CSV UTF-8")
        if cells:
            yield number, cells


def _named(
    rows: Iterator[tuple[int, Sequence[Any]]],
    path: Path,
    allowance: Allowance,
    merged: Mapping[tuple[int, int], int],
    blank: Callable[[dict[str, str]], dict[str, str]],
    begin: str,
) -> Generator[tuple[str, dict[str, str]], None, dict[int, str]]:
    """Yield the rows, their places with `begin` before; return the columns without anything in any row, by place."""
    names, rows = _header(rows, path)
    refuse_twice(names, path)
    empty = {place: name for place, name in enumerate(names) if name}
    held: dict[str, tuple[int, str]] = {}  # by column: the last row of its merged cell, and what that says
    for number, cells in rows:
        row = dict.fromkeys(filter(None, names), "")
        row |= {name: shown(cell) for name, cell in zip(names, cells, strict=False) if name}
        if merged:
            held |= {
                name: (merged[number, place], row[name])
                for place, name in enumerate(names) if name and (number, place) in merged
            }  # fmt: skip
        if any(row.values()):
            row |= {name: text for name, (last, text) in held.items() if number <= last and not row[name]}
            row = blank(row)
            empty = {place: name for place, name in empty.items() if not row[name]}
            allowance.take(sum(map(len, row.values())))  # a text may stand once in the file, and in each of its rows
            yield f"{begin}row {number}", row
    return empty


def _merged(sheet: Any, path: Path) -> dict[tuple[int, int], int]:
    """Return the last row of each cell that is merged over several, by its first row and its column from 0.

    They stand behind the cells, where a sheet that is streamed does not look.
    """
    from openpyxl.utils import column_index_from_string

    found, rest = {}, b""
    try:
        with sheet._get_source() as stream:
            while chunk := stream.read(1 << 20):
                text = rest + chunk
                for column, first, last in MERGED.findall(text):
                    if int(last) > int(first):
                        found[int(first), column_index_from_string(column.decode()) - 1] = int(last)
                rest = text[text.rfind(b"<", -LONGEST_TAG) :] if b"<" in text[-LONGEST_TAG:] else b""
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError, RuntimeError):
        return {}  # told where the cells are read
    if found:
        print(f"{path}: {len(found):,} cells are merged over several rows, and their value is read in each of them")
    return found


def _say_formulas(path: Path, title: str, empty: Mapping[int, str]) -> None:
    """Say which of the empty columns hold formulas: a program that is not Excel writes them without their values."""
    import openpyxl

    book = openpyxl.load_workbook(path, read_only=True)
    try:
        first = islice(_cells(book[title], path), LOOKED_AT)
        formulas = {place for _, cells in first for place, cell in enumerate(cells) if cell.data_type == "f"}
    finally:
        book.close()
    if names := [name for place, name in empty.items() if place in formulas]:
        print(f"{path}: the formulas of {', '.join(names)} have no values; open the file in Excel and save it")


def _header(
    rows: Iterator[tuple[int, Sequence[Any]]], path: Path
) -> tuple[list[str], Iterator[tuple[int, Sequence[Any]]]]:
    """Return the names of the columns and the rows below: the first row with two cells or more; a title has one.

    A title of several cells, none of them a usual name, stands above the usual names of a picture and of its text.
    """
    first = list(islice(rows, BEFORE_HEADER + 1))
    texts = [[shown(cell).strip() for cell in cells] for _, cells in first]
    places = [place for place, row in enumerate(texts) if len(list(filter(None, row))) > 1]
    usual = next((place for place in places if _are_usual(texts[place])), None)
    if places and (usual is None or _num_usual(texts[places[0]])):
        usual = places[0]
    place = next((place for place, row in enumerate(texts) if any(row)), None) if usual is None else usual
    if place is None:
        raise DataError(path, "an empty sheet; the first row names the columns")
    if any(map(any, texts[:place])):
        print(f"{path}: the columns are named in row {first[place][0]}")
    names = texts[place]
    below = chain(first[place + 1 :], rows)
    return names[: max(at for at, text in enumerate(names) if text) + 1], below  # a stray cell far right is none


def _are_usual(texts: Sequence[str]) -> bool:
    return any(text.lower() in IMAGE_NAMES for text in texts) and _num_usual(texts) > 1


def _num_usual(texts: Sequence[str]) -> int:
    return sum(text.lower() in USUAL_NAMES for text in texts)


def shown(cell: Any) -> str:
    """Return a cell as Excel shows it: 0007 and 25 % as they are formatted; errors such as #N/A are empty."""
    value = cell.value
    if value is None or cell.data_type == "e":
        return ""
    if isinstance(value, int | float) and not isinstance(value, bool):
        format_ = cell.number_format
        if ZEROS.fullmatch(format_) and float(value).is_integer():
            return str(int(value)).zfill(len(format_))
        if found := PERCENT.fullmatch(format_):
            return f"{value:.{len(found[1] or '')}%}"
    try:
        return text_of(value)
    except NoText:
        return str(value)  # a span of time
