"""How many steps a run takes, and the batch and epochs that let small data learn: arithmetic without torch.

A run of one step is all warm-up, at learning rate 0: it trains nothing. Where nobody says otherwise, batch and epochs
follow the number of records, so that a run has at least about MIN_STEPS steps.

>>> epochs_for(50, "lora"), batch_for(50, 3, "lora")
(3, 4)
>>> print(count_steps(50, epochs=3, per_device=4).text(warmup=2))
50 records x 3 epochs = 39 steps of 4, 2 of them warmup
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from llava_finetune.errors import UsageError

USUAL_BATCH = {"pretrain": 256}
"""Upstream's records per step by mode; 128 for all others."""
MIN_STEPS = 30
"""Steps that a run should not fall short of. 48 photographs in batches of 4 over 3 epochs make 36."""
SMALL_EPOCHS = 3
"""Epochs over data that one epoch of the usual batch would leave with fewer than MIN_STEPS steps."""


@dataclass(frozen=True)
class Steps:
    """The optimizer steps of a run: `batch` records each, `steps` of them."""

    records: int
    epochs: float
    batch: int
    steps: int
    by_steps: bool = False

    def text(self, warmup: int | None = None) -> str:
        """The arithmetic as one line."""
        end = "" if warmup is None else f", {warmup or 'none'} of them warmup"
        records = f"{self.records:,} record{'' if self.records == 1 else 's'}"
        steps = f"{self.steps:,} step{'' if self.steps == 1 else 's'}"
        if self.by_steps:
            return f"{records}: {steps} of {self.batch} (--max_steps){end}; {self.epochs:.1f} epochs"
        return f"{records} x {self.epochs:g} epoch{'' if self.epochs == 1 else 's'} = {steps} of {self.batch}{end}"


def usual_batch(mode: str) -> int:
    """Records per step for plenty of data, as upstream's scripts have them."""
    return USUAL_BATCH.get(mode, 128)


def epochs_for(records: int, mode: str, ranks: int = 1) -> int:
    """Epochs where no flag says: one over plenty of data, three over little, more where those are too few steps."""
    if records >= MIN_STEPS * usual_batch(mode):
        return 1
    return max(SMALL_EPOCHS, math.ceil(MIN_STEPS / math.ceil(max(1, records) / ranks)))


def batch_for(records: int, epochs: float, mode: str) -> int:
    """Records per step where GLOBAL_BATCH says nothing: the largest power of two that leaves MIN_STEPS steps.

    More than SMALL_EPOCHS epochs do not make the batch larger: they are asked for to learn more.
    """
    most = records * min(epochs, SMALL_EPOCHS) / MIN_STEPS
    if records >= MIN_STEPS * usual_batch(mode):
        return usual_batch(mode)
    return min(usual_batch(mode), 1 << max(0, int(math.log2(max(1.0, most)))))


def count_steps(
    records: int, *, epochs: float, per_device: int, accumulation: int = 1, ranks: int = 1, max_steps: int = -1
) -> Steps:
    """The steps that transformers' Trainer will take (Trainer.set_initial_training_values)."""
    batches = math.ceil(math.ceil(records / per_device) / ranks)
    per_epoch = max(1, math.ceil(batches / accumulation))
    batch = per_device * accumulation * ranks
    if max_steps > 0:
        return Steps(records, max_steps / per_epoch, batch, max_steps, by_steps=True)
    return Steps(records, epochs, batch, math.ceil(epochs * per_epoch))


def warmup_of(value: float, steps: int) -> int:
    """Steps of warm-up: `value` itself from 1 on, else a share of all steps that leaves at least one to train."""
    if value >= 1:
        return int(value)
    return min(math.ceil(steps * value), max(0, steps - 1))


def require_end_of_warmup(value: float, steps: int) -> None:
    """Raise UsageError where a warm-up that was given in steps takes the whole run: its rate would never be reached."""
    if value >= 1 and int(value) >= steps:
        raise UsageError(
            f"--warmup_steps {value:g} covers the whole run, which has {steps} step(s): the learning rate would never "
            f"be reached. Give a share, as --warmup_steps 0.03 ({warmup_of(0.03, steps)} of {steps}), or fewer steps"
        )
