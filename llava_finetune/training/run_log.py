"""What a run says while it trains: one row per logged step in `log.jsonl`, the same on screen and to the trackers."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil
import torch
from transformers import TrainerCallback

from llava_finetune.errors import UserError
from llava_finetune.training.evaluation_schedule import refresh_report


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


class RunLog(TrainerCallback):
    """Print, keep in `log.jsonl` and pass to the trackers one row per logged step and per evaluation."""

    def __init__(self, trainer: Any, path: Path, world_size: int, trackers: Sequence[Any] = ()) -> None:
        self.trainer = trainer
        self.path = path
        self.world_size = world_size
        self.trackers = trackers
        self.mark = (time.monotonic(), 0, 0)
        self.begun = (time.monotonic(), 0)
        self.zero_rate_said = False

    def on_train_begin(self, args: Any, state: Any, control: Any, **keywords: Any) -> None:
        self.mark = (time.monotonic(), self.trainer.num_samples, self.trainer.num_tokens)
        self.begun = (time.monotonic(), state.global_step)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **keywords: Any) -> None:
        logs = dict(logs or {})
        if "loss" not in logs:
            if any(key.startswith(("eval_", "probe_", "hallucination_")) for key in logs):
                self.write({"step": state.global_step, **logs})
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
            **self.trainer.take_numbers(),
            "samples_per_second": self.world_size * (self.trainer.num_samples - samples) / span,
            "tokens_per_second": self.world_size * (self.trainer.num_tokens - tokens) / span,
            "memory_gb": memory_gb(),
            "seconds_left": left,
        }
        self._check(row, args, state)
        self.write(row)
        if state.is_world_process_zero:
            pairs = f"margin {row['margin']:.3f} right {row['margin_accuracy']:.0%}  " if "margin" in row else ""
            print(
                f"step {row['step']}/{state.max_steps}  loss {row['loss']:.4f}  {pairs}"
                f"grad {row['grad_norm'] or 0:.3f}  lr {row['learning_rate']:.2e}  "
                f"{row['samples_per_second']:.1f} samples/s  {row['tokens_per_second']:.0f} tokens/s  "
                f"{row['memory_gb']:.2f} GB  {clock(left)} left",
                flush=True,
            )

    def on_save(self, args: Any, state: Any, control: Any, **keywords: Any) -> None:
        # Evaluations rewrite the report too; a run without them has it as new as its last checkpoint.
        if state.is_world_process_zero:
            refresh_report(self.path.parent)

    def _check(self, row: dict[str, Any], args: Any, state: Any) -> None:
        if not math.isfinite(row["loss"]):
            raise UserError(
                f"step {row['step']}: the loss is {row['loss']}, on another rank; its message names the records"
            )
        if row["loss"] == 0:
            raise UserError(
                f"step {row['step']}: the loss is exactly 0; nothing is taught. Look at the labels with: "
                "python -m data_prep show"
            )
        warm = args.get_warmup_steps(state.max_steps)
        if not row["learning_rate"] and warm + 1 < row["step"] < state.max_steps and not self.zero_rate_said:
            self.zero_rate_said = True
            text = (
                f"the learning rate is 0 at step {row['step']} of {state.max_steps}: nothing is learned from here on; "
                "look at --lr_scheduler_type, --warmup_steps and the DeepSpeed config's own scheduler"
            )
            self.say(f"WARNING: {text}")
            self.write({"step": row["step"], "warning": text})

    def say(self, text: str) -> None:
        """Print on the first rank."""
        if self.trainer.is_world_process_zero():
            print(text, flush=True)

    def write(self, row: dict[str, Any]) -> None:
        """Append a row to log.jsonl and hand it to the trackers, on the first rank."""
        if self.trainer.is_world_process_zero():
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
            for tracker in self.trackers:
                tracker.log(row["step"], row)
