"""Footers of parquet files, walked, and cut to a few row groups: what pyarrow knows of a file is only these.

    groups = groups_of(Path("train.parquet"))
    footer_of(stream, groups[3:5])      # a parquet file without rows, whose footer names two groups

pyarrow keeps the whole footer of a file, some 9 kB for a row group of a few columns: 28 MB at 272,000 rows in groups of
100, in each process. Here the footer's bytes are walked (Thrift's compact protocol, FileMetaData of parquet-format's
parquet.thrift).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple

from data_prep.converters.compact import END, STRUCT, fields, list_header, varint
from data_prep.errors import DataError, first_line

Place = Path | str
"""A file here, or an address such as hf://datasets/OWNER/NAME@COMMIT/data/train-00000.parquet."""

MAGIC = b"PAR1"
NUM_GROUPS = 14
"""In one footer: the header of a longer list is longer."""
ROW_GROUPS, NUM_BYTES, NUM_ROWS = 4, 2, 3
"""Fields: FileMetaData's row_groups, RowGroup's total_byte_size and num_rows."""


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
        problem = f"a damaged {str(file).rpartition('.')[2]} file ({first_line(error):.100})"
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
    start = next((place for number, place in fields(raw, 0) if number == ROW_GROUPS), None)
    if start is None:
        raise ValueError("no row groups in its footer")
    count, at, _ = list_header(raw, start)
    bounds = []
    for _ in range(count):
        found = dict(fields(raw, at))
        num_rows, num_bytes = (varint(raw, found[name])[0] >> 1 for name in (NUM_ROWS, NUM_BYTES))  # zigzag, not < 0
        bounds.append((at, found[END], num_rows, num_bytes))
        at = found[END]
    kept = raw if isinstance(file, str) else None
    footer = Footer(file, offset, offset + start, offset + at, offset + len(raw), kept)
    groups = []
    for begin, end, num_rows, num_bytes in bounds:
        groups.append(Group(footer, offset + begin, offset + end, first, num_rows, num_bytes))
        first += num_rows
    return groups


def footer_of(stream: BinaryIO, groups: Sequence[Group]) -> bytes:
    """Return a parquet file without rows whose footer names these groups of one file, NUM_GROUPS at most."""
    footer = groups[0].footer
    described = [footer.read(stream, group.begin, group.end) for group in groups]
    before, after = footer.read(stream, footer.begin, footer.groups), footer.read(stream, footer.rest, footer.end)
    cut = b"".join([before, bytes([len(groups) << 4 | STRUCT]), *described, after])
    return b"".join([MAGIC, cut, len(cut).to_bytes(4, "little"), MAGIC])
