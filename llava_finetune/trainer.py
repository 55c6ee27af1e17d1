"""The training loop: transformers' Trainer through upstream's LLaVATrainer, with its optimizer groups and samplers.

Each log line holds step, loss, gradient norm, learning rate, samples/s, tokens/s, memory and time left; a NaN stops the
run and names the records of its batch.
"""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any

import psutil
import torch
from llava.train.llava_trainer import LLaVATrainer
from transformers import TrainerCallback

from llava_finetune.errors import UserError

MEBI = 1 << 20


def memory_gb() -> float:
    """Peak GPU memory of this process in GB, or its resident memory where there is no GPU."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 1e9
    return float(psutil.Process().memory_info().rss) / 1e9


def clock(seconds: float) -> str:
    """Seconds as h:mm:ss or m:ss."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


class RunTrainer(LLaVATrainer):  # type: ignore[misc]
    """Upstream's trainer that counts tokens, names the records of a bad batch and saves whole folders.

    `save_extras(folder)` writes what makes a saved folder usable by itself; every rank calls it.
    """

    def __init__(self, *arguments: Any, save_extras: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        # Our forward takes **kwargs, which the Trainer reads as "scales its own loss": it would then neither divide by
        # the accumulated steps nor average over ranks. The loss is a mean per micro-batch, as upstream's.
        self.model_accepts_loss_kwargs = False
        self.save_extras = save_extras
        self.num_tokens = 0
        self.num_samples = 0
        self.batch_ids: list[str] = []

    def compute_loss(self, model: Any, inputs: Any, *arguments: Any, **keywords: Any) -> Any:
        self.batch_ids = inputs.pop("record_ids")
        self.num_tokens += inputs.pop("num_tokens")
        self.num_samples += len(self.batch_ids)
        loss = super().compute_loss(model, inputs, *arguments, **keywords)
        value = loss[0] if isinstance(loss, tuple) else loss
        if not torch.isfinite(value):
            raise UserError(
                f"step {self.state.global_step + 1}: the loss is {value.item()}, in the records "
                f"{', '.join(self.batch_ids)}. Look at them with: python -m data_prep show; try a lower "
                "--learning_rate, or --precision fp32 to rule out overflow"
            )
        return loss

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """Write weights only through `save_extras` where upstream's layout differs from transformers'."""
        if not getattr(self.args, "tune_mm_mlp_adapter", False):
            super()._save(output_dir, state_dict)


class RunLog(TrainerCallback):
    """Print and keep one row per logged step in `log.jsonl`."""

    def __init__(self, trainer: RunTrainer, path: Path, world_size: int) -> None:
        self.trainer = trainer
        self.path = path
        self.world_size = world_size
        self.mark = (time.monotonic(), 0, 0)

    def on_train_begin(self, args: Any, state: Any, control: Any, **keywords: Any) -> None:
        self.mark = (time.monotonic(), self.trainer.num_samples, self.trainer.num_tokens)
        self.begun = (time.monotonic(), state.global_step)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **keywords: Any) -> None:
        logs = dict(logs or {})
        if "loss" not in logs:
            if any(key.startswith("eval_") for key in logs):
                self._write(state, {"step": state.global_step, **logs})
            return
        now = time.monotonic()
        then, samples, tokens = self.mark
        self.mark = (now, self.trainer.num_samples, self.trainer.num_tokens)
        span = max(now - then, 1e-9)
        done = state.global_step - self.begun[1]
        left = (state.max_steps - state.global_step) * (now - self.begun[0]) / max(done, 1)
        # The trainer counts its own rank; ranks see batches of the same size, so the run's rate is a multiple.
        row = {
            "step": state.global_step,
            "epoch": logs.get("epoch"),
            "loss": logs["loss"],
            "grad_norm": logs.get("grad_norm"),
            "learning_rate": logs.get("learning_rate"),
            "samples_per_second": self.world_size * (self.trainer.num_samples - samples) / span,
            "tokens_per_second": self.world_size * (self.trainer.num_tokens - tokens) / span,
            "memory_gb": memory_gb(),
            "seconds_left": left,
        }
        self._check(row)
        self._write(state, row)
        if state.is_world_process_zero:
            print(
                f"step {row['step']}/{state.max_steps}  loss {row['loss']:.4f}  grad {row['grad_norm'] or 0:.3f}  "
                f"lr {row['learning_rate']:.2e}  {row['samples_per_second']:.1f} samples/s  "
                f"{row['tokens_per_second']:.0f} tokens/s  {row['memory_gb']:.2f} GB  {clock(left)} left",
                flush=True,
            )

    def _check(self, row: dict[str, Any]) -> None:
        norm = row["grad_norm"]
        if norm is not None and not math.isfinite(norm):
            raise UserError(
                f"step {row['step']}: the gradient norm is {norm}; the last batch held the records "
                f"{', '.join(self.trainer.batch_ids)}. Lower --learning_rate, or look at those records"
            )
        if row["loss"] == 0:
            raise UserError(
                f"step {row['step']}: the loss is exactly 0; nothing is taught. Look at the labels with: "
                "python -m data_prep show"
            )

    def _write(self, state: Any, row: dict[str, Any]) -> None:
        if state.is_world_process_zero:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
