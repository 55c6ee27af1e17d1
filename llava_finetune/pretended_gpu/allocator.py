"""torch's caching allocator, replayed over a run's allocations: what it reserves on the GPU beside what is used.

Its rules are those of c10/cuda/CUDACachingAllocator.cpp without expandable segments: blocks up to 1 MiB are cut from
segments of 2 MiB, others up to 10 MiB from 20 MiB, larger ones have a segment of their own, rounded up to 2 MiB; a
free block is taken where it fits best, cut if enough is left, and joined with free neighbours.

    replay([(0, 4096), (1, 512), (0, -4096)]).peak_reserved
"""

from __future__ import annotations

import bisect
from collections.abc import Iterable
from dataclasses import dataclass

MIB = 2**20
SMALL = MIB
SMALL_SEGMENT = 2 * MIB
MIDDLE_SEGMENT = 20 * MIB
MIDDLE = 10 * MIB
LARGE_ROUNDING = 2 * MIB
UNIT = 512


@dataclass(eq=False)
class Part:
    """A stretch of a segment, in use or free."""

    size: int
    place: int
    is_small: bool
    free: bool = False
    before: Part | None = None
    after: Part | None = None


class CachingAllocator:
    """`reserved` bytes are held in segments, `used` of them by blocks."""

    def __init__(self) -> None:
        self.reserved = self.used = self.peak_reserved = self.peak_used = 0
        self._free: dict[bool, list[tuple[int, int]]] = {True: [], False: []}
        self._parts: dict[int, Part] = {}
        self._next_place = 0

    def take(self, size: int) -> Part:
        """A block of at least `size` bytes."""
        size = max(UNIT, -(-size // UNIT) * UNIT)
        part = self._best_fit(size) or self._new_segment(size)
        left = part.size - size
        if left >= UNIT if part.is_small else left > SMALL:
            rest = Part(left, part.place + size, part.is_small, before=part, after=part.after)
            if part.after:
                part.after.before = rest
            part.after, part.size = rest, size
            self._set_free(rest)
        part.free = False
        self.used += part.size
        self.peak_used = max(self.peak_used, self.used)
        return part

    def give_back(self, part: Part) -> None:
        """A block is free again, together with free neighbours."""
        self.used -= part.size
        if part.before and part.before.free:
            self._drop(part.before)
            part = self._joined(part.before, part)
        if part.after and part.after.free:
            self._drop(part.after)
            part = self._joined(part, part.after)
        self._set_free(part)

    def _best_fit(self, size: int) -> Part | None:
        free = self._free[size <= SMALL]
        index = bisect.bisect_left(free, (size, -1))
        return self._parts.pop(free.pop(index)[1]) if index < len(free) else None

    def _new_segment(self, size: int) -> Part:
        is_small = size <= SMALL
        rounded = -(-size // LARGE_ROUNDING) * LARGE_ROUNDING
        segment = SMALL_SEGMENT if is_small else MIDDLE_SEGMENT if size < MIDDLE else rounded
        self.reserved += segment
        self.peak_reserved = max(self.peak_reserved, self.reserved)
        part = Part(segment, self._next_place, is_small)
        self._next_place += segment
        return part

    def _set_free(self, part: Part) -> None:
        part.free = True
        self._parts[part.place] = part
        bisect.insort(self._free[part.is_small], (part.size, part.place))

    def _drop(self, part: Part) -> None:
        free = self._free[part.is_small]
        free.pop(bisect.bisect_left(free, (part.size, part.place)))
        del self._parts[part.place]

    def _joined(self, first: Part, second: Part) -> Part:
        first.size += second.size
        first.after = second.after
        if second.after:
            second.after.before = first
        return first


def replay(events: Iterable[tuple[int, int]]) -> CachingAllocator:
    """Run through a ledger's events: (number, bytes), negative when freed."""
    allocator = CachingAllocator()
    live: dict[int, Part] = {}
    for number, size in events:
        if size > 0:
            live[number] = allocator.take(size)
        else:
            allocator.give_back(live.pop(number))
    return allocator
