"""Parquet files read by row groups, in memory that does not grow with their number.

    groups = groups_of(Path("train.parquet"))
    for rows in rows_by_group(groups):
        next(rows)      # {"messages": [...], "images": [{"bytes": b"...", "path": None}]}

pyarrow keeps the whole footer of a file, some 9 kB for a row group of a few columns: 28 MB at 272,000 rows in groups of
100, in each process. Here the footer's bytes are walked (Thrift's compact protocol, FileMetaData of parquet-format's
parquet.thrift), and pyarrow gets a footer that names a few groups. The package `thrift` cannot walk it: its `skip`
reads the statistics of a picture as text.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from data_prep.errors import DataError
from data_prep.rows import Row

BATCH = 32
MAGIC = b"PAR1"
NUM_GROUPS = 14
"""In one footer: the header of a longer list is longer."""
ROW_GROUPS, NUM_ROWS, END = 4, 3, 0
"""Field numbers: FileMetaData's row_groups, RowGroup's num_rows, and what `_fields` calls the end of a struct."""
BOOLEANS, INTEGERS, BINARY, LISTS, STRUCT = {1, 2}, {4, 5, 6}, 8, {9, 10}, 12
"""The compact protocol's types; a map (11) does not occur."""
FIXED = {1: 1, 2: 1, 3: 1, 7: 8}
"""Bytes of a list's element of the types that have a fixed size: booleans (none in a field), a byte, a double."""


class Footer(NamedTuple):
    """Where a file's footer lies: its first byte, those of the list of row groups and of what follows it, its end."""

    file: Path
    begin: int
    groups: int
    rest: int
    end: int


class Group(NamedTuple):
    """A row group: the bytes of the file that describe it, the number of its first row in the data set, how many."""

    footer: Footer
    begin: int
    end: int
    first: int
    num_rows: int

    @property
    def file(self) -> Path:
        return self.footer.file


def groups_of(file: Path, first: int = 0) -> list[Group]:
    """Return the row groups of a file whose first row has the number `first` in the data set.

    Raises DataError for a file that is not parquet, was cut off, or is encrypted.
    """
    try:
        with file.open("rb") as stream:
            size = stream.seek(0, os.SEEK_END)
            length, magic = _length(stream, size)
            if magic == b"PARE":
                raise DataError(file, "encrypted, and there is no key; decrypt it first")
            if magic != MAGIC or length > size - 12:
                raise ValueError("no footer at its end")
            begin = size - 8 - length
            return _walk(file, _read(stream, begin, begin + length), begin, first)
    except (ValueError, IndexError, RecursionError) as error:
        problem = "its footer cannot be read" if isinstance(error, IndexError | RecursionError) else str(error)
        raise DataError(file, f"not a parquet file, or cut off ({problem}); fetch it again") from None
    except OSError as error:
        raise DataError(file, f"cannot be read ({error.strerror})") from None


def _length(stream: BinaryIO, size: int) -> tuple[int, bytes]:
    tail = _read(stream, max(size - 8, 0), size)
    return int.from_bytes(tail[:4], "little"), tail[4:]


def _read(stream: BinaryIO, begin: int, end: int) -> bytes:
    stream.seek(begin)
    return stream.read(end - begin)


def _walk(file: Path, raw: bytes, offset: int, first: int) -> list[Group]:
    """Return the groups that a footer describes; it begins at byte `offset` of the file."""
    start = next((place for number, place in _fields(raw, 0) if number == ROW_GROUPS), None)
    if start is None:
        raise ValueError("no row groups in its footer")
    count, at, _ = _list_header(raw, start)
    bounds = []
    for _ in range(count):
        fields = dict(_fields(raw, at))
        num_rows, _ = _varint(raw, fields[NUM_ROWS]) if NUM_ROWS in fields else (0, 0)
        bounds.append((at, fields[END], num_rows >> 1))  # zigzag: a number of rows is not negative
        at = fields[END]
    footer = Footer(file, offset, offset + start, offset + at, offset + len(raw))
    groups = []
    for begin, end, num_rows in bounds:
        groups.append(Group(footer, offset + begin, offset + end, first, num_rows))
        first += num_rows
    return groups


