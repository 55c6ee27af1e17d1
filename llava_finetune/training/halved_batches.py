"""Go on after out of memory: free, halve the batch, redo the step with the same records in the same order.

The failed step's gradients are dropped, so the optimizer never sees a half step. Parts are weighted by what they teach:
their summed gradient is the whole batch's, and the loss curve is the one that a larger machine would have drawn.

    class RunTrainer(HalvedBatches, LLaVATrainer): ...
"""

from __future__ import annotations

import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from data_prep.records.marks import IGNORE_INDEX
from llava_finetune.errors import OutOfMemoryError, UserError
from llava_finetune.launching.relaunch import halved
from llava_finetune.model.allocation import free_memory, halves, is_out_of_memory


def in_optimizer(error: BaseException) -> bool:
    """Whether an error came out of an optimizer's step (DeepSpeed takes it in `backward`): values are half changed."""
    return any(frame.name == "step" for frame in traceback.extract_tb(error.__traceback__))


class HalvedBatches:
    """Mixed in before a Trainer whose batches name their records in `record_indices`."""

    num_parts = 1
    loss_weight = 1.0

    def get_batch_samples(self: Any, *arguments: Any, **keywords: Any) -> Any:
        """The micro-batches of one step; a step that runs out of memory starts again at the first of them."""
        self.step_indices: list[Any] = []
        self.loss_before = self._tr_loss.detach().clone()
        return super().get_batch_samples(*arguments, **keywords)  # type: ignore[misc]

    def training_step(self: Any, model: Any, inputs: Any, num_items_in_batch: Any = None) -> torch.Tensor:
        """One micro-batch, forward and backward; in parts once memory has run out."""
        self.step_indices.append(inputs.pop("record_indices"))
        todo: list[list[int]] = self.step_indices[-1:] if self.num_parts > 1 else []
        while True:
            try:
                if not todo:
                    return super().training_step(model, inputs, num_items_in_batch)  # type: ignore[misc,no-any-return]
                return [self._in_parts(model, indices, num_items_in_batch) for indices in todo][-1]
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                message = str(error).splitlines()[0]
                is_whole = not in_optimizer(error)
            # Out of the except block, so that no traceback holds the failed step's tensors.
            inputs = {}
            self._make_room(model, message, is_whole)
            todo = self.step_indices

    def compute_loss(self: Any, *arguments: Any, **keywords: Any) -> Any:
        """The loss of a part counts by its share of the batch."""
        return self.micro_loss(*arguments, **keywords) * self.loss_weight

    def micro_loss(self: Any, *arguments: Any, **keywords: Any) -> Any:
        """The loss of a micro-batch by itself."""
        return super().compute_loss(*arguments, **keywords)  # type: ignore[misc]

    def shares(self, batches: Sequence[Mapping[str, Any]]) -> list[float]:
        """How much each part of a batch counts: by its supervised tokens, of which the loss is a mean."""
        return [float(_num_taught(batch)) for batch in batches]

    def _in_parts(self: Any, model: Any, indices: Sequence[int], num_items_in_batch: Any) -> torch.Tensor:
        dataset = self.train_dataset
        batches = [self.data_collator([dataset[i] for i in part]) for part in halves(indices, self.num_parts)]
        shares = self.shares(batches)
        losses = []
        try:
            for batch, count in zip(batches, shares, strict=True):
                batch.pop("record_indices")
                self.loss_weight = count / sum(shares)
                losses.append(super().training_step(model, batch, num_items_in_batch))  # type: ignore[misc]
        finally:
            self.loss_weight = 1.0
        return torch.stack(losses).sum()

    def _make_room(self: Any, model: Any, message: str, is_whole: bool) -> None:
        args = self.args
        step, batch = self.state.global_step + 1, args.per_device_train_batch_size
        together = args.world_size > 1 or self.is_deepspeed_enabled
        if is_whole and (together or self.num_parts >= batch):
            self._save_last_step(model)
        if together:
            smaller = halved(batch, args.gradient_accumulation_steps, args.sharing)
            raise OutOfMemoryError(
                f"step {step}: out of memory ({message}). Several ranks, and DeepSpeed, cannot change batches midway; "
                "go on from the last checkpoint, with the same global batch and order (the launchers do it by "
                "themselves), by adding: "
                + " ".join(smaller or ("--gradient_checkpointing True, or a DeepSpeed config with offload",))
            )
        if self.num_parts >= batch:
            raise UserError(
                f"step {step}: out of memory with one record at a time ({message}). Use --gradient_checkpointing True, "
                "a smaller --model_max_length, --bits 4, or a DeepSpeed config with offload; "
                "llava-finetune plan says what each needs"
            )
        self.num_parts *= 2
        model.zero_grad()
        free_memory()
        print(
            f"step {step}: out of memory ({message}). The batch of {batch} goes on in {self.num_parts} parts: "
            f"{-(-batch // self.num_parts)} per device, accumulation "
            f"{args.gradient_accumulation_steps * self.num_parts}, the same global batch and order",
            flush=True,
        )

    def _save_last_step(self: Any, model: Any) -> None:
        """A checkpoint of the last whole step, to go on from: weights and optimizer are still that step's."""
        step = self.state.global_step
        if step == 0 or (Path(self.args.output_dir) / f"checkpoint-{step}").exists():
            return
        # DeepSpeed takes the optimizer's step inside of backward: the weights may be the next step's already.
        if getattr(model, "global_steps", step) != step:
            return
        free_memory()
        if self.last_step:
            why_not = self.last_step.save()
        else:
            self._tr_loss.copy_(self.loss_before)
            self.rewind_random()
            try:
                self._save_checkpoint(model, None)
                why_not = ""
            except UserError as error:
                why_not = str(error)
        if why_not:
            print(f"{why_not} (after running out of memory; the run goes on from an earlier checkpoint)", flush=True)
        else:
            print(f"checkpoint-{step} is saved, the last whole step", flush=True)


def _num_taught(batch: Mapping[str, Any]) -> int:
    """A layout's own count where there is one: `labels` are cut as if branches stood one behind another."""
    if "layout" in batch:
        return len(batch["layout"].targets)
    return int((batch["labels"][:, 1:] != IGNORE_INDEX).sum())
