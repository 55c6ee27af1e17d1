"""A run kept on its course: its position in the data, numbers that must be finite, signals that ask it to stop.

trainer.add_callback(Course(trainer, signals))
"""

from __future__ import annotations

from typing import Any

from transformers import TrainerCallback

from llava_finetune.kernels import rotary
from llava_finetune.training.watch import Interrupted, StopSignal


class Course(TrainerCallback):
    """Keeps a run on its course: position in the data, numbers that must be finite, signals that ask to stop."""

    def __init__(self, trainer: Any, signals: StopSignal) -> None:
        self.trainer = trainer
        self.signals = signals
        self.stopping = False

    def on_train_begin(self, args: Any, state: Any, control: Any, **keywords: Any) -> None:
        rotary.restore(self.trainer.model)  # some releases of DeepSpeed cast buffers too
        if args.world_size > 1:
            self.trainer.listen_for_the_last_step()

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **keywords: Any) -> None:
        self.trainer.begin_epoch()

    def on_step_begin(self, args: Any, state: Any, control: Any, **keywords: Any) -> None:
        self.signals.has_begun = True
        self.trainer.watch.look()
        if self.trainer.last_step:
            self.trainer.last_step.begin(state.global_step)

    def on_step_end(self, args: Any, state: Any, control: Any, **keywords: Any) -> None:
        is_told = self.trainer.group.any(self.signals.received is not None)
        if is_told and state.global_step < state.max_steps:  # after the last step the run ends by itself
            self.stopping = control.should_save = control.should_training_stop = True
            control.should_evaluate = False

    def on_save(self, args: Any, state: Any, control: Any, **keywords: Any) -> None:
        if self.stopping:
            raise Interrupted(
                f"{self.signals.name} at step {state.global_step} of {state.max_steps}: checkpoint-{state.global_step} "
                "is saved; go on with the same command and --resume auto"
            )

    def on_train_end(self, args: Any, state: Any, control: Any, **keywords: Any) -> None:
        if self.trainer.last_step:
            self.trainer.last_step.close()
        self.trainer.watch.look()
