"""The trainer's steps as the trace sees them: which phase runs, and which blocks are parameters, gradients, moments."""

from __future__ import annotations

from typing import Any

import torch
from transformers import TrainerCallback


class Ended(Exception):
    """The last step is taken. What comes after looks at values, and saves them."""


def watch(trainer: Any, seen: Any) -> None:
    """Let a trainer of transformers' kind tell `seen` of its steps, and raise Ended after the last."""
    trainer.callback_handler.callbacks.insert(0, End())
    trainer.add_callback(Steps(trainer, seen))


class Steps(TrainerCallback):
    """Sets the trace's stage and step, and names the blocks of `seen` in the last step."""

    def __init__(self, trainer: Any, seen: Any) -> None:
        self.trainer = trainer
        self.seen = seen
        self.trace = seen.trace

    def on_train_begin(self, args: Any, state: Any, control: Any, **keywords: Any) -> None:
        parameters = list(self.trainer.model.parameters())
        numbers = self.trace.ledger.numbers_of
        self.seen.named["trained"] = numbers(one for one in parameters if one.requires_grad)
        self.seen.named["frozen"] = numbers(one for one in parameters if not one.requires_grad)
        for parameter in parameters:
            kind = "trained" if parameter.requires_grad else "frozen"
            self.seen.dtypes[kind, str(parameter.dtype)] += parameter.numel()

        if self.seen.job.steps == 1:
            self._make_optimizer_state()

    def _make_optimizer_state(self) -> None:
        """A step of the optimizer before the first: what it keeps is there in every step but a training's first."""
        wrapped = self.trainer.optimizer
        optimizer = getattr(wrapped, "optimizer", wrapped)
        self._make_gradients()
        optimizer.step()
        optimizer.zero_grad()

    def _make_gradients(self) -> None:
        for parameter in self.trainer.model.parameters():
            if parameter.requires_grad:
                parameter.grad = torch.zeros_like(parameter)

    def on_step_begin(self, args: Any, state: Any, control: Any, **keywords: Any) -> None:
        if self.seen.job.gradients:
            self._make_gradients()
        self.trace.step += 1
        self.trace.stage = "forward"
        self.trace.recording = self.seen.job.record and self.trace.step == self.seen.job.steps
        self.seen.start = len(self.trace.ledger.events)

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **keywords: Any) -> None:
        self.trace.stage = "optimizer"
        gradients = [one.grad for one in self.trainer.model.parameters() if one.grad is not None]
        self.seen.named["gradients"] = self.trace.ledger.numbers_of(gradients)

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **keywords: Any) -> None:
        kept = self.trainer.optimizer.state.values()
        tensors = [value for one in kept for value in one.values() if hasattr(value, "untyped_storage")]
        self.seen.named["optimizer"] = self.trace.ledger.numbers_of(tensors)

    def on_step_end(self, args: Any, state: Any, control: Any, **keywords: Any) -> None:
        self.trace.stage = "log"
        self.trace.recording = False


class End(TrainerCallback):
    """The first callback: leaves the training before the others look at its result."""

    def on_train_end(self, args: Any, state: Any, control: Any, **keywords: Any) -> None:
        raise Ended
