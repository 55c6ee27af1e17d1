"""How well answers point at places: intersection over union, and the share that reaches 0.5.

A question counts where its reference holds a box. IoU is the same in shares, thousandths and pixels as long as answer
and reference are on one scale, so no picture is opened; an answer on another scale is wrong.

    >>> score_boxes([{"answer": "[0, 0, 10, 10]", "reference": "[0, 0, 10, 20]"}])["box_iou"]
    0.5
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from data_prep.boxes.box import Box, matched
from data_prep.boxes.notation import read_boxes
from llava_finetune.evaluation.intervals import bootstrap, wilson

THRESHOLD = 0.5
"""The IoU from which a box counts as right, as in RefCOCO and Pascal VOC."""


class BoxResult(NamedTuple):
    """One question: its IoU (of several boxes the mean over all of both sides), and what is right and read of it."""

    iou: float
    is_right: bool
    is_read: bool


def boxes_in(text: str) -> list[Box]:
    """Return the boxes of a text that enclose something."""
    return [box.numbers for box in read_boxes(text).boxes if not box.numbers.is_reversed]


def box_result(prediction: Mapping[str, Any]) -> BoxResult | None:
    """Return how well the answer's boxes fit the reference's, or None where the reference has none.

    Of several boxes each has at most one partner; a box too few and a box too many both cost.
    """
    wanted = boxes_in(str(prediction["reference"]))
    if not wanted:
        return None
    found = boxes_in(prediction["answer"])
    ious = matched(wanted, found)
    is_right = len(found) == len(wanted) and min(ious) >= THRESHOLD
    return BoxResult(sum(ious) / max(len(wanted), len(found)), is_right, bool(found))


def score_boxes(predictions: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return `box_iou` and `box_accuracy` with their 95 % intervals; nothing where no reference has a box.

    `box_count` is the number of questions with boxes, `box_unread` of answers without one.
    """
    results = [result for prediction in predictions if (result := box_result(prediction))]
    if not results:
        return {}
    ious = [result.iou for result in results]
    num_right = sum(result.is_right for result in results)
    return {
        "box_iou": sum(ious) / len(ious),
        "box_iou_interval": list(bootstrap(ious)),
        "box_accuracy": num_right / len(results),
        "box_accuracy_interval": list(wilson(num_right, len(results))),
        "box_count": len(results),
        "box_unread": sum(not result.is_read for result in results),
    }
