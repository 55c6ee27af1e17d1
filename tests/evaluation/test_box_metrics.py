"""Boxes in answers are scored by where they are: IoU by hand, several boxes, other notations, answers without one."""

from __future__ import annotations

from typing import Any

import pytest

from llava_finetune.evaluation.box_metrics import box_result
from llava_finetune.evaluation.metrics import kept_for, score


def said(answer: str, reference: str) -> dict[str, Any]:
    return {"question": "Where is the dog?", "answer": answer, "reference": reference}


@pytest.mark.parametrize(
    ("answer", "reference", "iou", "is_right"),
    [
        ("[0.0, 0.0, 0.5, 1.0]", "[0.0, 0.0, 1.0, 1.0]", 0.5, True),
        ("at [0.0, 0.0, 0.49, 1.0].", "[0.0, 0.0, 1.0, 1.0]", 0.49, False),
        ("<|box_start|>(0,0),(500,1000)<|box_end|>", "[0, 0, 1000, 1000]", 0.5, True),
        ("[0, 0, 500, 1000]", "[0.0, 0.0, 0.5, 1.0]", 0.0, False),
        ("no idea", "[0.0, 0.0, 0.5, 1.0]", 0.0, False),
        ("[0.5, 0.5, 0.1, 0.1]", "[0.0, 0.0, 0.5, 1.0]", 0.0, False),
        ("[0, 0, 10, 10]", "[0, 0, 10, 10] and [20, 20, 30, 30]", 0.5, False),
        ("[0, 0, 10, 10] [50, 50, 60, 60]", "[0, 0, 10, 10]", 0.5, False),
        ("[20, 20, 30, 30] [0, 0, 10, 10]", "[0, 0, 10, 10] [20, 20, 30, 30]", 1.0, True),
    ],
)
def test_the_iou_of_an_answer(answer: str, reference: str, iou: float, is_right: bool) -> None:
    result = box_result(said(answer, reference))
    assert result is not None and (result.iou, result.is_right) == (pytest.approx(iou, abs=1e-3), is_right)


def test_scores_have_boxes_only_where_references_have_some() -> None:
    assert "box_iou" not in score([said("[0.1, 0.1, 0.2, 0.2]", "a dog")])
    half = [said("[0, 0, 5, 10]", "[0, 0, 10, 10]")] * 3
    scores = score([*half, said("nothing", "[0, 0, 10, 10]"), said("a cat", "a cat")])
    assert scores["box_count"] == 4 and scores["box_unread"] == 1
    assert scores["box_iou"] == pytest.approx(0.375) and scores["box_accuracy"] == 0.75
    for name in ("box_iou", "box_accuracy"):
        low, high = scores[f"{name}_interval"]
        assert low < scores[name] < high


def test_a_prediction_keeps_the_scale_that_its_record_names() -> None:
    assert kept_for({"box_scale": "square"}, 0)["box_scale"] == "square"
    assert "box_scale" not in kept_for({}, 0)
