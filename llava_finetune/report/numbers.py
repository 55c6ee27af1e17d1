"""Numbers as a reader wants them: percent with an interval, steps with commas, durations in words.

>>> percent(0.978), interval([0.972, 0.983])
('97.8\\u00a0%', '97.2-98.3')
"""

from __future__ import annotations

import math
from collections.abc import Sequence

SPACE = "\u00a0"
DASH = "\u2013"


def percent(share: float) -> str:
    """Return a share (0 to 1) as percent with one decimal."""
    return f"{bare_percent(share)}{SPACE}%"


def bare_percent(share: float) -> str:
    """Return a share (0 to 1) as percent with one decimal, without the sign; 100.0 only when nothing is wrong."""
    value = round(100 * share, 1)
    if value == 100 and share < 1:
        return ">99.9"
    return f"{value:.1f}"


def interval(bounds: Sequence[float]) -> str:
    """Return two shares as `97.2-98.3` (with an en dash) percent."""
    low, high = bounds
    return f"{100 * low:.1f}{DASH}{100 * high:.1f}"


def points(difference: float) -> str:
    """Return a difference of shares as `+3.2 points`."""
    return f"{100 * difference:+.1f}{SPACE}points".replace("-", "\u2212")


def plural(count: int, noun: str) -> str:
    """Return `1 question`, `2,900 questions`."""
    return f"{count:,}{SPACE}{noun}" if count == 1 else f"{count:,}{SPACE}{noun}s"


def duration(seconds: float) -> str:
    """Return seconds as `45 s`, `12 min`, `3 h 20 min`."""
    if seconds < 90:
        return f"{seconds:.0f}{SPACE}s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes}{SPACE}min"
    return f"{minutes // 60}{SPACE}h {minutes % 60}{SPACE}min"


def short(value: float) -> str:
    """Return a number of any size in few characters: `2e-4`, `0.031`, `1.25`, `12.3k`."""
    size = abs(value)
    if value == 0:
        return "0"
    if size < 0.001:
        mantissa, exponent = f"{value:.1e}".split("e")
        return f"{mantissa.removesuffix('.0')}e{int(exponent)}"
    if size >= 10_000:
        return f"{value / 1000:.3g}k" if size < 1e6 else f"{value / 1e6:.3g}M"
    digits = max(0, 2 - math.floor(math.log10(size)))
    text = f"{value:,.{digits}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def ticks(low: float, high: float, count: int = 4) -> list[float]:
    """Return round numbers that span low to high, about `count` of them (steps of 1, 2, 2.5 or 5)."""
    if high <= low:
        high = low + (abs(low) or 1.0)
    raw = (high - low) / count
    size = 10 ** math.floor(math.log10(raw))
    step = next(factor * size for factor in (1, 2, 2.5, 5, 10) if factor * size >= raw * 0.999)
    first = math.floor(low / step + 1e-9)
    last = math.ceil(high / step - 1e-9)
    return [round(number * step, 12) for number in range(first, last + 1)]
