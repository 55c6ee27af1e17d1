"""What a training loop is told, put together by `loop_setup` and read by the trainer.

RunTrainer(LoopPlan(writer, settings, signals, zero_stage=2), model=model, args=for_the_loop(training))
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llava_finetune.model.saving import FolderWriter
from llava_finetune.training.evaluator import Evaluator
from llava_finetune.training.trackers import Tracker
from llava_finetune.training.watch import StopSignal


@dataclass(frozen=True)
class LoopPlan:
    """What a loop is told: what saves and stops it, which settings its checkpoints are sealed with, how it is examined.

    `eval_every`: steps between evaluations, 0 for one an epoch; `patience`: evaluations without a better `metric`;
    `sharing`: as the training arguments'.
    """

    writer: FolderWriter
    settings: Mapping[str, Any]
    signals: StopSignal
    zero_stage: int = 0
    trackers: Sequence[Tracker] = ()
    evaluators: Sequence[Evaluator] = ()
    eval_every: int = 0
    metric: str | None = None
    patience: int = 0
    trim_heap: bool = False
    profile: int = 0
    sharing: int = 0