def _fields(raw: bytes, at: int) -> Iterator[tuple[int, int]]:
    """Yield number and place of each field of the struct at `at`, last END and the place after the struct."""
    number = 0
    while head := raw[at]:
        at += 1
        if head >> 4:
            number += head >> 4
        else:
            number, at = _varint(raw, at)
            number >>= 1
        yield number, at
        at = _skip(raw, at, head & 15)
    yield END, at + 1


def _skip(raw: bytes, at: int, kind: int) -> int:
    """Return the place after the value of type `kind` at `at`."""
    if kind in INTEGERS:
        return _varint(raw, at)[1]
    if kind == BINARY:
        size, at = _varint(raw, at)
        return at + size
    if kind == STRUCT:
        while head := raw[at]:
            at = _skip(raw, at + 1 if head >> 4 else _varint(raw, at + 1)[1], head & 15)
        return at + 1
    if kind in LISTS:
        size, at, kind = _list_header(raw, at)
        if kind in FIXED:
            return at + size * FIXED[kind]
        for _ in range(size):
            at = _skip(raw, at, kind)
        return at
    if kind in FIXED:
        return at if kind in BOOLEANS else at + FIXED[kind]
    raise ValueError(f"type {kind} in its footer")


def _list_header(raw: bytes, at: int) -> tuple[int, int, int]:
    """Return the number of a list's elements, the place of the first, and their type."""
    head = raw[at]
    size, at = _varint(raw, at + 1) if head >> 4 == 15 else (head >> 4, at + 1)
    return size, at, head & 15


def _varint(raw: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while (byte := raw[at]) > 127:
        value |= (byte & 127) << shift
        shift += 7
        at += 1
        if shift > 63:
            raise ValueError("a number of more than 64 bits in its footer")
    return value | byte << shift, at + 1


def rows_by_group(groups: Iterable[Group]) -> Iterator[Iterator[Row]]:
    """Yield the rows of each group, read 32 at a time; those of one file follow each other.

    A page is read whole: the largest decides on the memory (see `most_read`). Raises DataError for damaged pages.
    """
    _give_memory_back()
    for footer, same in itertools.groupby(groups, lambda group: group.footer):
        while some := list(itertools.islice(same, NUM_GROUPS)):
            with readable(footer.file), _opened(footer, some) as parquet:
                for number in range(len(some)):
                    yield _rows(footer.file, parquet, number)


def _give_memory_back() -> None:
    """Let pyarrow use jemalloc where it is built in: its usual mimalloc keeps 40 to 70 MB more of pages long freed."""
    import pyarrow

    with suppress(NotImplementedError):
        pyarrow.set_memory_pool(pyarrow.jemalloc_memory_pool())


def most_read() -> int:
    """Return the most bytes that pyarrow has held at a time in this process: after the first rows, about a page.

    Reading a whole file takes up to four times that.
    """
    import pyarrow

    return pyarrow.default_memory_pool().max_memory() or 0


def _opened(footer: Footer, groups: Sequence[Group]) -> Any:
    """Return pyarrow's ParquetFile of these groups alone."""
    import pyarrow.parquet

    with footer.file.open("rb") as stream:
        described = [_read(stream, group.begin, group.end) for group in groups]
        before, after = _read(stream, footer.begin, footer.groups), _read(stream, footer.rest, footer.end)
    cut = b"".join([before, bytes([len(groups) << 4 | STRUCT]), *described, after])
    whole = pyarrow.BufferReader(b"".join([MAGIC, cut, len(cut).to_bytes(4, "little"), MAGIC]))
    metadata = pyarrow.parquet.read_metadata(whole)
    return pyarrow.parquet.ParquetFile(footer.file, metadata=metadata, buffer_size=1 << 20, pre_buffer=False)


def _rows(file: Path, parquet: Any, number: int) -> Iterator[Row]:
    with readable(file):
        for batch in parquet.iter_batches(batch_size=BATCH, row_groups=[number], use_threads=False):
            yield from batch.to_pylist()


@contextmanager
def readable(file: Path) -> Iterator[None]:
    """Say which file is damaged."""
    import pyarrow

    try:
        yield
    except (pyarrow.ArrowException, OSError) as error:  # pages that cannot be parsed are an OSError without a number
        if isinstance(error, OSError) and error.errno:
            raise DataError(file, f"cannot be read ({error.strerror}); the same command goes on from here") from None
        problem = f"a damaged {file.suffix[1:]} file ({str(error).splitlines()[0]:.100})"
        raise DataError(file, f"{problem}; fetch it again") from None
