"""Yes and no are read from answers as people write them; rates have intervals and are tested in pairs."""

from __future__ import annotations

from typing import Any

import pytest

from llava_finetune.evaluation import metrics
from llava_finetune.evaluation.before import changes
from llava_finetune.evaluation.intervals import wilson
from llava_finetune.evaluation.yes_no import compared, said, yes_no_scores


def prediction(answer: str, reference: str, **more: Any) -> dict[str, Any]:
    return {"question": "Is there a dog?", "answer": answer, "reference": reference, **more}


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("Yes", "yes"), ("yes.", "yes"), ("Yes, there is no doubt.", "yes"), ("NO", "no"), ("No, a cat. Yes!", "no"),
        ("There is no dog in the image.", "no"), ("There isn't one. Yes.", "no"), ("I think yes", "yes"),
        ("A dog on grass.", None), ("", None), ("  \n", None), ("note", None), ("yesterday", None),
    ],
)  # fmt: skip
def test_yes_and_no_are_read_from_the_first_sentence(answer: str, expected: str | None) -> None:
    assert said(answer) == expected


def test_the_rates_are_counted_over_their_own_questions_with_intervals() -> None:
    answers = [("yes", "yes"), ("yes", "no"), ("No.", "no"), ("a dog", "no"), ("no", "yes"), ("red", "red")]
    scores = yes_no_scores([prediction(*one) for one in answers])
    assert scores["yes_no_count"] == 5 and scores["yes_share_expected"] == 2 / 5
    assert (scores["yes_share"], scores["false_yes"], scores["false_no"]) == (2 / 5, 1 / 3, 1 / 2)
    assert scores["unclear"] == 1 / 5
    assert scores["false_yes_interval"] == list(wilson(1, 3))
    assert yes_no_scores([prediction("red", "red")]) == {}
    assert "false_no" not in yes_no_scores([prediction("no", "no")])


def test_a_model_that_always_says_yes_is_seen_as_such_in_all_scores() -> None:
    asked = [prediction("yes", reference, question_type=kind) for reference in ("yes", "no") for kind in ("a", "b")]
    scores = metrics.score(asked)
    assert scores["exact_match"] == 0.5 and scores["false_yes"] == scores["yes_share"] == 1.0
    assert scores["by_question_type"]["b"]["false_yes"] == 1.0
    assert scores["by_type"]["yes_no"]["false_yes_interval"] == list(wilson(2, 2))


def test_fewer_false_yes_are_tested_in_pairs_and_said() -> None:
    before = [prediction("yes", "no") for _ in range(10)] + [prediction("yes", "yes")]
    after = [prediction("no", "no") for _ in range(9)] + [prediction("yes", "no"), prediction("yes", "yes")]
    test = compared(before, after)
    assert test is not None and test.difference == pytest.approx(-0.9) and test.count == 10 and test.p_value < 0.01
    assert compared([prediction("yes", "yes")], [prediction("no", "yes")]) is None
    lines = changes(before, after)
    assert lines[0].startswith("exact match against before: +81.8 points")
    assert lines[1].startswith("false yes against before: -90.0 points")
