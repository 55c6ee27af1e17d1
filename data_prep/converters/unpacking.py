"""How much a packed file may become: the pages of a parquet file are looked at before they are read.

A page is unpacked whole, and a text that many rows share is copied for each of them: kilobytes may become gigabytes.
Pages that are meant are small (pyarrow's hold a megabyte, or 1,024 values). What the rows become is counted while they
are read, for a small file may hold many such pages, or one text for all of its rows.

    for row in unpacked_rows(pyarrow.parquet.ParquetFile(path), stream, path, MOST_UNPACKED): ...
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from data_prep.converters.compact import END, fields, varint
from data_prep.errors import DataError

MOST_UNPACKED = 256 << 20
"""Bytes that a page, or a part of an Excel file, may become where the caller names no bound."""
BYTES_A_VALUE = 4
"""What a value is taken to be worth: a list of zeros takes no bytes in a file."""
BATCH = 32
BATCH_BYTES = 64 << 20
"""What the rows read at a time become at most: each gets its own copy of a value that rows share."""
MOST_GROWTH = 100
"""Times its own size that a file becomes at most where it is more than the bound: texts pack to a tenth."""
PAGE_BYTES, PACKED_BYTES = 2, 3
"""Fields of parquet.thrift's PageHeader."""
HEADERS = (1 << 12, 1 << 20, 1 << 24)
"""Bytes in which a page's header is looked for: statistics may make it long."""


def add_unpacked_option(parser: argparse.ArgumentParser) -> None:
    """Add --max-unpacked, which becomes bytes."""
    usual = MOST_UNPACKED >> 20
    text = f"what a page of parquet or a part of an Excel file may become; default {usual}"
    parser.add_argument("--max-unpacked", type=_megabytes, default=MOST_UNPACKED, metavar="MEGABYTES", help=text)


def _megabytes(text: str) -> int:
    if not text.isdecimal() or not 0 < len(text) < 10 or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: a whole number of megabytes from 1, for example 1000")
    return int(text) << 20


class Allowance:
    """What the rows of one file may become in all: `most` bytes, or 100 times its size where that is more.

    allowance = Allowance("pets.parquet", num_bytes=4_000, most=MOST_UNPACKED)
    allowance.take(batch.nbytes)        # DataError once they are more
    """

    def __init__(self, where: Path | str, num_bytes: int, most: int) -> None:
        """Begin with nothing taken of a file of `num_bytes`."""
        self.where, self._num_bytes = where, num_bytes
        self._most = max(most, MOST_GROWTH * num_bytes)
        self._taken = 0

    def take(self, num_bytes: int) -> None:
        """Count the bytes that some rows became; raise DataError where there are too many by now."""
        self._taken += num_bytes
        if self._taken > self._most:
            problem = f"{self._num_bytes:,} bytes of a file become more than the {self._most >> 20:,} MB allowed"
            raise DataError(self.where, f"{problem}; where it is meant, raise --max-unpacked")

    def rows(self, batch: Any) -> list[dict[str, Any]]:
        """Return the rows of a record batch, counted; where it still shares values, by what its rows hold."""
        if not any(_shares(field.type) for field in batch.schema):
            self.take(batch.nbytes)
            return list(batch.to_pylist())
        rows = []
        for number in range(batch.num_rows):
            rows += batch.slice(number, 1).to_pylist()
            self.take(_held(rows[-1]))
        return rows


def _shares(kind: Any) -> bool:
    """Say whether a type of Arrow, or one in it, keeps each value once and numbers in its places."""
    import pyarrow

    inner = (kind.field(number).type for number in range(kind.num_fields))
    return bool(pyarrow.types.is_dictionary(kind)) or any(map(_shares, inner))


def _held(value: Any) -> int:
    if isinstance(value, str | bytes):
        return len(value)
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return 8 + sum(map(_held, inner))


def batch_size(metadata: Any, groups: Sequence[int], stream: BinaryIO, where: object, most: int) -> int:
    """Return how many rows of these row groups are read at a time: fewer where a value may be large.

    Raises DataError for a column whose pages would become more than `most` bytes.
    """
    # A footer may say less than there is. Here that costs nothing; of an address each page would be a request.
    is_near = isinstance(where, Path) or isinstance(stream, io.BytesIO)
    size = BATCH
    for number in groups:
        group = metadata.row_group(number)
        held = 0
        for column in map(group.column, range(group.num_columns)):
            if column.num_values * BYTES_A_VALUE > most:
                raise _too_much(where, column, f"{column.num_values:,} values in a row group", most)
            page = column.total_uncompressed_size
            if is_near or page > most:
                page = max((num_bytes for _, num_bytes in _pages(column, stream)), default=0)
            if page > most:
                raise _too_much(where, column, f"a page of {page >> 20:,} MB", most)
            held += page * max(column.num_values // max(group.num_rows, 1), 1)
        size = max(min(size, BATCH_BYTES // max(held, 1)), 1)
    return size


def _too_much(where: object, column: Any, what: str, most: int) -> DataError:
    problem = f"column {column.path_in_schema}: {what}, more than the {most >> 20:,} MB allowed"
    return DataError(where, f"{problem}; where it is meant, raise --max-unpacked")


def _pages(column: Any, stream: BinaryIO) -> Iterator[tuple[int, int]]:
    """Yield the place of each page of a column and the bytes that it becomes."""
    starts = (column.dictionary_page_offset, column.data_page_offset)
    at = min((start for start in starts if start), default=0)
    end = at + column.total_compressed_size
    while at < end:
        header, size = _header(stream, at)
        yield at, _number(header, PAGE_BYTES)
        at += size + _number(header, PACKED_BYTES)


def _header(stream: BinaryIO, at: int) -> tuple[tuple[bytes, dict[int, int]], int]:
    for size in HEADERS:
        stream.seek(at)
        raw = stream.read(size)
        try:
            found = dict(fields(raw, 0))
        except IndexError:
            continue
        if found[END] <= len(raw) and PAGE_BYTES in found and PACKED_BYTES in found:
            return (raw, found), found[END]
    raise OSError("a page without a header")


def _number(header: tuple[bytes, dict[int, int]], field: int) -> int:
    raw, found = header
    return max(varint(raw, found[field])[0] >> 1, 0)


def unpacked_rows(file: Any, stream: BinaryIO, where: Path, most: int) -> Iterator[dict[str, Any]]:
    """Yield the rows of a parquet file; raise DataError as `batch_size` does, and where they become too much."""
    allowance = Allowance(where, where.stat().st_size, most)
    for number in range(file.num_row_groups):
        size = batch_size(file.metadata, [number], stream, where, most)
        for batch in file.iter_batches(batch_size=size, row_groups=[number], use_threads=False):
            yield from allowance.rows(batch)
