"""Twenty runs killed at random moments and resumed end with the weights of the run that was not; no checkpoint is half.

A third each by kill -9, by SIGTERM and by a disk that is full at a save; every second one twice.
"""

from __future__ import annotations

import random
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from llava_finetune.saved.checkpoints import checkpoints, fault_of, step_of
from tests.training.conftest import Flags, assert_same_run, assert_trained, tensors
from tests.training.forked import Wound, at_step, disk_full_at_save, signal_after, train

NUM_RUNS = 20
STEPS = 6
WAYS = ("kill", "term", "disk")
MODES = ("lora", "full", "pretrain")
REQUEUE = 75


def pace(run: Path) -> float:
    """Seconds that two steps and a save took in an uninterrupted run."""
    times = {step_of(folder): folder.stat().st_mtime for folder in checkpoints(run)}
    return (times[6] - times[2]) / 2


def wound_of(way: str, first: int, usual: Path, pick: random.Random) -> tuple[Wound, set[int]]:
    """A wound at a random moment from step `first` on, and the exit codes that may follow."""
    step = pick.randint(first, STEPS - 1)
    moment = pick.uniform(0, pace(usual))
    if way == "kill":
        return at_step(step, signal_after(moment, signal.SIGKILL)), {-9}
    if way == "term":
        # After the last step a run that is told to stop ends by itself.
        return at_step(step, signal_after(moment, signal.SIGTERM)), {REQUEUE, 0}
    largest = max(file.stat().st_size for file in (usual / "checkpoint-2").iterdir() if file.is_file())
    return disk_full_at_save(step + step % 2, pick.randrange(largest)), {1}


def assert_all_whole(output: Path, usual: Path) -> None:
    """Every checkpoint that can be seen is complete and holds what the uninterrupted run's of that step holds."""
    for folder in output.glob("checkpoint-*"):
        assert fault_of(folder) is None, folder
        expected = usual / folder.name
        if expected.is_dir():
            saved, wanted = tensors(folder), tensors(expected)
            assert saved.keys() == wanted.keys()
            assert all(torch.equal(saved[name], wanted[name]) for name in saved), folder


@pytest.mark.parametrize("number", range(NUM_RUNS))
def test_a_run_killed_at_random_moments_ends_with_the_same_weights(
    number: int, flags: Flags, whole: Any, tmp_path: Path
) -> None:
    pick = random.Random(number)
    way, mode = WAYS[number % 3], MODES[number // 3 % 3]
    usual, output = whole(mode), tmp_path / "run"
    for resume in ("", "--resume auto")[: 1 + number % 2]:
        begun = max((step_of(folder) for folder in checkpoints(output)), default=0)
        if begun >= STEPS - 1:
            break
        wound, codes = wound_of(way, begun + 1, usual, pick)
        code, text = train(flags(mode, output, resume), tmp_path / "out", wound=wound)
        assert code in codes, (code, text)
        assert ("could not be saved" in text) == (way == "disk"), text
        assert_all_whole(output, usual)
    code, text = train(flags(mode, output, "--resume auto"), tmp_path / "out")
    assert code == 0, text
    assert_all_whole(output, usual)
    assert_same_run(usual, output)
    assert_trained(output, STEPS)
    assert not [path for path in output.iterdir() if path.name.startswith(".saving") or ".tmp" in path.name]
