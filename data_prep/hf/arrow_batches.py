"""The record batches of an arrow file, looked at before one is read: how many rows there are, and what each becomes.

A batch that was written compressed is unpacked whole when it is read. What it becomes stands in front of each of its
buffers, where those stand in the batch's own description, a flatbuffer (Message.fbs of Arrow's format).

    num_rows(Path("data-00000-of-00001.arrow"), most=256 << 20)
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data_prep.errors import DataError

MAGIC = b"ARROW1\0\0"
"""How a file begins that has a footer; the messages behind it are those of a stream."""
DICTIONARY, BATCH = 2, 3
"""Kinds of a Message's header."""


def num_rows(file: Path, most: int) -> int:
    """Return the rows of a file. Raises DataError where a batch of it would become more than `most` bytes."""
    rows = 0
    for number, (batch, body) in enumerate(_batches(file)):
        unpacked = _unpacked(batch, body)
        if unpacked > most:
            problem = f"batch {number + 1} becomes {unpacked >> 20:,} MB, more than the {most >> 20:,} MB allowed"
            raise DataError(file, f"{problem}; where it is meant, raise --max-unpacked")
        if not batch.is_dictionary:
            rows += batch.number(0, "<q")
    return rows


class _Table:
    """A table of a flatbuffer: its fields by their number, each of which may be left out."""

    def __init__(self, raw: bytes, at: int, *, is_dictionary: bool = False) -> None:
        self.raw, self.at, self.is_dictionary = raw, at, is_dictionary
        self.fields = at - struct.unpack_from("<i", raw, at)[0]

    def place(self, field: int) -> int | None:
        """Where a field stands."""
        end = struct.unpack_from("<H", self.raw, self.fields)[0]
        entry = 4 + 2 * field
        offset = struct.unpack_from("<H", self.raw, self.fields + entry)[0] if entry < end else 0
        return self.at + offset if offset else None

    def number(self, field: int, kind: str) -> int:
        """A field's number, 0 where it is left out."""
        place = self.place(field)
        return 0 if place is None else int(struct.unpack_from(kind, self.raw, place)[0])

    def target(self, field: int) -> int | None:
        """Where the table or list stands that a field points to."""
        place = self.place(field)
        return None if place is None else int(place + struct.unpack_from("<I", self.raw, place)[0])


def _batches(file: Path) -> Iterator[tuple[_Table, Any]]:
    """Yield each RecordBatch of a file, those of dictionaries too, with its body; the file is mapped, not read."""
    import pyarrow

    with pyarrow.memory_map(str(file)) as stream:
        if stream.read(len(MAGIC)) != MAGIC:
            stream.seek(0)
        messages = pyarrow.ipc.MessageReader.open_stream(stream)
        while True:
            try:
                message = messages.read_next_message()
            except StopIteration:
                return
            raw = message.metadata.to_pybytes()
            about = _Table(raw, struct.unpack_from("<I", raw, 0)[0])
            kind, header = about.number(1, "<B"), about.target(2)
            if kind == DICTIONARY and header is not None:
                header = _Table(raw, header).target(1)
            if kind in (DICTIONARY, BATCH) and header is not None:
                yield _Table(raw, header, is_dictionary=kind == DICTIONARY), message.body


def _unpacked(batch: _Table, body: Any) -> int:
    """Bytes that a batch's buffers become; what is not compressed is as long as it is."""
    buffers = batch.target(2)
    if buffers is None or batch.place(3) is None or body is None:
        return 0
    total = 0
    for number in range(struct.unpack_from("<I", batch.raw, buffers)[0]):
        start, length = struct.unpack_from("<qq", batch.raw, buffers + 4 + 16 * number)
        if length >= 8:
            total += max(struct.unpack("<q", body.slice(start, 8).to_pybytes())[0], 0)
    return total
