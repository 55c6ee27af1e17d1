"""What became of every question: right or wrong now, and before training; tests between two sets of answers.

paired(run.evaluations["baseline"], run.evaluations["final"]).in_words()
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llava_finetune.evaluation import metrics
from llava_finetune.evaluation.intervals import PairedTest, mcnemar, paired_bootstrap
from llava_finetune.evaluation.metrics import key_of
from llava_finetune.evaluation.text_overlap import token_f1
from llava_finetune.report.run_folder import CONTROLS, Evaluation, Run, is_number

LOST, WRONG, GAINED, RIGHT = "lost", "wrong", "gained", "right"
OUTCOMES = {
    LOST: "Right to wrong",
    WRONG: "Still wrong",
    GAINED: "Wrong to right",
    RIGHT: "Still right",
}


@dataclass(frozen=True)
class Outcome:
    """One question with the current answer, the answer before training and the blind answer where they are known."""

    now: Mapping[str, Any]
    before: Mapping[str, Any] | None
    blind: Mapping[str, Any] | None

    @property
    def kind(self) -> str:
        """One of `lost`, `wrong`, `gained`, `right`; without an earlier answer only `wrong` and `right`."""
        right = metrics.is_right(self.now)
        if self.before is None or metrics.is_right(self.before) == right:
            return RIGHT if right else WRONG
        return GAINED if right else LOST


def current(run: Run) -> Evaluation | None:
    """Return the evaluation that the report is about: after training, else the latest during it, else the baseline."""
    if "final" in run.evaluations:
        return run.evaluations["final"]
    during = [one for name, one in run.evaluations.items() if name not in ("baseline", *CONTROLS)]
    return during[-1] if during else run.evaluations.get("baseline")


def outcomes(run: Run) -> list[Outcome]:
    """Return the outcome of every question of the current evaluation, in its order."""
    evaluation = current(run)
    if evaluation is None:
        return []
    before = _by_key(run.evaluations.get("baseline")) if evaluation.name != "baseline" else {}
    blind = _by_key(run.evaluations.get("blind"))
    return [Outcome(one, before.get(key_of(one)), blind.get(key_of(one))) for one in evaluation.predictions]


def paired(first: Evaluation | None, second: Evaluation | None) -> PairedTest | None:
    """Return the exact McNemar test on the questions that both answered, None where they share none."""
    pairs = _shared(first, second)
    if not pairs:
        return None
    return mcnemar([metrics.is_right(a) for a, _ in pairs], [metrics.is_right(b) for _, b in pairs])


def paired_vqa(first: Evaluation | None, second: Evaluation | None) -> PairedTest | None:
    """Return the paired bootstrap test of the VQA accuracy, on the shared questions that have enough references."""
    pairs = _shared(first, second)
    a = metrics.vqa_accuracies([pair[0] for pair in pairs])
    b = metrics.vqa_accuracies([pair[1] for pair in pairs])
    scored = [(x, y) for x, y in zip(a, b, strict=True) if x is not None and y is not None]
    return paired_bootstrap([x for x, _ in scored], [y for _, y in scored]) if scored else None


def confusions(predictions: Sequence[Mapping[str, Any]]) -> Counter[tuple[str, str]]:
    """Count (reference, answer) pairs, both as exact match compares them."""
    return Counter((metrics.normalise(one["reference"]), metrics.normalise(one["answer"])) for one in predictions)


def worst_records(
    predictions: Sequence[Mapping[str, Any]], limit: int = 10
) -> list[tuple[str, list[Mapping[str, Any]]]]:
    """Return (record id, its predictions) of the hardest records.

    By their loss, where the predictions carry it: what the model finds least likely. Else those with wrong answers:
    most of them first, then largest share, then least overlap.
    """
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for one in predictions:
        groups.setdefault(str(one.get("id")), []).append(one)

    def badness(item: tuple[str, list[Mapping[str, Any]]]) -> tuple[int, float, float]:
        wrong = [one for one in item[1] if not metrics.is_right(one)]
        overlap = sum(token_f1(one["answer"], metrics.references_of(one)) for one in wrong)
        return len(wrong), len(wrong) / len(item[1]), -overlap / max(1, len(wrong))

    lossy = [item for item in groups.items() if loss_of(item[1]) is not None]
    if lossy:
        return sorted(lossy, key=lambda item: loss_of(item[1]) or 0.0, reverse=True)[:limit]
    wrong = [item for item in groups.items() if badness(item)[0]]
    return sorted(wrong, key=badness, reverse=True)[:limit]


def loss_of(predictions: Sequence[Mapping[str, Any]]) -> float | None:
    """Return a record's mean loss per answer token, None where its evaluation did not keep it."""
    loss: Any = predictions[0].get("loss")
    return float(loss) if is_number(loss) else None


def _shared(first: Evaluation | None, second: Evaluation | None) -> list[tuple[Mapping[str, Any], Mapping[str, Any]]]:
    before = _by_key(first)
    return [(before[key_of(one)], one) for one in (second.predictions if second else []) if key_of(one) in before]


def _by_key(evaluation: Evaluation | None) -> dict[tuple[str, int], Mapping[str, Any]]:
    return {key_of(one): one for one in evaluation.predictions} if evaluation else {}
