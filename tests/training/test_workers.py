"""Processes that load data stay for all epochs, ignore the run's signals, and change no number."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from llava_finetune.config.arguments import for_the_loop, parse
from llava_finetune.planning.proposals import workers
from llava_finetune.training.train import train
from llava_finetune.training.workers import start_worker
from tests.oracle.runs import ROOT
from tests.tiny import make_tiny_llava


@pytest.mark.slow
def test_losses_are_the_same_to_the_bit_with_workers_that_stay_and_without(
    tmp_path: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_tiny_llava(tmp_path / "model")
    found = {}
    for name, number, stay in (("none", 0, False), ("stay", 2, True), ("end", 2, False)):
        flags = (
            f"--model_name_or_path {model} --version v1 --data_path {pictures / 'records.json'} --image_folder "
            f"{pictures} --lora_enable True --lora_r 8 --lora_dropout 0.2 --per_device_train_batch_size 2 "
            f"--num_train_epochs 3 --precision fp32 --save_strategy no --check_data False "
            f"--dataloader_num_workers {number} --output_dir {tmp_path / name}"
        )

        def with_workers_that(training: Any, number: int = number, stay: bool = stay) -> Any:
            loop = for_the_loop(training)
            assert loop.dataloader_persistent_workers == (number > 0)
            loop.dataloader_persistent_workers = stay
            return loop

        monkeypatch.setattr("llava_finetune.training.loop_setup.for_the_loop", with_workers_that)
        trainer = train(parse(flags.split()))
        assert (trainer.loader._iterator is not None) == stay
        assert trainer.loader.worker_init_fn.func is start_worker
        rows = [json.loads(line) for line in (tmp_path / name / "log.jsonl").read_text().splitlines()]
        found[name] = [row["loss"] for row in rows if "loss" in row]
    assert len(found["none"]) == 12
    assert found["none"] == found["stay"] == found["end"]


HELD = """
import atexit, functools, torch
from llava_finetune.training.workers import end_workers, start_worker
init = functools.partial(start_worker, None)
loader = torch.utils.data.DataLoader(range(8), num_workers=2, persistent_workers=True, worker_init_fn=init)
atexit.register(end_workers)
print(sum(len(batch) for batch in loader))
import builtins
builtins.held = [loader._iterator]
"""


def test_a_loader_that_something_still_holds_does_not_keep_the_process_from_ending() -> None:
    """multiprocessing ends its children by SIGTERM, which these ignore: a run with --profile hung after its end."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "build" / "patched"), str(ROOT)])}
    done = subprocess.run(
        [sys.executable, "-c", HELD], env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0 and done.stdout == "8\n"
    assert "Traceback" not in done.stderr and "Error" not in done.stderr


@pytest.mark.parametrize(("cores", "ranks", "number"), [(2, 1, 2), (64, 8, 4), (16, 8, 2), (4, 8, 1)])
def test_plan_proposes_workers_for_the_cores_of_each_rank(cores: int, ranks: int, number: int) -> None:
    assert workers(ranks, cores) == number
