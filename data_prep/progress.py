"""A line of progress with rate and time left, for anything over a few seconds.

with Progress("converting", 9009, "rows") as progress:
    for row in progress.each(rows): ...
# converting 4512 of 9009 rows, 3021/s, 1 s left
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")
QUIET_SECONDS = 2.0


class Progress:
    """Writes to standard error: in place on a terminal, else a line every ten seconds. Short work stays silent."""

    def __init__(self, what: str, total: int | None, unit: str) -> None:
        """Say what is done, to how many (None: not known), and what they are."""
        self._what, self._total, self._unit = what, total, unit
        self._done = 0
        self._start = self._last = time.monotonic()
        self._shown = False

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *error: object) -> None:
        if self._shown and sys.stderr.isatty():
            print(file=sys.stderr)

    def each(self, items: Iterable[T]) -> Iterator[T]:
        """Yield the items, counting them."""
        for item in items:
            yield item
            self.advance(1)

    def advance(self, count: int) -> None:
        """Count `count` more."""
        self._done += count
        now = time.monotonic()
        if now - self._last < 0.5 or now - self._start < QUIET_SECONDS:
            return  # asked of every record, a terminal's question costs as much as reading it
        live = sys.stderr.isatty()
        if live or now - self._last >= 10:
            self._last, self._shown = now, True
            print(f"\r{self.line(now)}\x1b[K" if live else self.line(now), end="" if live else "\n", file=sys.stderr)

    def line(self, now: float) -> str:
        """Return the line of progress at time `now` (seconds of the monotonic clock)."""
        rate = self._done / max(now - self._start, 1e-9)
        if self._total is None:
            return f"{self._what} {self._done} {self._unit}, {rate:.0f}/s"
        left = (self._total - self._done) / max(rate, 1e-9)
        return f"{self._what} {self._done} of {self._total} {self._unit}, {rate:.0f}/s, {left:.0f} s left"
