"""Trainings in forked children of the test process: killed, stopped and crowded as real ones, without paying imports.

run = start(flags, wound=kill_at_step(3)); assert run.wait() == -9
"""

from __future__ import annotations

import functools
import os
import resource
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llava_finetune.launching.processes import free_port
from tests.fixtures.environments import rank_of
from tests.warm import draw_no_curves, fork

Wound = Callable[[], None]


@dataclass
class Run:
    """Ranks that are running; `text` is what they printed."""

    pids: list[int]
    outputs: list[Path]

    def wait(self, limit: float = 600) -> int:
        """The first bad exit code of all ranks (-N: ended by signal N), else 0. A bad rank takes the others with it."""
        end = time.monotonic() + limit
        left, first = list(self.pids), 0
        while left:
            for pid in list(left):
                done, status = os.waitpid(pid, os.WNOHANG)
                if done:
                    left.remove(pid)
                    first = first or os.waitstatus_to_exitcode(status)
            if time.monotonic() > end:
                for pid in left:
                    os.kill(pid, signal.SIGKILL)
                raise AssertionError(f"still running after {limit} s\n{self.text}")
            if first and left:
                self._take_along(left)
                left = []
            time.sleep(0.01)
        return first

    def _take_along(self, pids: list[int]) -> None:
        """What the launcher does: the ranks that are left have a moment to end by themselves, then are killed."""
        time.sleep(0.5)
        for pid in pids:
            done, _ = os.waitpid(pid, os.WNOHANG)
            if not done:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)

    @property
    def text(self) -> str:
        """What all ranks printed so far."""
        return "".join(path.read_text(errors="replace") for path in self.outputs if path.exists())


def start(flags: Sequence[str], folder: Path, ranks: int = 1, wound: Wound | None = None) -> Run:
    """Start `llava-finetune train FLAGS` in forked ranks; `wound` runs in the last of them before it starts."""
    folder.mkdir(parents=True, exist_ok=True)
    number = len(list(folder.glob("*.txt")))
    port = free_port()
    run = Run([], [folder / f"{number}-{rank}.txt" for rank in range(ranks)])
    for rank in range(ranks):
        hurt = wound if rank == ranks - 1 else None
        with run.outputs[rank].open("a") as output:
            be_rank = functools.partial(_be_rank, flags, rank, ranks, port, hurt)
            run.pids.append(fork(be_rank, [output.fileno(), output.fileno()]))
    return run


def _be_rank(flags: Sequence[str], rank: int, ranks: int, port: int, wound: Wound | None) -> int:
    if ranks > 1 or "--deepspeed" in flags:
        os.environ.update(rank_of(rank, ranks, port))
    os.environ["DS_ACCELERATOR"] = "cpu"
    draw_no_curves()
    if wound:
        wound()
    from llava_finetune.cli import run_command

    return run_command("llava_finetune.training.train", list(flags))


def train(flags: Sequence[str], folder: Path, ranks: int = 1, wound: Wound | None = None) -> tuple[int, str]:
    """Run to the end: exit code and all that was printed."""
    run = start(flags, folder, ranks, wound)
    return run.wait(), run.text


def at_step(step: int, act: Wound) -> Wound:
    """A wound that acts when this optimizer step has been made, before anything is logged or saved."""

    def wound() -> None:
        from llava_finetune.training.course import Course

        usual = Course.on_step_end

        def on_step_end(self: Course, args: object, state: object, control: object, **more: object) -> None:
            if state.global_step == step:  # type: ignore[attr-defined]
                act()
            usual(self, args, state, control, **more)  # type: ignore[arg-type]

        Course.on_step_end = on_step_end  # type: ignore[method-assign, assignment]

    return wound


def die() -> None:
    """kill -9 of this process."""
    os.kill(os.getpid(), signal.SIGKILL)


def told_to_stop(number: int = signal.SIGTERM) -> None:
    """A signal to this process."""
    os.kill(os.getpid(), number)


def late(seconds: float) -> Wound:
    """A wound that lets this rank begin late, and come late whenever the first rank tells the others something."""

    def wound() -> None:
        from llava_finetune.training.ranks import Group

        usual = Group.from_first

        def from_first(self: Group, act: Callable[[], Any]) -> Any:
            time.sleep(seconds)
            return usual(self, act)

        Group.from_first = from_first  # type: ignore[method-assign]
        time.sleep(seconds)

    return wound


def memory_ends(step: int, where: str) -> Wound:
    """A wound that lets memory run out once, in this step's forward pass or at the end of its backward pass."""

    def wound() -> None:
        import torch

        from llava_finetune.model import modeling

        usual = modeling.run_layers
        calls = 0

        def fail(*_: object) -> None:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

        def run_layers(model: Any, embeddings: torch.Tensor, layout: Any) -> torch.Tensor:
            nonlocal calls
            calls += 1
            if calls == step and where == "backward":
                embeddings.register_hook(fail)
            hidden = usual(model, embeddings, layout)
            if calls == step and where == "forward":
                fail()
            return hidden

        modeling.run_layers = run_layers

    return wound


def signal_after(seconds: float, number: int) -> Wound:
    """A wound that sends this process a signal from outside after so many seconds, whatever it does then."""

    def wound() -> None:
        victim = os.getpid()
        if os.fork() == 0:
            time.sleep(seconds)
            if os.getppid() == victim:
                os.kill(victim, number)
            os._exit(0)

    return wound


def scripted(values: Mapping[int, Mapping[str, float]]) -> Wound:
    """A wound that gives evaluations these numbers by step, without a model's work."""

    def wound() -> None:
        from llava_finetune.training.evaluator import Evaluator

        def run(self: Evaluator, trainer: Any, group: object) -> tuple[dict[str, float], list[Any]]:
            usual = {"exact_match": 0.0, "count": 6.0, "num_truncated": 0.0, "num_cut": 0.0, "seconds": 0.0}
            row = {**usual, **values[trainer.state.global_step]}
            return {f"{self.name}_{key}": value for key, value in row.items()}, []

        Evaluator.run = run  # type: ignore[method-assign, assignment]

    return wound


def both(*wounds: Wound) -> Wound:
    """Several wounds at once."""
    return lambda: [wound() for wound in wounds] and None


def disk_full_at_save(step: int, num_bytes: int) -> Wound:
    """A wound that lets no file grow beyond `num_bytes` once the checkpoint of `step` begins: writes fail as on a
    full disk."""

    def wound() -> None:
        from llava_finetune.training.trainer import RunTrainer

        usual = RunTrainer._save_checkpoint

        def save(self: RunTrainer, *arguments: object) -> None:
            if self.state.global_step == step:
                signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
                resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, resource.RLIM_INFINITY))
            try:
                usual(self, *arguments)
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))

        RunTrainer._save_checkpoint = save  # type: ignore[method-assign, assignment]

    return wound
