"""Forgetting, measured while training: how much is left of what the base knew, and how strange its words became.

General questions are asked of the base first (step 0). Those that it answers are the gauge; and how likely the model
still finds what the base said then, right or wrong, is a measure without steps, which moves before any answer does.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data_prep.records.marks import IMAGE_TOKEN
from llava_finetune.data.dataset import RecordDataset
from llava_finetune.evaluation.forgetting import Kept, kept_of
from llava_finetune.evaluation.generate_answers import Question
from llava_finetune.evaluation.record_losses import mean_loss
from llava_finetune.evaluation.scoring import read_predictions
from llava_finetune.training.evaluator import Evaluator, inference
from llava_finetune.training.ranks import Group

LARGEST_LOSS = 80.0
"""Above it a perplexity would be infinite; fp32's own limit."""


def as_answered(questions: Sequence[Question], predictions: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The questions with these answers in place of the references.

    Left out are empty answers, which teach nothing, and those in which the model wrote the mark of a picture.
    """
    return [
        {
            **question.record,
            "conversations": [{"from": "human", "value": question.asked}, {"from": "gpt", "value": one["answer"]}],
        }
        for question, one in zip(questions, predictions, strict=True)
        if one["answer"].strip() and IMAGE_TOKEN not in one["answer"]
    ]


class ForgettingGauge(Evaluator):
    """An evaluator that compares with what the base said at step 0; a resumed run reads that from the run's folder."""

    before: list[dict[str, Any]] | None = None
    kept: Kept | None = None

    def run(self, trainer: Any, group: Group) -> tuple[dict[str, float], list[dict[str, Any]]]:
        """As Evaluator's, and NAME_known, NAME_kept, NAME_perplexity, NAME_own_perplexity."""
        row, predictions = super().run(trainer, group)
        if trainer.state.global_step == 0:
            self.before = predictions
        elif self.before is None:
            self.before = self._earlier(Path(trainer.args.output_dir))
        row[f"{self.name}_perplexity"] = math.exp(min(row[f"{self.name}_loss"], LARGEST_LOSS))
        if not self.before:
            return row, predictions
        self.kept = kept_of(self.before, predictions)
        row[f"{self.name}_known"] = self.kept.num_known
        if self.kept.num_known:
            row[f"{self.name}_kept"] = self.kept.share
        if own := as_answered(self.questions, self.before):
            with inference(trainer):
                losses = self.losses(trainer, group, RecordDataset(own, self.encoder))
            row[f"{self.name}_own_perplexity"] = math.exp(min(mean_loss(losses.values()), LARGEST_LOSS))
        return row, predictions

    def _earlier(self, output: Path) -> list[dict[str, Any]]:
        """What was said at step 0, of the same questions; nothing where it is not there or others were asked."""
        path = output / f"predictions-{self.name}-0.jsonl"
        found = read_predictions(path) if path.is_file() else []
        asked = [(question.id, question.turn) for question in self.questions]
        return found if [(one.get("id"), one.get("turn")) for one in found] == asked else []
