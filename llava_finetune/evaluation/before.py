"""The model before training, and what changed: the same questions answered by both, compared in pairs.

model_before("runs/mine", given="", base=None)           # the base that the adapter's manifest names
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llava_finetune.errors import UsageError
from llava_finetune.evaluation import metrics
from llava_finetune.evaluation.intervals import mcnemar
from llava_finetune.evaluation.yes_no import compared


def model_before(model: str, given: str, base: str | None) -> str:
    """Return the model to compare with: the one given, else the base of an adapter or projector.

    Raises UsageError where nothing names one, or where the base is a language model that sees no pictures.
    """
    from llava_finetune.model.building import load_config
    from llava_finetune.model.loaded import base_of, kind_of
    from llava_finetune.saved.manifest import read_manifest

    if given:
        return given
    if kind_of(model) == "model":
        raise UsageError(f"--before: {model} is no adapter, so nothing names its base; give it: --before MODEL")
    found = base_of(model, base, read_manifest(model))
    if not hasattr(load_config(found), "mm_vision_tower"):
        raise UsageError(f"--before: the base {found} sees no pictures; give the folder of stage 1: --before MODEL")
    return found


def label_of(name: str) -> str:
    """The name of the results of the model before, beside those of `name`."""
    return "baseline" if name == "final" else f"{name}-baseline"


def changes(before: Sequence[dict[str, Any]], after: Sequence[dict[str, Any]]) -> list[str]:
    """What changed from one set of answers to the other on the same questions, tested in pairs, a line each."""
    right = [[metrics.is_right(one) for one in some] for some in (before, after)]
    lines = [f"exact match against before: {mcnemar(*right).in_words()}"]
    test = compared(before, after)
    return lines if test is None else [*lines, f"false yes against before: {test.in_words()}"]
