"""Does the model say yes to what is not there: which evaluations tell it, and the sentence about it.

hallucination_sentence(read_run(Path("runs/mine")))
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llava_finetune.evaluation.intervals import PairedTest
from llava_finetune.evaluation.metrics import key_of
from llava_finetune.evaluation.yes_no import compared
from llava_finetune.report.numbers import interval, percent
from llava_finetune.report.outcomes import current
from llava_finetune.report.run_folder import Evaluation, Run

SMALLEST = 10
"""Questions whose answer is no, below which nothing is said."""


TOLD = (
    "yes_no_count", "yes_share_expected", "false_yes", "false_yes_interval", "yes_share", "yes_share_interval",
)  # fmt: skip


def gauged(run: Run) -> list[Evaluation]:
    """Return the gauge's evaluations, first to last; without a gauge those of the held-out yes/no questions."""
    if run.gauges:
        return [one for one in run.gauges if _is_told(one.scores)]
    now = current(run)
    found = [run.evaluations.get("baseline"), now]
    distinct = {one.name: one for one in found if one is not None}
    return [one for one in distinct.values() if _counts(one.scores)]


def hallucination_sentence(run: Run) -> str:
    """Return what the gauge says in one sentence, an empty text without numbers."""
    found = gauged(run)
    if not found:
        return ""
    first, last = found[0], found[-1]
    now = last.scores
    text = (
        f"Asked about what is not there, it says yes {percent(now['false_yes'])} of the time "
        f"(95\u00a0% interval {interval(now['false_yes_interval'])}\u00a0%)"
    )
    if first is not last:
        text += f"; {first.label.lower()} it was {percent(first.scores['false_yes'])}"
        test = false_yes_test(first, last)
        if test is not None and test.p_value >= 0.05:
            text += ", which luck alone may bring"
    lean = now["yes_share"] - now["yes_share_expected"]
    low, high = (bound - now["yes_share_expected"] for bound in now["yes_share_interval"])
    if low > 0 or high < 0:
        text += f". It leans to {'yes' if lean > 0 else 'no'}: {percent(now['yes_share'])} of its answers are yes, "
        text += f"{percent(now['yes_share_expected'])} should be"
    return f"{text}."


def false_yes_test(first: Evaluation, last: Evaluation) -> PairedTest | None:
    """Return the test of false yes between two evaluations on the questions that both answered; None without one."""
    before = {key_of(one): one for one in first.predictions}
    shared = [one for one in last.predictions if key_of(one) in before]
    if first is last or not shared:
        return None
    return compared([before[key_of(one)] for one in shared], shared)


def _is_told(scores: Mapping[str, Any]) -> bool:
    """Whether the scores hold all that is said of false yes."""
    return all(scores.get(name) is not None for name in TOLD)


def _counts(scores: Mapping[str, Any]) -> bool:
    if not _is_told(scores):
        return False
    return bool(float(scores["yes_no_count"]) * (1 - float(scores["yes_share_expected"])) >= SMALLEST)
