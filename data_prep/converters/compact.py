"""Thrift's compact protocol, walked without its schema: parquet's footers and page headers are written in it.

    dict(fields(raw, 0))      # {4: 120, 0: 300}: where the value of field 4 begins, and where the struct ends

The package `thrift` cannot do it: its `skip` reads the statistics of a picture as text.
"""

from __future__ import annotations

from collections.abc import Iterator

END = 0
"""`fields`' end of a struct."""
BOOLEANS, INTEGERS, BINARY, LISTS, STRUCT = {1, 2}, {4, 5, 6}, 8, {9, 10}, 12
"""The compact protocol's types; a map (11) does not occur."""
FIXED = {1: 1, 2: 1, 3: 1, 7: 8}
"""Bytes of a list's element of the types that have a fixed size: booleans (none in a field), a byte, a double."""


def fields(raw: bytes, at: int) -> Iterator[tuple[int, int]]:
    """Yield number and place of each field of the struct at `at`, last END and the place after the struct.

    Raises ValueError for what is no struct, IndexError where `raw` ends within it.
    """
    number = 0
    while head := raw[at]:
        at += 1
        if head >> 4:
            number += head >> 4
        else:
            number, at = varint(raw, at)
            number >>= 1
        yield number, at
        at = _skip(raw, at, head & 15)
    yield END, at + 1


def _skip(raw: bytes, at: int, kind: int) -> int:
    """Return the place after the value of type `kind` at `at`."""
    if kind in INTEGERS:
        return varint(raw, at)[1]
    if kind == BINARY:
        size, at = varint(raw, at)
        return at + size
    if kind == STRUCT:
        while head := raw[at]:
            at = _skip(raw, at + 1 if head >> 4 else varint(raw, at + 1)[1], head & 15)
        return at + 1
    if kind in LISTS:
        size, at, kind = list_header(raw, at)
        if kind in FIXED:
            return at + size * FIXED[kind]
        for _ in range(size):
            at = _skip(raw, at, kind)
        return at
    if kind in FIXED:
        return at if kind in BOOLEANS else at + FIXED[kind]
    raise ValueError(f"type {kind} in it")


def list_header(raw: bytes, at: int) -> tuple[int, int, int]:
    """Return the number of a list's elements, the place of the first, and their type."""
    head = raw[at]
    size, at = varint(raw, at + 1) if head >> 4 == 15 else (head >> 4, at + 1)
    return size, at, head & 15


def varint(raw: bytes, at: int) -> tuple[int, int]:
    """Return the number at `at` and the place after it."""
    value = shift = 0
    while (byte := raw[at]) > 127:
        value |= (byte & 127) << shift
        shift += 7
        at += 1
        if shift > 63:
            raise ValueError("a number of more than 64 bits in it")
    return value | byte << shift, at + 1
