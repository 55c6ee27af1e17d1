"""What a TIFF holds that is not read, by its tags: bands, bits and compression, for a message that names them.

unread_tiff(stream)      # "a TIFF of 5 bands of 16 bits, which is not read; ..."
"""

from __future__ import annotations

import io
import struct
from collections.abc import Mapping
from typing import Any, BinaryIO

BITS, COMPRESSION, COLOURS, BANDS, FORMAT = 258, 259, 262, 277, 339
YCBCR = 6
SIZES = {3: ("H", 2), 4: ("I", 4)}
FORMATS = {1: "whole numbers", 2: "signed numbers", 3: "floats", 5: "complex numbers", 6: "complex numbers"}
READ = "1 band (grey) or 3 (RGB) of 8 or 16 bits, and 1 of floats, are read"


def misread_tiff(tags: Mapping[int, Any]) -> str | None:
    """Return why the pixels of a TIFF that Pillow opens would be wrong, by its tags; None where they are not.

    It takes YCbCr without compression for four bytes a pixel.
    """
    if tags.get(COLOURS) != YCBCR or tags.get(COMPRESSION, 1) != 1:
        return None
    return "a TIFF of YCbCr colours without compression, which is not read; save it as RGB, or drop the record"


def unread_tiff(stream: io.BufferedIOBase | BinaryIO) -> str | None:
    """Return what a TIFF that cannot be opened holds and what to do; None where its tags do not tell."""
    tags = _first_tags(stream)
    if BITS not in tags and BANDS not in tags:
        return None
    bands, bits = tags.get(BANDS, 1), tags.get(BITS, 1)
    kind = FORMATS.get(tags.get(FORMAT, 1), "values of an unknown kind")
    held = f"a TIFF of {bands} bands" if bands != 1 else "a TIFF of 1 band"
    packed = tags.get(COMPRESSION, 1)
    packing = f", compression {packed}" if packed not in (1, 5, 7, 8, 32773) else ""
    return (
        f"{held} of {bits}-bit {kind}{packing}, which is not read: {READ}; "
        "write the bands that show what is asked as an RGB picture of 8 bits, or drop the record"
    )


def _first_tags(stream: io.BufferedIOBase | BinaryIO) -> dict[int, int]:
    """Return the first value of each short or long tag of the first directory; none where it is cut off."""
    try:
        stream.seek(0)
        head = stream.read(8)
        order = "<" if head[:2] == b"II" else ">"
        if struct.unpack(f"{order}H", head[2:4]) != (42,):
            return {}
        stream.seek(struct.unpack(f"{order}I", head[4:])[0])
        (count,) = struct.unpack(f"{order}H", stream.read(2))
        entries = stream.read(12 * count)
        return {
            tag: value
            for tag, kind, number, place in struct.iter_unpack(f"{order}HHI4s", entries)
            if (value := _first_value(stream, order, kind, number, place)) is not None
        }
    except (struct.error, OSError, ValueError):
        return {}


def _first_value(stream: io.BufferedIOBase | BinaryIO, order: str, kind: int, number: int, place: bytes) -> int | None:
    if kind not in SIZES or not number:
        return None
    letter, size = SIZES[kind]
    if number * size > 4:
        stream.seek(struct.unpack(f"{order}I", place)[0])
        place = stream.read(size)
    return int(struct.unpack_from(f"{order}{letter}", place)[0])
