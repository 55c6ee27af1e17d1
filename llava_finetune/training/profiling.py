"""Where the time of a training step goes, in words: `--profile N`.

The first two steps warm up, the next N are profiled by torch's profiler and cut into phases: data, vision, splice,
language model, loss, optimizer, communication, the rest, and how much of all that the processor only waited. On a GPU
each change of phase waits for the device, so a profiled step is slower than another. Under RUN/: profile.txt,
profile.json, and trace.json for chrome://tracing or ui.perfetto.dev.

    llava-finetune train ... --profile 5
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.autograd import DeviceType
from transformers import TrainerCallback

from llava_finetune.saved.manifest import write_json

WARM_UP = 2
COLLECTIVES = (
    *("all_reduce", "reduce", "broadcast", "barrier", "all_gather", "all_gather_into_tensor"),
    *("reduce_scatter", "reduce_scatter_tensor", "all_to_all_single", "all_gather_object"),
)
MEANING = {
    "data": "waiting for the next batch",
    "vision": "vision tower and projector, forward",
    "splice": "embedding text, putting features in place",
    "language model": "decoder layers, forward",
    "loss": "language-model head and loss, both ways",
    "language model, backward": "decoder layers, backward, with recomputed activations",
    "splice, backward": "gradients of splice and projector",
    "optimizer": "clipping and the optimizer's step",
    "communication": "collectives between ranks",
    "other": "loop, logging, moving the batch",
}


class Phases:
    """Seconds per phase. One phase runs at a time; `enter` and `leave` nest, `switch` replaces the current one."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.stack = ["other"]
        self.since = 0.0
        self.active = False

    def start(self) -> None:
        """Begin to count."""
        self.active, self.stack, self.since = True, ["other"], self._now()

    def stop(self) -> None:
        """Count the running phase to its end and stop."""
        self._close()
        self.active = False

    def switch(self, name: str) -> None:
        """The current phase ends and `name` begins."""
        if self.active:
            self._close()
            self.stack[-1] = name

    def enter(self, name: str) -> None:
        """`name` begins inside the current phase."""
        if self.active:
            self._close()
            self.stack.append(name)

    def leave(self) -> None:
        """Back to the phase around."""
        if self.active:
            self._close()
            if len(self.stack) > 1:
                self.stack.pop()

    def _close(self) -> None:
        now = self._now()
        self.seconds[self.stack[-1]] = self.seconds.get(self.stack[-1], 0.0) + now - self.since
        self.since = now

    @staticmethod
    def _now() -> float:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return time.perf_counter()


