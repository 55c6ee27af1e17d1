"""Find pictures that are the same bytes, or look the same, without comparing every two.

seen = Lookalikes()
seen.add("a.jpg", facts_of_a)
seen.find(facts_of_b)        # "a.jpg" when b looks like it, else None
"""

from __future__ import annotations

from array import array

from data_prep.check.inspect import Facts

MAX_DISTANCE = 3
MAX_DIFFERENCE = 2.5
MAX_BUCKET = 8
NUM_BANDS, BANDS = 4, 1 << 16
"""Bands of a pattern, and the values of each."""


class Lookalikes:
    """Pictures that were seen, found again by how they look.

    Two pictures look the same when at most 3 of the 64 bits of their patterns differ and their thumbnails differ by at
    most 2.5 of 255 on average. Patterns that close agree in one of four 16-bit bands, so only those are compared, at
    most 8 a band: time grows with the number of pictures, not with its square; memory is 8 MB and 16 bytes a picture.
    """

    def __init__(self) -> None:
        """Begin with nothing seen."""
        self._names: list[str] = []
        self._facts: list[Facts] = []
        self._buckets = array("I", bytes(4 * NUM_BANDS * BANDS * MAX_BUCKET))  # numbers of pictures, from 1

    def find(self, facts: Facts) -> str | None:
        """Return the name of a picture seen that looks like `facts`, or None."""
        for start in _buckets(facts.pattern):
            for number in self._buckets[start : start + MAX_BUCKET]:
                if not number:
                    break
                if _look_alike(self._facts[number - 1], facts):
                    return self._names[number - 1]
        return None

    def add(self, name: str, facts: Facts) -> None:
        """Remember a picture."""
        self._names.append(name)
        self._facts.append(facts)
        for start in _buckets(facts.pattern):
            for place in range(start, start + MAX_BUCKET):
                if not self._buckets[place]:
                    self._buckets[place] = len(self._names)
                    break


def _buckets(pattern: int) -> list[int]:
    return [(band * BANDS + (pattern >> (16 * band) & 0xFFFF)) * MAX_BUCKET for band in range(NUM_BANDS)]


def _look_alike(one: Facts, other: Facts) -> bool:
    if (one.pattern ^ other.pattern).bit_count() > MAX_DISTANCE:
        return False
    total = sum(abs(a - b) for a, b in zip(one.thumb, other.thumb, strict=True))
    return total <= MAX_DIFFERENCE * len(one.thumb)
