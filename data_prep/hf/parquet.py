"""Parquet files, here or on the hub, read by row groups, in memory that does not grow with their number.

    groups = groups_of(Path("train.parquet"))
    for rows in rows_by_group(groups):
        next(rows)      # {"messages": [...], "images": [{"bytes": b"...", "path": None}]}

Files of the hub are read the same way: `datasets` holds a whole file of them at a time (500 MB, and what it decodes).
"""

from __future__ import annotations

import io
import math
import os
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

from data_prep.converters.rows import Row
from data_prep.converters.unpacking import MOST_UNPACKED, Allowance, batch_size
from data_prep.hf.footer import (
    NUM_GROUPS,
    Group,
    Place,
    footer_of,
    groups_of,
    open_address,
    open_place,
    read_part,
    readable,
)

TOGETHER = 16 << 20
"""Row groups of the hub are fetched together up to this size, by one request."""
REQUEST = 8 << 20
"""A row group of more than twice that is fetched in requests of this size."""
PADDING = 100
"""Bytes that the header of a dictionary page takes, which old writers did not count (PARQUET-816)."""


def rows_by_group(groups: Iterable[Group], most_unpacked: int = MOST_UNPACKED) -> Iterator[Iterator[Row]]:
    """Yield the rows of each group, read 32 at a time; those of one file follow each other.

    A page is read whole: the largest decides on the memory (see `most_read`). Raises DataError for damaged pages, and
    for those that would become more than `most_unpacked` bytes.
    """
    _give_memory_back()
    allowances: dict[Place, Allowance] = {}
    for some in _slices(groups):
        file = some[0].file
        allowance = allowances.setdefault(file, Allowance(file, some[0].footer.end, most_unpacked))
        with (
            readable(file),
            open_place(file) as stream,
            _opened(stream, file, _metadata(stream, some)) as parquet,
        ):
            for number in range(len(some)):
                size = batch_size(parquet.metadata, [number], stream, file, most_unpacked)
                yield _rows(parquet, [number], size, allowance)


def schema_of(groups: Sequence[Group]) -> dict[bytes, bytes]:
    """Return the metadata of the schema of a file with these groups; none where it has no rows."""
    import pyarrow.parquet

    if not groups:
        return {}
    with readable(groups[0].file), open_place(groups[0].file) as stream:
        footer = pyarrow.BufferReader(footer_of(stream, groups[:1]))
        return dict(pyarrow.parquet.read_metadata(footer).metadata or {})


def rows_at(addresses: Iterable[str], most_unpacked: int = MOST_UNPACKED) -> Generator[Row]:
    """Yield the rows of parquet files of the hub, some row groups fetched at a time.

    Raises DataError as `groups_of` and `rows_by_group` do.
    """
    _give_memory_back()
    for address in addresses:
        groups = groups_of(address)
        allowance = Allowance(address, groups[-1].footer.end if groups else 0, most_unpacked)
        with readable(address), open_address(address) as stream:
            for some in _slices(groups, TOGETHER):
                metadata = _metadata(stream, some)
                place = _fetched(stream, metadata, some[0].footer.end)
                with _opened(place, address, metadata) as parquet:
                    # From what is fetched already: a page's header is no request of its own.
                    size = batch_size(parquet.metadata, range(len(some)), place, address, most_unpacked)
                    yield from _rows(parquet, None, size, allowance)


def _slices(groups: Iterable[Group], most: float = math.inf) -> Iterator[list[Group]]:
    """Yield groups of one file that follow each other, as many as one footer and `most` bytes take, at least one."""
    some: list[Group] = []
    for group in groups:
        full = len(some) == NUM_GROUPS or sum(one.num_bytes for one in some) + group.num_bytes > most
        if some and (full or some[0].footer is not group.footer):
            yield some
            some = []
        some.append(group)
    if some:
        yield some


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


def _metadata(stream: BinaryIO, groups: Sequence[Group]) -> Any:
    """Return what pyarrow knows of these groups of one file."""
    import pyarrow.parquet

    return pyarrow.parquet.read_metadata(pyarrow.BufferReader(footer_of(stream, groups)))


def _opened(stream: BinaryIO, file: Path | str, metadata: Any) -> Any:
    """Return pyarrow's ParquetFile of the groups that `metadata` names."""
    import pyarrow.parquet

    if isinstance(file, Path):
        return pyarrow.parquet.ParquetFile(file, metadata=metadata, buffer_size=1 << 20, pre_buffer=False)
    # Not pre_buffer: pyarrow's threads, still at the file of Python when that ends, abort the process (arrow#45214).
    buffer_size = 1 << 20 if isinstance(stream, _Part) else REQUEST
    return pyarrow.parquet.ParquetFile(stream, metadata=metadata, buffer_size=buffer_size, pre_buffer=False)


def _fetched(stream: BinaryIO, metadata: Any, size: int) -> Any:
    """Return the groups' bytes of a file of `size`, fetched by one request; the file itself where they are many."""
    begin, end = _bounds(metadata)
    return stream if end - begin > 2 * TOGETHER else _Part(read_part(stream, begin, end), begin, size)


def _bounds(metadata: Any) -> tuple[int, int]:
    """Return the first byte of the file that the groups take, and the one after the last."""
    groups = map(metadata.row_group, range(metadata.num_row_groups))
    columns = [group.column(number) for group in groups for number in range(group.num_columns)]
    places = [
        (column.dictionary_page_offset or column.data_page_offset, column.total_compressed_size) for column in columns
    ]
    return min(begin for begin, _ in places), max(begin + size for begin, size in places) + PADDING


class _Part(io.BytesIO):
    """A part of a file in memory, at its places in the file."""

    def __init__(self, raw: bytes, begin: int, size: int) -> None:
        """Keep the part that begins at a byte of the file, whose size is told to who asks."""
        super().__init__(raw)
        self._begin, self._size = begin, size

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self.tell(), os.SEEK_END: self._size}[whence]
        return super().seek(max(base + offset - self._begin, 0)) + self._begin

    def tell(self) -> int:
        return super().tell() + self._begin


def _rows(parquet: Any, numbers: list[int] | None, size: int, allowance: Allowance) -> Iterator[Row]:
    with readable(allowance.where):
        for batch in parquet.iter_batches(batch_size=size, row_groups=numbers, use_threads=False):
            yield from allowance.rows(batch)
