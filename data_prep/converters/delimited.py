"""CSV and TSV as rows: comma, semicolon, tab or bar, any line ends, `sep=;`, the encodings of Excel and of Windows.

for place, row in delimited_rows(Path("pets.csv"), None): ...      # ("line 2", {"image": "a.jpg", ...})
"""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain, islice, pairwise
from pathlib import Path
from typing import Any, TextIO

from data_prep.converters.encodings import encoding_of
from data_prep.errors import DataError
from data_prep.records.marks import NO_VALUE

DELIMITERS = ",;\t|"
SEPARATOR = re.compile(r'"?sep=(.)"?', re.I)
LONGEST_CELL = 2**31 - 1
BEFORE_HEADER = 20
"""Lines in which a title may stand before the names of the columns."""
UNSEEN = "\ufeff\u200b\u200c\u200d\u200e\u200f\u2060"
"""Characters without a width, which copied texts leave at their ends."""
QUOTES = re.compile(r'"[^"]*"')
OTHERS = {
    b"PK\x03\x04": "a packed file, such as Excel's; name it .xlsx",
    b"\xd0\xcf\x11\xe0": "an old Excel file, or one with a password; save it as .xlsx without one",
    b"PAR1": "a parquet file; name it .parquet",
}


def delimited_rows(
    path: Path,
    delimiter: str | None,
    encoding: str | None = None,
    option: str = "--encoding",
    empties_nan: bool = True,
) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield (place, row) of a table whose first line names the columns, as `delimited_cells` does, names once each.

    Cells that say nan are empty (see `no_values`) unless `empties_nan` is False.
    """
    lines = delimited_cells(path, delimiter, encoding, option, titled=True)
    header, names = next(lines)
    refuse_twice(names, path)
    if header != "line 1":
        print(f"{path}: the columns are named in {header}")
    with no_values(path, empties_nan) as blank:
        for place, cells in lines:
            yield place, blank(dict(zip(names, cells + [""] * (len(names) - len(cells)), strict=False)))


@contextmanager
def no_values(path: Path, empties_nan: bool = True) -> Iterator[Callable[[dict[str, str]], dict[str, str]]]:
    """Give a function that empties the cells of a row that say nan; say how many they were where all rows were read.

    Without `empties_nan` they stay.
    """
    counts: Counter[str] = Counter()

    def blank(row: dict[str, str]) -> dict[str, str]:
        if not empties_nan or NO_VALUE.isdisjoint(row.values()):
            return row
        counts.update(name for name, cell in row.items() if cell in NO_VALUE)
        return {name: "" if cell in NO_VALUE else cell for name, cell in row.items()}

    yield blank
    if counts:
        columns = ", ".join(f"{name} {count:,}" for name, count in counts.most_common(5))
        said = f"cells that say nan or <NA>, pandas' words for no value, are read as empty ({columns})"
        print(f"{path}: {said}; where nan is meant, say --keep-nan")


def delimited_cells(
    path: Path, delimiter: str | None, encoding: str | None = None, option: str = "--encoding", titled: bool = False
) -> Iterator[tuple[str, list[str]]]:
    """Yield (place, cells) of each line, the names of the columns first; lines with nothing in them are left out.

    `delimiter` is used unless the header has others alone; `titled`: a title may stand above the header. Raises
    DataError for a file of another kind, an unknown encoding (see `encoding_of`), a line with more cells than columns,
    and broken quotes.
    """
    with path.open("rb") as raw:
        head = raw.read(8)
    if other := next((what for mark, what in OTHERS.items() if head.startswith(mark)), None):
        raise DataError(path, other)
    csv.field_size_limit(LONGEST_CELL)
    with path.open(encoding=encoding_of(path, encoding, option), newline="") as stream:
        first, skipped, asked = _header_line(stream, delimiter, titled)
        reader = csv.reader(chain(first, stream), delimiter=asked or _delimiter(first[0], delimiter), strict=True)
        try:
            yield from _lines(reader, path, skipped)
        except csv.Error as error:
            problem = f"line {reader.line_num + skipped}: broken CSV ({error}); look for a quote that is opened and not"
            raise DataError(path, f"{problem} closed before it; in a quoted text a quote is written twice") from None


def _header_line(stream: TextIO, usual: str | None, titled: bool) -> tuple[list[str], int, str | None]:
    """Return the lines that begin with the header, how many stand before it, and the delimiter that `sep=;` names.

    Empty lines before it are passed over; with `titled`, lines of a first cell alone too, where two of several follow:
    the names and a row.
    """
    asked, skipped = None, 0
    for line in stream:
        if found := SEPARATOR.fullmatch(line.strip()):
            asked = found[1]
        elif line.strip():
            break
        skipped += 1
    else:
        return [""], skipped, asked
    if not titled or _has_several(line, asked or _delimiter(line, usual)):
        return [line], skipped, asked
    lines = [line, *islice(stream, BEFORE_HEADER + 1)]
    header = _below_title(lines, asked or usual)
    return lines[header:], skipped + header, asked


def _below_title(lines: Sequence[str], usual: str | None) -> int:
    """Return the place of the names below a title in the first line; 0 where that is the header itself."""
    for place, (line, below) in enumerate(pairwise(lines)):
        mark = usual or _delimiter(line, usual)
        if place and _has_several(line, mark):
            return place if mark in below or not below.strip() else 0
        if '"' in QUOTES.sub("", line):
            break
    return 0


def _has_several(line: str, mark: str) -> bool:
    """Say whether something stands behind the first cell of a line."""
    return any(cell.strip() for cell in QUOTES.sub("x", line).split(mark)[1:])


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
    names = [name.strip().strip(UNSEEN).strip() for name in header]
    yield f"line {reader.line_num + skipped}", names
    is_first = True
    for cells in reader:
        if not any(cell.strip() for cell in cells):
            continue
        place = f"line {reader.line_num + skipped}"
        if len(cells) > len(names) and any(cells[len(names) :]):
            problem = f"{place}: {len(cells)} cells for {len(names)} columns"
            title = ", or delete what stands above the columns' names" if is_first else ""
            raise DataError(path, f"{problem}; put quotes around a text with the delimiter in it{title}")
        yield place, cells
        is_first = False


def refuse_twice(names: Sequence[str], path: Path) -> None:
    """Raise DataError where two columns have one name."""
    seen: set[str] = set()
    for name in names:
        if name and name in seen:
            raise DataError(path, f'the column "{name:.60}" stands twice; rename one')
        seen.add(name)
