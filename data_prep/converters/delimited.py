"""CSV and TSV as rows: comma, semicolon, tab or bar, any line ends, `sep=;`, the encodings of Excel and of Windows.

for place, row in delimited_rows(Path("pets.csv"), None): ...      # ("line 2", {"image": "a.jpg", ...})
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, TextIO

from data_prep.converters.encodings import encoding_of
from data_prep.errors import DataError

DELIMITERS = ",;\t|"
SEPARATOR = re.compile(r'"?sep=(.)"?', re.I)
LONGEST_CELL = 2**31 - 1
QUOTES = re.compile(r'"[^"]*"')
OTHERS = {
    b"PK\x03\x04": "a packed file, such as Excel's; name it .xlsx",
    b"\xd0\xcf\x11\xe0": "an old Excel file, or one with a password; save it as .xlsx without one",
    b"PAR1": "a parquet file; name it .parquet",
}


def delimited_rows(
    path: Path, delimiter: str | None, encoding: str | None = None, option: str = "--encoding"
) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield (place, row) of a table whose first line names the columns, as `delimited_cells` does, names once each."""
    lines = delimited_cells(path, delimiter, encoding, option)
    _, names = next(lines)
    refuse_twice(names, path)
    for place, cells in lines:
        yield place, dict(zip(names, cells + [""] * (len(names) - len(cells)), strict=False))


def delimited_cells(
    path: Path, delimiter: str | None, encoding: str | None = None, option: str = "--encoding"
) -> Iterator[tuple[str, list[str]]]:
    """Yield (place, cells) of each line, the names of the columns first; lines with nothing in them are left out.

    `delimiter` is used unless the header has others alone. Raises DataError for a file of another kind, an unknown
    encoding (see `encoding_of`), a line with more cells than columns, and broken quotes.
    """
    with path.open("rb") as raw:
        head = raw.read(8)
    if other := next((what for mark, what in OTHERS.items() if head.startswith(mark)), None):
        raise DataError(path, other)
    csv.field_size_limit(LONGEST_CELL)
    with path.open(encoding=encoding_of(path, encoding, option), newline="") as stream:
        first, skipped, asked = _header_line(stream)
        reader = csv.reader(chain([first], stream), delimiter=asked or _delimiter(first, delimiter), strict=True)
        try:
            yield from _lines(reader, path, skipped)
        except csv.Error as error:
            problem = f"line {reader.line_num + skipped}: broken CSV ({error})"
            raise DataError(path, f"{problem}; look for a quote that is opened and not closed before it") from None


def _header_line(stream: TextIO) -> tuple[str, int, str | None]:
    """Return the line of the header, how many stand before it, and the delimiter that Excel's `sep=;` names.

    Empty lines before it are passed over.
    """
    asked, skipped = None, 0
    for line in stream:
        if found := SEPARATOR.fullmatch(line.strip()):
            asked = found[1]
        elif line.strip():
            return line, skipped, asked
        skipped += 1
    return "", skipped, asked


def _delimiter(header: str, usual: str | None) -> str:
    """Return the usual delimiter unless a header has others alone, else the one that it has most of outside of quotes.

    The semicolon is Excel's in much of Europe.
    """
    bare = QUOTES.sub("", header)
    if usual and (usual in bare or not any(one in bare for one in DELIMITERS)):
        return usual
    return max(DELIMITERS, key=bare.count)


def _lines(reader: Any, path: Path, skipped: int) -> Iterator[tuple[str, list[str]]]:
    header = next(reader, None)
    if not header:
        raise DataError(path, "an empty table; the first line names the columns")
    names = [name.strip() for name in header]
    yield f"line {reader.line_num + skipped}", names
    for cells in reader:
        if not any(cell.strip() for cell in cells):
            continue
        place = f"line {reader.line_num + skipped}"
        if len(cells) > len(names) and any(cells[len(names) :]):
            problem = f"{place}: {len(cells)} cells for {len(names)} columns"
            raise DataError(path, f"{problem}; put quotes around a text with the delimiter in it")
        yield place, cells


def refuse_twice(names: Sequence[str], path: Path) -> None:
    """Raise DataError where two columns have one name."""
    seen: set[str] = set()
    for name in names:
        if name and name in seen:
            raise DataError(path, f'the column "{name:.60}" stands twice; rename one')
        seen.add(name)
