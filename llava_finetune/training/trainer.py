"""The training loop: transformers' Trainer through upstream's LLaVATrainer, with its optimizer groups and samplers.

What is added: batches that name their records, a stop at the first number that is not finite, whole checkpoints, a
resumed run that goes on bit for bit, and a signal that saves before it ends.
"""

from __future__ import annotations

import atexit
import functools
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from llava.train.llava_trainer import LLaVATrainer
from transformers import PrinterCallback, ProgressCallback, TrainerCallback
from transformers.integrations.deepspeed import deepspeed_load_checkpoint
from transformers.trainer_callback import ExportableState

from llava_finetune.data.layout import Layout
from llava_finetune.errors import UserError
from llava_finetune.model.saving import FolderWriter, load_trained
from llava_finetune.saved import checkpoints
from llava_finetune.training.course import Course
from llava_finetune.training.evaluation_schedule import Examiner
from llava_finetune.training.evaluator import Evaluator
from llava_finetune.training.halved_batches import HalvedBatches
from llava_finetune.training.heap_trim import HeapTrim
from llava_finetune.training.last_step import LastStep
from llava_finetune.training.learning_rates import PartLearningRates
from llava_finetune.training.moved import MovedWatch
from llava_finetune.training.ranks import Group
from llava_finetune.training.run_log import RunLog
from llava_finetune.training.trackers import Tracker
from llava_finetune.training.watch import FiniteWatch, StopSignal
from llava_finetune.training.workers import end_workers, start_worker


