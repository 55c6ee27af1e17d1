"""Nothing fails in silence: non-finite numbers, batches that teach nothing, signals, overfitting, a rate of zero.

On a GPU the finiteness of a loss is copied aside and looked at when its step is over, so that no step waits for it.
"""

from __future__ import annotations

import math
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from itertools import pairwise
from types import FrameType
from typing import Any

import torch

from llava_finetune.errors import UserError
from llava_finetune.launching.processes import STOPPING

REQUEUE = 75
"""Exit code of a run that was told to stop and saved itself: EX_TEMPFAIL of sysexits.h, "try again later"."""
ECHO_SECONDS = 3.0
"""A signal may come twice within so long, from the terminal or a scheduler and from the launcher."""


class Interrupted(UserError):
    """The run was told to stop; its checkpoint is saved and it can be queued again."""

    exit_code = REQUEUE


class FiniteWatch:
    """Stops the run at the first loss or gradient norm that is NaN or infinite, with its step and records."""

    def __init__(self, tolerate_overflow: bool = False) -> None:
        self.tolerate_overflow = tolerate_overflow  # fp16: the loss scaler skips such steps by design
        self.pending: list[tuple[str, int, list[str], torch.Tensor, Any]] = []
        self.overflows = 0

    def note(self, kind: str, step: int, ids: Sequence[str], value: torch.Tensor | float | None) -> None:
        """Look at a scalar: at once on CPU, after its step on a GPU."""
        if value is None:
            return
        if not isinstance(value, torch.Tensor) or value.device.type == "cpu":
            self._judge(kind, step, list(ids), float(value.detach() if isinstance(value, torch.Tensor) else value))
            return
        copy = torch.empty((), dtype=torch.float32, pin_memory=True)
        copy.copy_(value.detach().float(), non_blocking=True)
        event = torch.cuda.Event()
        event.record()
        self.pending.append((kind, step, list(ids), copy, event))

    def look(self) -> None:
        """Judge all that was noted; waits for the GPU only as far as those numbers."""
        pending, self.pending = self.pending, []
        for kind, step, ids, copy, event in pending:
            event.synchronize()
            self._judge(kind, step, ids, float(copy))

    def _judge(self, kind: str, step: int, ids: list[str], value: float) -> None:
        if math.isfinite(value):
            if kind != "loss":
                self.overflows = 0
            return
        if kind != "loss" and self.tolerate_overflow and self.overflows < 25:
            self.overflows += 1
            return
        named = ", ".join(ids[:16]) + (f" and {len(ids) - 16} more" if len(ids) > 16 else "")
        raise UserError(
            f"step {step}: the {kind} is {value}, in the records {named}. Look at them with: python -m data_prep show; "
            "try a lower --learning_rate, or --precision fp32 to rule out overflow"
        )


class StopSignal:
    """Each of STOPPING but SIGQUIT asks the run to save and end; the second Ctrl-C ends it at once.

    Before the first step there is nothing to save: the run ends there and then, to be queued again, and a signal that
    comes when it still has not ends it at once. A terminal that is closed is no reason where nohup said so. SIGQUIT
    keeps its meaning: Ctrl-\\ ends a process that hangs in C, where no handler of Python's runs.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self.received_at = 0.0
        self.has_begun = False
        self.previous: dict[int, Any] = {}

    def __enter__(self) -> StopSignal:
        """Take the signals over (main thread only), and give them back at the end."""
        for number in STOPPING:
            if number == getattr(signal, "SIGQUIT", None):
                continue
            if number in (signal.SIGTERM, signal.SIGINT) or signal.getsignal(number) is not signal.SIG_IGN:
                self.previous[number] = signal.signal(number, self._take)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler)
        self.previous.clear()

    def _take(self, number: int, _frame: FrameType | None) -> None:
        if self.received is not None:  # a launcher passes on at once what the terminal has told already
            if number == signal.SIGINT:
                raise KeyboardInterrupt
            if not self.has_begun and time.monotonic() - self.received_at > ECHO_SECONDS:
                self._leave()
            return
        self.received, self.received_at = number, time.monotonic()
        if not self.has_begun:
            self._leave()
        print(f"{signal.Signals(number).name}: saving after this step, then leaving", file=sys.stderr, flush=True)

    def _leave(self) -> None:
        raise Interrupted(
            f"{self.name} before the first step: nothing is lost; go on with the same command and --resume auto"
        )

    @property
    def name(self) -> str:
        """The signal's name, or that another rank received it."""
        return signal.Signals(self.received).name if self.received else "a signal on another rank"


def overfitting(rows: Sequence[Mapping[str, Any]]) -> str | None:
    """A sentence when the eval loss rose at the last two evaluations while the training loss fell, else None."""
    evaluated = [index for index, row in enumerate(rows) if "eval_loss" in row]
    if len(evaluated) < 3:
        return None
    marks = evaluated[-3:]
    held = [float(rows[index]["eval_loss"]) for index in marks]
    spans = [[float(row["loss"]) for row in rows[first:last] if "loss" in row] for first, last in pairwise(marks)]
    if not (held[0] < held[1] < held[2]) or not all(spans):
        return None
    trained = [sum(span) / len(span) for span in spans]
    if trained[1] >= trained[0]:
        return None
    best = min((rows[index] for index in evaluated), key=lambda row: float(row["eval_loss"]))
    return (
        f"overfitting: the held-out loss rose from {held[0]:.4f} to {held[2]:.4f} over the last two evaluations "
        f"while the training loss fell from {trained[0]:.4f} to {trained[1]:.4f}; held-out loss was best at step "
        f"{best['step']}. Stop there, or add data, --replay, --lora_dropout, a lower --learning_rate"
    )
