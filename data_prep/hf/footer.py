"""Footers of parquet files, walked, and cut to a few row groups: what pyarrow knows of a file is only these.

    groups = groups_of(Path("train.parquet"))
    footer_of(stream, groups[3:5])      # a parquet file without rows, whose footer names two groups

pyarrow keeps the whole footer of a file, some 9 kB for a row group of a few columns: 28 MB at 272,000 rows in groups of
100, in each process. Here the footer's bytes are walked (Thrift's compact protocol, FileMetaData of parquet-format's
parquet.thrift). The package `thrift` cannot do it: its `skip` reads the statistics of a picture as text.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple

from data_prep.errors import DataError

Place = Path | str
"""A file here, or an address such as hf://datasets/OWNER/NAME@COMMIT/data/train-00000.parquet."""

MAGIC = b"PAR1"
NUM_GROUPS = 14
"""In one footer: the header of a longer list is longer."""
ROW_GROUPS, NUM_BYTES, NUM_ROWS, END = 4, 2, 3, 0
"""Fields: FileMetaData's row_groups, RowGroup's total_byte_size and num_rows, and `_fields`' end of a struct."""
BOOLEANS, INTEGERS, BINARY, LISTS, STRUCT = {1, 2}, {4, 5, 6}, 8, {9, 10}, 12
"""The compact protocol's types; a map (11) does not occur."""
FIXED = {1: 1, 2: 1, 3: 1, 7: 8}
"""Bytes of a list's element of the types that have a fixed size: booleans (none in a field), a byte, a double."""


class Footer(NamedTuple):
    """Where a file's footer lies: its first byte, those of the list of row groups and of what follows it, its end.

    `kept`: its bytes, where the file is not here.
    """

    file: Place
    begin: int
    groups: int
    rest: int
    end: int
    kept: bytes | None

    def read(self, stream: BinaryIO, begin: int, end: int) -> bytes:
        """Return a part of it, named by bytes of the file."""
        if self.kept is None:
            return read_part(stream, begin, end)
        return self.kept[begin - self.begin : end - self.begin]


class Group(NamedTuple):
    """A row group: the bytes of the file that describe it, the number of its first row in the data set, its size."""

    footer: Footer
    begin: int
    end: int
    first: int
    num_rows: int
    num_bytes: int

    @property
    def file(self) -> Place:
        return self.footer.file


def open_address(address: str) -> BinaryIO:
    """Open hf://..., or zip://a.jpg::hf://..., for bytes; `datasets` asks again when the network fails."""
    from datasets import DownloadConfig
    from datasets.utils.file_utils import xopen

    stream: BinaryIO = xopen(address, "rb", download_config=DownloadConfig())
    return stream


def open_place(file: Place) -> BinaryIO:
    """Open a file here or at an address for bytes."""
    return file.open("rb") if isinstance(file, Path) else open_address(file)


@contextmanager
def readable(file: Place) -> Iterator[None]:
    """Say which file is damaged, or cannot be read."""
    import pyarrow

    try:
        yield
    except (pyarrow.ArrowException, OSError) as error:  # pages that cannot be parsed are an OSError without a number
        if isinstance(error, OSError) and (error.errno or isinstance(file, str)):
            problem = f"cannot be read ({error.strerror or error})"
            raise DataError(file, f"{problem}; the same command goes on from here") from None
        problem = f"a damaged {str(file).rpartition('.')[2]} file ({str(error).splitlines()[0]:.100})"
        raise DataError(file, f"{problem}; fetch it again") from None


def groups_of(file: Place, first: int = 0) -> list[Group]:
    """Return the row groups of a file whose first row has the number `first` in the data set.

    Raises DataError for a file that is not parquet, was cut off, or is encrypted.
    """
    try:
        with readable(file), open_place(file) as stream:
            size = stream.seek(0, os.SEEK_END)
            length, magic = _length(stream, size)
            if magic == b"PARE":
                raise DataError(file, "encrypted, and there is no key; decrypt it first")
            if magic != MAGIC or length > size - 12:
                raise ValueError("no footer at its end")
            begin = size - 8 - length
            return _walk(file, read_part(stream, begin, begin + length), begin, first)
    except (ValueError, LookupError, RecursionError) as error:
        problem = str(error) if isinstance(error, ValueError) else "its footer cannot be read"
        raise DataError(file, f"not a parquet file, or cut off ({problem}); fetch it again") from None


def _length(stream: BinaryIO, size: int) -> tuple[int, bytes]:
    tail = read_part(stream, max(size - 8, 0), size)
    return int.from_bytes(tail[:4], "little"), tail[4:]


def read_part(stream: BinaryIO, begin: int, end: int) -> bytes:
    """Return the bytes of a file from `begin` to `end`, fewer where it ends."""
    stream.seek(begin)
    return stream.read(max(end - begin, 0))


def _walk(file: Place, raw: bytes, offset: int, first: int) -> list[Group]:
    """Return the groups that a footer describes; it begins at byte `offset` of the file."""
    start = next((place for number, place in _fields(raw, 0) if number == ROW_GROUPS), None)
    if start is None:
        raise ValueError("no row groups in its footer")
    count, at, _ = _list_header(raw, start)
    bounds = []
    for _ in range(count):
        fields = dict(_fields(raw, at))
        num_rows, num_bytes = (_varint(raw, fields[name])[0] >> 1 for name in (NUM_ROWS, NUM_BYTES))  # zigzag, not < 0
        bounds.append((at, fields[END], num_rows, num_bytes))
        at = fields[END]
    kept = raw if isinstance(file, str) else None
    footer = Footer(file, offset, offset + start, offset + at, offset + len(raw), kept)
    groups = []
    for begin, end, num_rows, num_bytes in bounds:
        groups.append(Group(footer, offset + begin, offset + end, first, num_rows, num_bytes))
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


def footer_of(stream: BinaryIO, groups: Sequence[Group]) -> bytes:
    """Return a parquet file without rows whose footer names these groups of one file, NUM_GROUPS at most."""
    footer = groups[0].footer
    described = [footer.read(stream, group.begin, group.end) for group in groups]
    before, after = footer.read(stream, footer.begin, footer.groups), footer.read(stream, footer.rest, footer.end)
    cut = b"".join([before, bytes([len(groups) << 4 | STRUCT]), *described, after])
    return b"".join([MAGIC, cut, len(cut).to_bytes(4, "little"), MAGIC])
