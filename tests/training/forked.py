"""Trainings in forked children of the test process: killed, stopped and crowded as real ones, without paying imports.

run = start(flags, wound=kill_at_step(3)); assert run.wait() == -9
"""

from __future__ import annotations

import os
import resource
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.warm import settle_threads

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
    port = _free_port()
    run = Run([], [folder / f"{number}-{rank}.txt" for rank in range(ranks)])
    sys.stdout.flush()
    sys.stderr.flush()
    for rank in range(ranks):
        pid = os.fork()
        if pid == 0:
            _be_rank(flags, run.outputs[rank], rank, ranks, port, wound if rank == ranks - 1 else None)
        run.pids.append(pid)
    return run


def _be_rank(flags: Sequence[str], output: Path, rank: int, ranks: int, port: int, wound: Wound | None) -> None:
    code = 1
    try:
        file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(file, 1)
        os.dup2(file, 2)
        sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
        if ranks > 1:
            os.environ.update(
                RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(ranks), LOCAL_WORLD_SIZE=str(ranks),
                MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port),
            )  # fmt: skip
        os.environ["DS_ACCELERATOR"] = "cpu"
        settle_threads()
        if wound:
            wound()
        from llava_finetune.cli import run_command

        code = run_command("llava_finetune.train", list(flags))
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def train(flags: Sequence[str], folder: Path, ranks: int = 1, wound: Wound | None = None) -> tuple[int, str]:
    """Run to the end: exit code and all that was printed."""
    run = start(flags, folder, ranks, wound)
    return run.wait(), run.text


def at_step(step: int, act: Wound) -> Wound:
    """A wound that acts when this optimizer step has been made, before anything is logged or saved."""

    def wound() -> None:
        from llava_finetune.trainer import Course

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
        from llava_finetune.evaluation_loop import Evaluator

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
        from llava_finetune.trainer import RunTrainer

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


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
