"""Find pictures that are the same bytes, or look the same, without comparing every two.

seen = Lookalikes()
seen.add("a.jpg", facts_of_a)
seen.find(facts_of_b)        # "a.jpg" when b looks like it, else None
"""

from __future__ import annotations

from data_prep.check.inspect import Facts

MAX_DISTANCE = 3
MAX_DIFFERENCE = 2.5
MAX_BUCKET = 8


class Lookalikes:
    """Pictures that were seen, found again by how they look.

    Two pictures look the same when at most 3 of the 64 bits of their patterns differ and their thumbnails differ by at
    most 2.5 of 255 on average. Patterns that close agree in one of four 16-bit bands, so only those are compared, at
    most 8 a band: memory and time grow with the number of pictures, not with its square.
    """

    def __init__(self) -> None:
        """Begin with nothing seen."""
        self._bands: dict[tuple[int, int], list[str]] = {}
        self._facts: dict[str, Facts] = {}

    def find(self, facts: Facts) -> str | None:
        """Return the name of a picture seen that looks like `facts`, or None."""
        for band in _bands(facts.pattern):
            for name in self._bands.get(band, ()):
                if _look_alike(self._facts[name], facts):
                    return name
        return None

    def add(self, name: str, facts: Facts) -> None:
        """Remember a picture."""
        for band in _bands(facts.pattern):
            bucket = self._bands.setdefault(band, [])
            if len(bucket) < MAX_BUCKET:
                bucket.append(name)
                self._facts[name] = facts


def _bands(pattern: int) -> list[tuple[int, int]]:
    return [(place, pattern >> (16 * place) & 0xFFFF) for place in range(4)]


def _look_alike(one: Facts, other: Facts) -> bool:
    if (one.pattern ^ other.pattern).bit_count() > MAX_DISTANCE:
        return False
    total = sum(abs(a - b) for a, b in zip(one.thumb, other.thumb, strict=True))
    return total <= MAX_DIFFERENCE * len(one.thumb)
