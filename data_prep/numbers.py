"""Numbers in flags, with their ranges: what is outside is refused by the parser, with exit code 2 and the range.

parser.add_argument("--limit", type=whole(0), default=0)
parser.add_argument("--share", type=real(0, 1))
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable

MOST = 2**31 - 1
"""The largest whole number that a flag takes unless it sets a smaller one: every library below can hold it."""


def whole(low: int, high: int = MOST) -> Callable[[str], int]:
    """Return a type for argparse: a whole number from `low` to `high`."""

    def number(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"expected a whole number, found {text[:40]!r}") from None
        if not low <= value <= high:
            words = in_words(low, high, is_above_all=value > high)
            raise argparse.ArgumentTypeError(f"expected a whole number {words}, found {text[:40]}")
        return value

    return number


def real(low: float, high: float = math.inf, *, above: bool = False) -> Callable[[str], float]:
    """Return a type for argparse: a finite number from `low` to `high`; with `above`, `low` itself is refused."""

    def number(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"expected a number, found {text[:40]!r}") from None
        if not math.isfinite(value) or not low <= value <= high or (above and value == low):
            words = in_words(low, high, above, is_above_all=math.isfinite(value) and value > high)
            raise argparse.ArgumentTypeError(f"expected a number {words}, found {text[:40]}")
        return value

    return number


def in_words(low: float, high: float, above: bool = False, is_above_all: bool = False) -> str:
    """Return a range in words: `from 1 to 8`, `of 1 or more`, `above 0`; its end too for a number beyond all of it.

    >>> in_words(0, math.inf, above=True)
    'above 0'
    """
    if high in (MOST, math.inf) and not is_above_all:
        return f"above {_shown(low)}" if above else f"of {_shown(low)} or more"
    begin, end = _shown(low), _shown(high)
    return f"above {begin} and at most {end}" if above else f"from {begin} to {end}"


def _shown(number: float) -> str:
    return str(number) if isinstance(number, int) else f"{number:g}"


seed = whole(0, 2**32 - 1)
"""The type of every --seed: what random, NumPy and torch all take."""
