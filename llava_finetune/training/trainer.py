"""The training loop: transformers' Trainer through upstream's LLaVATrainer, with its optimizer groups and samplers.

What is added: batches that name their records, a stop at the first number that is not finite, whole checkpoints, a
resumed run that goes on bit for bit, and a signal that saves before it ends.
"""

from __future__ import annotations

import atexit
import functools
from pathlib import Path
from typing import Any

import torch
from transformers import PrinterCallback, ProgressCallback, TrainerCallback

from llava_finetune.data.collator import Batch
from llava_finetune.data.layout import Layout
from llava_finetune.data.shared_pictures import PictureSampler
from llava_finetune.training.course import Course
from llava_finetune.training.evaluation_schedule import Examiner
from llava_finetune.training.halved_batches import HalvedBatches
from llava_finetune.training.heap_trim import HeapTrim
from llava_finetune.training.last_step import LastStep
from llava_finetune.training.learning_rates import PartLearningRates
from llava_finetune.training.loop_plan import LoopPlan
from llava_finetune.training.moved import MovedWatch
from llava_finetune.training.ranks import Group
from llava_finetune.training.run_log import RunLog
from llava_finetune.training.watch import FiniteWatch
from llava_finetune.training.whole_checkpoints import WholeCheckpoints
from llava_finetune.training.workers import end_workers, start_worker


class RunTrainer(HalvedBatches, PartLearningRates, WholeCheckpoints):
    """Upstream's trainer that counts tokens, watches its numbers and writes checkpoints that are whole."""

    def __init__(self, plan: LoopPlan, **keywords: Any) -> None:
        super().__init__(**keywords)
        # Our forward takes **kwargs, which the Trainer reads as "scales its own loss": it would then neither divide by
        # the accumulated steps nor average over ranks. The loss is a mean per micro-batch, as upstream's.
        self.model_accepts_loss_kwargs = False
        self.plan = plan
        self.group = Group(self.args.ddp_timeout_delta)
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
        if hasattr(self.train_dataset, "begin_epoch"):
            self.train_dataset.begin_epoch(int((self.state.epoch or 0) + 1e-6))
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

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        if not self.plan.sharing:
            return super()._get_train_sampler(train_dataset)
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        keys = self.train_dataset.picture_keys
        return PictureSampler(keys, self.plan.sharing, seed, lambda: int(self.state.epoch or 0))

    def draw_as_new_workers(self) -> None:
        """Workers that stay for an epoch draw no seed for it; new ones do, so that every epoch's order is the same."""
        if getattr(self.loader, "_iterator", None) is not None:
            torch.empty((), dtype=torch.int64).random_()

    def _prepare_input(self, data: Any) -> Any:
        """As transformers', which knows no layout."""
        return data.to(self.args.device) if isinstance(data, Layout) else super()._prepare_input(data)

    # ---- numbers ----

    def compute_loss(self, model: Any, inputs: Batch, *arguments: Any, **keywords: Any) -> Any:
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

    def take_numbers(self) -> dict[str, float]:
        """Further numbers of the steps since the last log; every rank calls."""
        return {}

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
