"""Pairs that prefer one word to another far more often than the other way round: the word is learned, not the picture.

pairs = Sides(balance=True)
kept = list(pairs.of(converted))       # as many "yes" above "no" as "no" above "yes"
pairs.said()                           # None, or the sentence to print where they were not balanced
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator

from data_prep.records.output import Converted, Drop, Reason

FEWEST, TIMES = 10, 2
"""Said from ten pairs on, where one side has twice as many as the other."""
Side = tuple[str, str]


class Sides:
    """Counts how often each answer is preferred to each other one, and with `balance` keeps as many of both."""

    def __init__(self, balance: bool) -> None:
        self.balance = balance
        self.counts: Counter[Side] = Counter()

    def of(self, made: Iterable[Converted | Drop]) -> Iterator[Converted | Drop]:
        """Yield what was made; with `balance` the pairs that are too many, drawn by chance, as drops."""
        kept = list(made) if self.balance else made
        surplus = _surplus(kept) if isinstance(kept, list) else set()
        for place, one in enumerate(kept):
            if place in surplus:
                yield Drop(Reason.ONE_SIDED, _name(one))
                continue
            if isinstance(one, Converted):
                self.counts[_side(one)] += 1
            yield one

    def said(self) -> str | None:
        """Return a sentence on the two answers that are most one-sided; None where none are."""
        worst = max(self.counts, key=lambda side: self.counts[side] - self.counts[side[::-1]], default=None)
        if worst is None:
            return None
        more, less = self.counts[worst], self.counts[worst[::-1]]
        if more + less < FEWEST or more < TIMES * less or not (less or _is_yes_no(worst)):
            return None
        better, worse = worst
        return (
            f'{more} pairs prefer "{better}" to "{worse}" and {less} the other way round: DPO learns to say '
            f'"{better}", whatever the picture shows; '
            + ("--balance keeps as many of both" if less else "mix in pairs of the other way round")
        )


def _side(one: Converted) -> Side:
    chosen, rejected = (str(one.record[key]).strip().lower() for key in ("chosen", "rejected"))
    return chosen, rejected


def _is_yes_no(side: Side) -> bool:
    return {word.rstrip(".") for word in side} == {"yes", "no"}


def _name(one: Converted | Drop) -> str:
    return str(one.record["id"]) if isinstance(one, Converted) else one.where


def _surplus(made: list[Converted | Drop]) -> set[int]:
    places: defaultdict[Side, list[int]] = defaultdict(list)
    for place, one in enumerate(made):
        if isinstance(one, Converted):
            places[_side(one)].append(place)
    out: set[int] = set()
    for side, here in places.items():
        other = len(places.get(side[::-1], ()))
        if 0 < other < len(here):
            out |= set(random.Random(0).sample(here, len(here) - other))
    return out