@dataclass(frozen=True)
class LoopPlan:
    """What a loop is told: what saves and stops it, which settings its checkpoints are sealed with, how it is examined.

    `eval_every`: steps between evaluations, 0 for one an epoch; `patience`: evaluations without a better `metric`.
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


class RunTrainer(HalvedBatches, PartLearningRates, LLaVATrainer):  # type: ignore[misc]
    """Upstream's trainer that counts tokens, watches its numbers and writes checkpoints that are whole."""

    def __init__(self, plan: LoopPlan, **keywords: Any) -> None:
        super().__init__(**keywords)
        # Our forward takes **kwargs, which the Trainer reads as "scales its own loss": it would then neither divide by
        # the accumulated steps nor average over ranks. The loss is a mean per micro-batch, as upstream's.
        self.model_accepts_loss_kwargs = False
        self.plan = plan
        self.group = Group()
        self.watch = FiniteWatch(tolerate_overflow=bool(self.args.fp16))
        self.num_tokens = 0
        self.num_samples = 0
        self.num_cut = 0
        self.num_pictures = 0
        self.step_ids: list[str] = []
        self.epoch_random: torch.Tensor | None = None
        self.resumed_from: Path | None = None
        self.best_step: int | None = None
        self.last_step: LastStep | None = None
        self.has_ended = False  # before max_steps: stopped early
        self.run_log = RunLog(self, Path(self.args.output_dir) / "log.jsonl", self.args.world_size, plan.trackers)
        self.examiner = Examiner(self, plan.evaluators, plan.eval_every, plan.metric, plan.patience, self.run_log)
        self.remove_callback(PrinterCallback)
        self.remove_callback(ProgressCallback)
        for callback in self._callbacks():
            self.add_callback(callback)

    def _callbacks(self) -> list[TrainerCallback]:
        """What accompanies the loop, in the order in which it is called."""
        found: list[TrainerCallback] = [self.run_log]
        if self.plan.trim_heap and not torch.cuda.is_available():
            found.append(HeapTrim())
        if self.plan.profile:
            from llava_finetune.training.profiling import StepProfile

            found.append(StepProfile(self, self.plan.profile, Path(self.args.output_dir)))
        if self.plan.evaluators:
            found.append(self.examiner)
        return [*found, MovedWatch(self), Course(self, self.plan.signals)]

    # ---- what its callbacks find out ----

    def listen_for_the_last_step(self) -> None:
        """From now on this rank hears when another one runs out of memory."""
        self.last_step = LastStep(self)

    def take_as_best(self, step: int) -> None:
        """The checkpoint of this step is the best so far: it is never deleted, and the result may be made of it."""
        self.best_step = step

    def end_early(self) -> None:
        """No further step is wanted: the next checkpoint is the run's last."""
        self.has_ended = True

    def begin_epoch(self) -> None:
        """Take up a resumed position, and keep the random state that the epoch's order is drawn from."""
        self.restore_position()
        self.epoch_random = torch.random.get_rng_state()
        self.draw_as_new_workers()

    # ---- data ----

    def get_train_dataloader(self) -> Any:
        loader = super().get_train_dataloader()
        # accelerate wraps the loader that starts the workers.
        self.loader = getattr(loader, "base_dataloader", loader)
        self.loader.worker_init_fn = functools.partial(start_worker, self.loader.worker_init_fn)
        atexit.register(end_workers)
        return loader

    def draw_as_new_workers(self) -> None:
        """Workers that stay for an epoch draw no seed for it; new ones do, so that every epoch's order is the same."""
        if getattr(self.loader, "_iterator", None) is not None:
            torch.empty((), dtype=torch.int64).random_()

    def _prepare_input(self, data: Any) -> Any:
        """As transformers', which knows no layout."""
        return data.to(self.args.device) if isinstance(data, Layout) else super()._prepare_input(data)

    # ---- numbers ----

    def compute_loss(self, model: Any, inputs: Any, *arguments: Any, **keywords: Any) -> Any:
        ids = inputs.pop("record_ids")
        self.step_ids += ids
        self.num_tokens += inputs.pop("num_tokens")
        self.num_cut += inputs.pop("num_cut", 0)
        self.num_pictures += inputs.pop("num_pictures", 0)
        self.num_samples += len(ids)
        loss = super().compute_loss(model, inputs, *arguments, **keywords)
        value = loss[0] if isinstance(loss, tuple) else loss
        self.watch.note("loss", self.state.global_step + 1, ids, value)
        return loss

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        norm = super()._get_grad_norm(model, grad_norm)
        self.watch.note("gradient norm", self.state.global_step + 1, self.step_ids, norm)
        self.step_ids = []
        return norm

    # ---- evaluation ----

    def _evaluate(self, trial: Any, ignore_keys_for_eval: Any, skip_scheduler: bool = False) -> dict[str, float]:
        self.watch.look()
        numbers: dict[str, float] = self.examiner.examine(self.state)
        self.control: Any = self.callback_handler.on_evaluate(self.args, self.state, self.control, numbers)
        return numbers

    def _determine_best_metric(self, metrics: Any, trial: Any) -> bool:
        return bool(self.examiner.judge(self.state, self.control, metrics))

    # ---- saving ----

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
        except UserError:
            raise
        except Exception as error:  # torch, safetensors and DeepSpeed each raise their own when a disk is full
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

        Under ZeRO-3 it can be gone on from and not be used by itself, for no rank holds the weights whole.
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
        load_trained(self.model, Path(resume_from_checkpoint), self.plan.writer.kind)

    def _prepare_for_training(self, max_steps: int, train_dataloader: Any, resume_from_checkpoint: Any) -> Any:
        prepared = super()._prepare_for_training(max_steps, train_dataloader, None)
        if resume_from_checkpoint is not None:
            self.resumed_from = Path(resume_from_checkpoint)
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
        position = torch.load(folder / f"position_{self.args.process_index}.pth", weights_only=True)
        self._tr_loss += position["loss_sum"].to(self._tr_loss.device)
        self._globalstep_last_logged = position["last_logged"]
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
        f"{output}/{name} could not be saved: {type(error).__name__}: {str(error).splitlines()[0][:300]}. Nothing half "
        f"written is left; {last}; {free:.1f} GB are free (a quota of yours "
        "may be full before the disk is). Make room, then go on with --resume auto"
    )