def _inside(phases: Phases, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    def timed(*arguments: Any, **keywords: Any) -> Any:
        phases.enter(name)
        try:
            return function(*arguments, **keywords)
        finally:
            phases.leave()

    return timed


class StepProfile(TrainerCallback):
    """Profiles `num_steps` optimizer steps after the warm-up and writes what they cost into `folder`."""

    def __init__(self, trainer: Any, num_steps: int, folder: Path) -> None:
        self.trainer = trainer
        self.num_steps = num_steps
        self.folder = folder
        self.phases = Phases()
        self.steps = 0
        self.undo: list[Callable[[], None]] = []
        self.profiler: Any = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **keywords: Any) -> None:
        inner = self.trainer.model
        phases = self.phases
        for module in (inner.get_model().get_vision_tower(), inner.get_model().mm_projector):
            self._around(module, lambda *_: phases.enter("vision"), lambda *_: phases.leave())
        self._around(inner.get_model(), self._language_begins, self._language_ends, with_keywords=True)
        self._replace(self.trainer, "get_batch_samples", "data")
        self._replace(self.trainer, "compute_loss", "splice")
        if hasattr(self.trainer.model_wrapped, "allreduce_gradients"):  # DeepSpeed steps inside of backward
            self._replace(self.trainer.model_wrapped, "step", "optimizer")
        for name in COLLECTIVES:
            if torch.distributed.is_available() and hasattr(torch.distributed, name):
                self._replace(torch.distributed, name, "communication")

    def _replace(self, owner: Any, name: str, phase: str) -> None:
        original = getattr(owner, name)
        setattr(owner, name, _inside(self.phases, phase, original))
        self.undo.append(lambda: setattr(owner, name, original))

    def _around(self, module: Any, before: Any, after: Any, with_keywords: bool = False) -> None:
        first = module.register_forward_pre_hook(before, with_kwargs=with_keywords)
        last = module.register_forward_hook(after)
        self.undo += [first.remove, last.remove]

    def _language_begins(self, _: Any, __: Any, keywords: Any) -> None:
        embeddings = keywords.get("inputs_embeds")
        if embeddings is not None and embeddings.requires_grad:
            embeddings.register_hook(lambda grad: self.phases.switch("splice, backward"))
        self.phases.enter("language model")

    def _language_ends(self, _: Any, __: Any, out: Any) -> None:
        self.phases.leave()
        self.phases.switch("loss")
        # Loss and backward run outside of compute_loss too: what follows it until the first gradient is the loss's.
        if self.phases.active and len(self.phases.stack) > 1:
            self.phases.stack[-2] = "loss"
        if out.last_hidden_state.requires_grad:
            out.last_hidden_state.register_hook(lambda grad: self.phases.switch("language model, backward"))

    def on_step_begin(self, args: Any, state: Any, control: Any, **keywords: Any) -> None:
        self.steps += 1
        if self.steps == WARM_UP + 1:
            # The profiler's own start and stop cost more than a step: the phases are counted inside of them.
            self.profiler = torch.profiler.profile()
            self.profiler.start()
            self.began = (time.perf_counter(), time.process_time())
            self.phases.start()

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **keywords: Any) -> None:
        self.phases.switch("optimizer")

    def on_step_end(self, args: Any, state: Any, control: Any, **keywords: Any) -> None:
        self.phases.switch("other")
        if self.steps == WARM_UP + self.num_steps:
            self.phases.stop()
            self.end(state.is_world_process_zero)

    def on_train_end(self, args: Any, state: Any, control: Any, **keywords: Any) -> None:
        if self.profiler is not None and self.phases.active:
            self.num_steps = self.steps - WARM_UP
            self.phases.stop()
            self.end(state.is_world_process_zero)
        elif self.profiler is None and state.is_world_process_zero:
            print(f"--profile: the run ended within the {WARM_UP} warm-up steps; nothing was profiled")

    def end(self, is_main: bool) -> None:
        """Undo the hooks, and on rank 0 write and print the summary."""
        wall, busy = (
            now - then for now, then in zip((time.perf_counter(), time.process_time()), self.began, strict=True)
        )
        self.profiler.stop()
        for undo in self.undo:
            undo()
        if not is_main:
            return
        averages = self.profiler.key_averages()
        kernels = kernel_seconds(averages)
        facts = {
            "steps": self.num_steps,
            "seconds_per_step": wall / self.num_steps,
            "phases": {name: self.phases.seconds.get(name, 0.0) / self.num_steps for name in MEANING},
            "idle": max(0.0, wall - (kernels if torch.cuda.is_available() else busy)) / self.num_steps,
            "operators": _operators(averages),
        }
        self.profiler.export_chrome_trace(str(self.folder / "trace.json"))
        write_json(self.folder / "profile.json", facts)
        text = summary(facts)
        (self.folder / "profile.txt").write_text(text, encoding="utf-8")
        print(text, end="", flush=True)


def kernel_seconds(averages: Any) -> float:
    """Seconds in which a GPU computed. A kernel's time stands twice: in its own row, and in its operator's."""
    rows = [row for row in averages if row.device_type != DeviceType.CPU and not row.is_user_annotation]
    return sum(row.self_device_time_total for row in rows) / 1e6


def _operators(averages: Any) -> list[dict[str, Any]]:
    """The ten operators that took longest by themselves, in seconds: on a GPU those of the kernels that they start."""
    cuda = torch.cuda.is_available()
    called = [row for row in averages if row.device_type == DeviceType.CPU and row.key.startswith(("aten::", "_"))]
    rows = [(row.self_device_time_total if cuda else row.self_cpu_time_total, row) for row in called]
    rows.sort(key=lambda pair: -pair[0])
    return [{"name": row.key, "seconds": taken / 1e6, "calls": row.count} for taken, row in rows[:10]]


def summary(facts: dict[str, Any]) -> str:
    """The profile in words, most expensive phase first."""
    whole = facts["seconds_per_step"]
    lines = [f"profile of {facts['steps']} steps, {whole:.3f} s each:"]
    for name, seconds in sorted(facts["phases"].items(), key=lambda pair: -pair[1]):
        lines.append(f"  {name:<26}{seconds:8.3f} s {seconds / whole:6.1%}  {MEANING[name]}")
    what = "the GPU ran no kernel" if torch.cuda.is_available() else "the process waited for a core, a rank or a disk"
    lines.append(f"  of all that, idle         {facts['idle']:8.3f} s {facts['idle'] / whole:6.1%}  {what}")
    spent = sum(row["seconds"] for row in facts["operators"]) or 1.0
    top = ", ".join(f"{row['name']} {row['seconds'] / spent:.0%}" for row in facts["operators"][:5])
    lines.append(f"  of the ten longest operators: {top}")
    return "\n".join(lines) + "\n"
