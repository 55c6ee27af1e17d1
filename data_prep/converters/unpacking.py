"""How much a packed file may become: the pages of a parquet file are looked at before they are read.

A page is unpacked whole, and a text that many rows share is copied for each of them: kilobytes may become gigabytes.
Pages that are meant are small (pyarrow's hold a megabyte, or 1,024 values).

    for batch in unpacked_batches(pyarrow.parquet.ParquetFile(path), stream, path, MOST_UNPACKED): ...
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

from data_prep.converters.compact import END, fields, varint
from data_prep.errors import DataError

MOST_UNPACKED = 256 << 20
"""Bytes that a page, or a part of an Excel file, may become where the caller names no bound."""
BYTES_A_VALUE = 4
"""What a value is taken to be worth: a list of zeros takes no bytes in a file."""
BATCH = 32
LARGE_DICTIONARY = 8 << 20
"""Bytes of a dictionary page above which rows are read one at a time: each gets its own copy of a value."""
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


def batch_size(metadata: Any, groups: Sequence[int], stream: BinaryIO, where: object, most: int) -> int:
    """Return how many rows of these row groups are read at a time: one where a value may be large.

    Raises DataError for a column whose pages would become more than `most` bytes.
    """
    size = BATCH
    for number in groups:
        group = metadata.row_group(number)
        for column in map(group.column, range(group.num_columns)):
            if column.num_values * BYTES_A_VALUE > most:
                raise _too_much(where, column, f"{column.num_values:,} values in a row group", most)
            if column.total_uncompressed_size > most:
                _check_pages(column, stream, where, most)
            if column.has_dictionary_page and column.total_uncompressed_size > LARGE_DICTIONARY:
                size = 1 if next(_pages(column, stream))[1] > LARGE_DICTIONARY else size
    return size


def _check_pages(column: Any, stream: BinaryIO, where: object, most: int) -> None:
    for _, size in _pages(column, stream):
        if size > most:
            raise _too_much(where, column, f"a page of {size >> 20:,} MB", most)


def _too_much(where: object, column: Any, what: str, most: int) -> DataError:
    problem = f"column {column.path_in_schema}: {what}, more than the {most >> 20:,} MB allowed"
    return DataError(where, f"{problem}; where it is meant, raise --max-unpacked")


def _pages(column: Any, stream: BinaryIO) -> Iterator[tuple[int, int]]:
    """Yield the place of each page of a column and the bytes that it becomes."""
    starts = (column.dictionary_page_offset, column.data_page_offset)
    at = min(start for start in starts if start)
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


def unpacked_batches(file: Any, stream: BinaryIO, where: object, most: int) -> Iterator[Any]:
    """Yield the record batches of a parquet file, group by group; raise DataError as `batch_size` does."""
    for number in range(file.num_row_groups):
        size = batch_size(file.metadata, [number], stream, where, most)
        yield from file.iter_batches(batch_size=size, row_groups=[number], use_threads=False)
