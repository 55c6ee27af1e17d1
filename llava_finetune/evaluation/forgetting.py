"""What was known before training and is not known any more: counted on the questions that the base could answer.

A question that the base gets wrong cannot be forgotten: it only thins the gauge out, to nothing for a small base.

    kept_of(before, now).in_words()     # "22 of the 24 general questions ... (91.7 %, 95 % interval 74.2 to 97.7)"
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llava_finetune.evaluation import metrics
from llava_finetune.evaluation.intervals import wilson

Prediction = Mapping[str, Any]

LITTLE, MUCH = 0.1, 0.3
"""Shares of general records that are proposed: where up to a quarter of what was known is lost, and where more is."""


@dataclass(frozen=True)
class Kept:
    """Of `count` general questions the base knew `num_known`, and `num_kept` of those are still answered right."""

    count: int
    num_known: int
    num_kept: int

    @property
    def share(self) -> float:
        """Of what was known, how much still is; 1 where nothing was known."""
        return self.num_kept / self.num_known if self.num_known else 1.0

    @property
    def interval(self) -> tuple[float, float]:
        """The share's 95 % Wilson interval."""
        return wilson(self.num_kept, self.num_known)

    def in_words(self) -> str:
        """A sentence without its full stop."""
        left_out = self.count - self.num_known
        if not self.num_known:
            return f"the base answers none of the {self.count} general questions, so they cannot show what is forgotten"
        low, high = self.interval
        rest = f"; the {left_out} that the base could not answer are left out" if left_out else ""
        return (
            f"{self.num_kept} of the {self.num_known} general questions that the base could answer are still answered "
            f"({self.share:.1%}, 95 % interval {low:.1%} to {high:.1%}){rest}"
        )

    def advice(self) -> str:
        """What to do where something was surely lost, else an empty text.

        Sure is that the interval excludes that nothing is lost but one answer in twenty, which rounding may flip.
        """
        if not self.num_known or self.interval[1] >= 0.95:
            return ""
        share = LITTLE if self.share >= 0.75 else MUCH
        return (
            f"something was forgotten: train again with --replay GENERAL.json:{share:g}, general records that are not "
            "these questions, or with a lower --learning_rate"
        )


def kept_of(before: Sequence[Prediction], now: Sequence[Prediction]) -> Kept:
    """Compare two sets of answers on the questions that both hold, by record and turn."""
    known = {metrics.key_of(one): metrics.is_right(one) for one in before}
    shared = [one for one in now if metrics.key_of(one) in known]
    right = [one for one in shared if known[metrics.key_of(one)]]
    return Kept(len(shared), len(right), sum(metrics.is_right(one) for one in right))
