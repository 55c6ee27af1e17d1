"""How sure a score is: Wilson and bootstrap 95 % intervals, and paired tests between two runs on the same questions.

A score on a few hundred questions moves by several points by luck alone; every number in a report carries its interval.

    >>> tuple(round(bound, 3) for bound in wilson(97, 100))
    (0.915, 0.99)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

Values: TypeAlias = np.ndarray[tuple[int], np.dtype[np.float64]]

Z_95 = 1.959963984540054
NUM_RESAMPLES = 2000
# Bounds the memory of one block of resampled indices (8 bytes each).
BLOCK_SIZE = 2_000_000


def wilson(num_right: float, count: int, z: float = Z_95) -> tuple[float, float]:
    """Return the Wilson score interval of a proportion (Wilson 1927); (0, 1) when nothing was counted."""
    if count == 0:
        return (0.0, 1.0)
    share = num_right / count
    spread = 1 + z * z / count
    middle = (share + z * z / (2 * count)) / spread
    half = z / spread * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    low = 0.0 if num_right == 0 else max(0.0, middle - half)
    high = 1.0 if num_right == count else min(1.0, middle + half)
    return (low, high)


def bootstrap(values: Sequence[float], num_resamples: int = NUM_RESAMPLES, seed: int = 0) -> tuple[float, float]:
    """Return the percentile bootstrap 95 % interval of the mean of `values`; the same seed gives the same interval."""
    means = _resampled_means(np.asarray(values, dtype=np.float64), num_resamples, seed)
    if means.size == 0:
        return (0.0, 1.0)
    low, high = np.percentile(means, [2.5, 97.5])
    return (float(low), float(high))


@dataclass(frozen=True)
class PairedTest:
    """The difference second minus first on the same questions, its 95 % interval, and the p value of no difference."""

    difference: float
    interval: tuple[float, float]
    p_value: float
    count: int
    method: str

    def in_words(self) -> str:
        """Return for example `+3.2 points (95 % interval +1.0 to +5.4, p = 0.004)`."""
        low, high = self.interval
        p_text = "p < 0.001" if self.p_value < 0.001 else f"p = {self.p_value:.3f}"
        return f"{100 * self.difference:+.1f} points (95 % interval {100 * low:+.1f} to {100 * high:+.1f}, {p_text})"


def mcnemar(first: Sequence[bool], second: Sequence[bool]) -> PairedTest:
    """Return the exact McNemar test of two runs' right and wrong answers to the same questions.

    Only questions that one run gets right and the other wrong count; under no difference they split evenly (two-sided
    binomial). Raises ValueError when the two have different lengths.
    """
    _require_same_length(first, second)
    changes = [float(b) - float(a) for a, b in zip(first, second, strict=True)]
    gained, lost = changes.count(1.0), changes.count(-1.0)
    difference = sum(changes) / len(changes) if changes else 0.0
    interval = bootstrap(changes) if changes else (0.0, 0.0)
    return PairedTest(difference, interval, binomial_two_sided(gained, lost), len(changes), "exact McNemar")


def paired_bootstrap(
    first: Sequence[float], second: Sequence[float], num_resamples: int = NUM_RESAMPLES, seed: int = 0
) -> PairedTest:
    """Return the paired bootstrap test of two runs' scores per question (Efron and Tibshirani 1993, chapter 16).

    The p value is two-sided and never below 1 / num_resamples, nor below what turning the signs of the differences
    can reach: three questions that all change the same way give 1 / 4. Raises ValueError when the two have
    different lengths.
    """
    _require_same_length(first, second)
    changes = np.asarray(second, dtype=np.float64) - np.asarray(first, dtype=np.float64)
    if changes.size == 0 or not changes.any():
        return PairedTest(0.0, (0.0, 0.0), 1.0, int(changes.size), "paired bootstrap")
    means = _resampled_means(changes, num_resamples, seed)
    low, high = np.percentile(means, [2.5, 97.5])
    tail = min(float((means <= 0).mean()), float((means >= 0).mean()))
    least = 2.0 ** (1 - int(np.count_nonzero(changes)))
    p_value = min(1.0, max(2 * tail, 1 / num_resamples, least))
    return PairedTest(float(changes.mean()), (float(low), float(high)), p_value, int(changes.size), "paired bootstrap")


def binomial_two_sided(gained: int, lost: int) -> float:
    """Return the exact two-sided probability of so uneven a split of gained + lost fair coin tosses."""
    tosses = gained + lost
    if tosses == 0:
        return 1.0
    ways, term = 0, 1
    for heads in range(min(gained, lost) + 1):
        ways += term
        term = term * (tosses - heads) // (heads + 1)
    return float(min(1.0, 2 * ways / 2**tosses))


def _resampled_means(values: Values, num_resamples: int, seed: int) -> Values:
    if values.size == 0:
        return np.empty(0, dtype=np.float64)
    random = np.random.default_rng(seed)
    rows = max(1, BLOCK_SIZE // values.size)
    blocks = []
    for start in range(0, num_resamples, rows):
        num_rows = min(rows, num_resamples - start)
        picks = random.integers(0, values.size, size=(num_rows, values.size))
        blocks.append(values[picks].mean(axis=1))
    return np.concatenate(blocks)


def _require_same_length(first: Sequence[float], second: Sequence[float]) -> None:
    if len(first) != len(second):
        raise ValueError(f"a paired test needs the same questions: {len(first)} against {len(second)}")
