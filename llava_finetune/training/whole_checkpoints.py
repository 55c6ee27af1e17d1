"""Checkpoints that are whole: written aside, sealed, then named; and a run that goes on from one bit for bit.

class RunTrainer(HalvedBatches, PartLearningRates, WholeCheckpoints): ...
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import torch
from llava.train.llava_trainer import LLaVATrainer
from transformers.integrations.deepspeed import deepspeed_load_checkpoint
from transformers.trainer_callback import ExportableState

from data_prep.errors import DataError, first_line
from llava_finetune.errors import UserError
from llava_finetune.model.saving import load_trained
from llava_finetune.saved import checkpoints
from llava_finetune.saved.sound import blamed_on
from llava_finetune.training.loop_plan import LoopPlan
from llava_finetune.training.ranks import Group
from llava_finetune.training.watch import FiniteWatch

NOT_GONE_ON = (
    "cannot be gone on from",
    "go on from another one (--resume checkpoint-N), or copy this one again from where it came from",
)


class WholeCheckpoints(LLaVATrainer):  # type: ignore[misc]
    """Upstream's trainer whose checkpoints hold everything that a run needs to go on, or are not there."""

    plan: LoopPlan
    group: Group
    watch: FiniteWatch
    epoch_random: torch.Tensor | None
    resumed_from: Path | None
    best_step: int | None
    has_ended: bool
    loss_before: torch.Tensor

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """The weights alone: tokenizer and config are the writer's, which keeps the base's own files."""
        if self.args.should_save:
            self.model.save_pretrained(output_dir, state_dict=state_dict)

    def save_weights(self, folder: Path) -> None:
        """Everything that inference needs, in one folder; every rank calls."""
        if self.plan.writer.kind == "model":
            self.save_model(str(folder), _internal_call=True)
        self.plan.writer.extras(self.model, folder)

    def _save_checkpoint(self, model: Any, trial: Any, metrics: Any = None) -> None:
        """Write `checkpoint-STEP` aside, seal it, give it its name; then delete what is beyond the limit."""
        self.watch.look()
        output, name = Path(self.args.output_dir), f"checkpoint-{self.state.global_step}"
        folder = output / checkpoints.STAGING / name
        try:
            if self.args.should_save:
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir(parents=True)
            self.group.wait()
            self._write_checkpoint(folder)
            self.group.wait()
            if self.args.should_save:
                self.seal_checkpoint(folder)
        except Exception as error:  # torch, safetensors and DeepSpeed each raise their own when a disk is full
            if isinstance(error, UserError) and not isinstance(error, DataError):
                raise
            shutil.rmtree(folder, ignore_errors=True)
            raise UserError(_not_saved(output, name, error)) from error
        self.group.wait()

    def seal_checkpoint(self, folder: Path) -> None:
        """Give a checkpoint that all ranks have written its seal and its name; one rank calls."""
        ended = self.has_ended or self.state.global_step >= self.state.max_steps
        facts = {"step": self.state.global_step, "ended": ended, "settings": dict(self.plan.settings)}
        checkpoints.seal(folder, facts)
        checkpoints.publish(folder, folder.parents[1])
        checkpoints.rotate(folder.parents[1], self.args.save_total_limit, self.best_step)

    def _write_checkpoint(self, folder: Path) -> None:
        self.store_flos()
        self.save_weights(folder)
        self._save_optimizer_and_scheduler(str(folder))
        self._write_position(folder, self._tr_loss)

    def write_own_part(self, folder: Path) -> None:
        """This rank's part of a checkpoint of the last whole step, while the others cannot answer: no collective.

        Under ZeRO-3 a run can go on from it, but it cannot be used by itself: no rank holds the whole weights.
        """
        is_partitioned = self.plan.zero_stage == 3
        if not is_partitioned:
            self.save_weights(folder)
        if self.is_deepspeed_enabled:
            engine = self.model_wrapped
            tag = f"global_step{engine.global_steps}"
            (folder / tag).mkdir(exist_ok=True)
            if is_partitioned:  # some weights may just be gathered; the optimizer's fp32 parts are what is loaded
                engine.module_state_dict = lambda **_: {}
            engine._save_checkpoint(str(folder), tag, exclude_frozen_parameters=self._has_frozen())
            if engine.save_zero_checkpoint:
                engine._save_zero_checkpoint(str(folder), tag)
            if self.args.should_save:
                (folder / "latest").write_text(tag)
            self._save_schedule(folder)
        else:
            super()._save_optimizer_and_scheduler(str(folder))
        self.rewind_random()
        self._write_position(folder, self.loss_before)

    def rewind_random(self) -> None:
        """Where an epoch's first step failed: back to the random state that its order was drawn from, to be saved."""
        if float(self.state.epoch or 0).is_integer() and self.epoch_random is not None:
            torch.random.set_rng_state(self.epoch_random)

    def _write_position(self, folder: Path, loss_sum: torch.Tensor) -> None:
        self._save_scaler(str(folder))
        self._save_rng_state(str(folder))
        torch.save(
            {
                "epoch_random": self.epoch_random,
                "loss_sum": loss_sum.detach().cpu(),
                "last_logged": self._globalstep_last_logged,
            },
            folder / f"position_{self.args.process_index}.pth",
        )
        if self.args.should_save:
            for callback in [
                one for one in [*self.callback_handler.callbacks, self.control] if isinstance(one, ExportableState)
            ]:
                self.state.stateful_callbacks[type(callback).__name__] = callback.state()
            self.state.best_global_step = self.best_step or 0
            self.state.save_to_json(str(folder / "trainer_state.json"))

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        """As transformers', without the frozen weights that DeepSpeed would repeat in every checkpoint."""
        if self.is_deepspeed_enabled and self._has_frozen():
            self.model_wrapped.save_checkpoint(output_dir, exclude_frozen_parameters=True)
            self._save_schedule(Path(output_dir))
        else:
            super()._save_optimizer_and_scheduler(output_dir)

    def _has_frozen(self) -> bool:
        return any(not parameter.requires_grad for parameter in self.model.parameters())

    def _save_schedule(self, folder: Path) -> None:
        from accelerate.utils import DeepSpeedSchedulerWrapper  # there only where DeepSpeed is installed

        if self.args.should_save and not isinstance(self.lr_scheduler, DeepSpeedSchedulerWrapper):
            torch.save(self.lr_scheduler.state_dict(), folder / "scheduler.pt")

    # ---- going on ----

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        with blamed_on(resume_from_checkpoint, *NOT_GONE_ON):
            load_trained(self.model, Path(resume_from_checkpoint), self.plan.writer.kind)

    def _prepare_for_training(self, max_steps: int, train_dataloader: Any, resume_from_checkpoint: Any) -> Any:
        prepared = super()._prepare_for_training(max_steps, train_dataloader, None)
        if resume_from_checkpoint is not None:
            self.resumed_from = Path(resume_from_checkpoint)
            with blamed_on(resume_from_checkpoint, *NOT_GONE_ON):
                if self.is_deepspeed_enabled:
                    # Not strict: frozen weights are not in it.
                    deepspeed_load_checkpoint(self.model_wrapped, resume_from_checkpoint, load_module_strict=False)
                self._load_optimizer_and_scheduler(resume_from_checkpoint)
                self._load_scaler(resume_from_checkpoint)
            self.best_step = self.state.best_global_step or None
        return prepared

    def restore_position(self) -> None:
        """At the first epoch after a resume: the random state that its order was drawn from, and the running loss."""
        folder, self.resumed_from = self.resumed_from, None
        if folder is None:
            return
        with blamed_on(folder, *NOT_GONE_ON):
            position = torch.load(folder / f"position_{self.args.process_index}.pth", weights_only=True)
            self._tr_loss += position["loss_sum"].to(self._tr_loss.device)
            self._globalstep_last_logged = int(position["last_logged"])
            if float(self.state.epoch or 0).is_integer():
                self._load_rng_state(str(folder))
            elif position["epoch_random"] is not None:
                torch.random.set_rng_state(position["epoch_random"])

    def _get_output_dir(self, trial: Any) -> str:
        # Where transformers looks for checkpoints of its own to delete at the end: it finds none, and no rank lists a
        # folder that another one is just removing.
        return os.path.join(super()._get_output_dir(trial), ".none")  # noqa: PTH118


def _not_saved(output: Path, name: str, error: Exception) -> str:
    whole = checkpoints.checkpoints(output)
    free = shutil.disk_usage(output).free / 1e9
    last = f"{whole[-1].name} is whole" if whole else "no earlier checkpoint is there"
    return (
        f"{output}/{name} could not be saved: {type(error).__name__}: {first_line(error):.300}. Nothing half "
        f"written is left; {last}; {free:.1f} GB are free (a quota of yours "
        "may be full before the disk is). Make room, then go on with --resume auto"
    )
