"""Pairs that prefer one word to another far more often than the other way round: the word is learned, not the picture.

sides = Sides()
kept = list(sides.counted(balanced(converted)))     # as many "yes" above "no" as "no" above "yes"
sides.said()                                        # None, or the sentence to print where they were not balanced
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator

from data_prep.records.output import Converted, Drop, Reason
from data_prep.tools.presence import plain

FEWEST, TIMES = 10, 2
"""Said from ten pairs on, where one side has twice as many as the other."""
Side = tuple[str, str]


class Sides:
    """Counts how often each answer is preferred to each other one."""

    def __init__(self) -> None:
        self.counts: Counter[Side] = Counter()

    def counted(self, made: Iterable[Converted | Drop]) -> Iterator[Converted | Drop]:
        """Yield what was made."""
        for one in made:
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
    return plain(str(one.record["chosen"])), plain(str(one.record["rejected"]))


def _is_yes_no(side: Side) -> bool:
    return set(side) == {"yes", "no"}


def balanced(made: Iterable[Converted | Drop]) -> Iterator[Converted | Drop]:
    """Yield what was made, as many pairs this way round as the other; the others, drawn by chance, as drops."""
    every = list(made)
    places: defaultdict[Side, list[int]] = defaultdict(list)
    for place, one in enumerate(every):
        if isinstance(one, Converted):
            places[_side(one)].append(place)
    surplus: set[int] = set()
    for side, here in places.items():
        other = len(places.get(side[::-1], ()))
        if 0 < other < len(here):
            surplus |= set(random.Random(0).sample(here, len(here) - other))
    for place, one in enumerate(every):
        yield Drop(Reason.ONE_SIDED, one.record["id"]) if isinstance(one, Converted) and place in surplus else one
