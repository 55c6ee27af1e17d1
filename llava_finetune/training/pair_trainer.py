"""The training loop for pairs of answers: the run's trainer with DPO's loss.

The reference is the same model with its adapter switched off: no second model lies in memory, and nothing of it has to
be kept for a resumed run. Both answers go through in one pass, behind one prompt and picture; the reference is a second
pass without gradients.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from llava_finetune.errors import UserError
from llava_finetune.training.loop_plan import LoopPlan
from llava_finetune.training.pair_loss import PairSettings, mean_kl, pair_loss, path_sums
from llava_finetune.training.trainer import RunTrainer


class PairTrainer(RunTrainer):
    """A RunTrainer whose batches hold pairs (`path_counts`) and whose model keeps the losses of tokens."""

    def __init__(self, plan: LoopPlan, pairs: PairSettings, **keywords: Any) -> None:
        super().__init__(plan, **keywords)
        self.pairs = pairs
        self.pair_sums: Counter[str] = Counter()
        self.pair_weight = 0.0

    def micro_loss(self, model: Any, inputs: dict[str, Any], *_: Any, **__: Any) -> torch.Tensor:
        """The loss of one micro-batch of pairs."""
        counts = inputs.pop("path_counts")
        adapted = self.accelerator.unwrap_model(model)
        # The reference first, so that what it held is free before the policy keeps activations for its gradient.
        with torch.no_grad(), adapted.disable_adapter():
            before = self._taught(model, inputs, counts)
        now = self._taught(model, inputs, counts)
        loss, shown = pair_loss(path_sums(now[0], counts), path_sums(before[0], counts), counts, self.pairs)
        with self.accelerator.autocast():  # the head is 16 bit, and a pass under autocast returns fp32
            shown["kl"] = mean_kl(now[1].detach(), before[1], adapted.get_base_model().answer_head)
        weight = len(counts) / 2
        self.pair_weight += weight
        self.pair_sums.update({name: weight * float(value) for name, value in shown.items()})
        return loss

    def _taught(self, model: Any, inputs: Mapping[str, Any], counts: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Losses (M) and hidden states (M x H) of the taught tokens."""
        output = model(**inputs)
        losses, hidden = output["token_losses"], output["hidden"]
        if len(losses) != int(counts.sum()):
            raise UserError(
                f"a batch teaches {len(losses)} tokens where {int(counts.sum())} were counted; the model's config and "
                "its vision tower disagree (run llava-finetune doctor)"
            )
        return losses, hidden

    def shares(self, batches: Sequence[Mapping[str, Any]]) -> list[float]:
        """A part of a batch counts by its pairs."""
        return [float(len(batch["path_counts"])) for batch in batches]

    def take_numbers(self) -> dict[str, float]:
        """What was shown since the last log, a mean over the pairs of all ranks."""
        parts = self.group.gather((dict(self.pair_sums), self.pair_weight))
        weight = sum(part[1] for part in parts)
        names = self.pair_sums
        found = {name: sum(part[0].get(name, 0.0) for part in parts) / weight for name in names} if weight else {}
        self.pair_sums, self.pair_weight = Counter(), 0.0
        return found
