"""A run that was interrupted and resumed is the run that was not: same data, same losses, same weights, bit for bit."""

from __future__ import annotations

import functools
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llava_finetune.launching.preflight import drop_stale_locks
from llava_finetune.model.loading import load
from tests.training.conftest import MODES, assert_same_run, assert_trained
from tests.training.forked import at_step, die, start, told_to_stop, train

Flags = Callable[..., list[str]]


@pytest.fixture(scope="session")
def operators() -> None:
    """DeepSpeed's operator, built once: a rank that is killed while it builds leaves a lock that others wait for."""
    extensions = Path(os.environ["TORCH_EXTENSIONS_DIR"])
    if extensions.is_dir():
        drop_stale_locks(extensions)
    build = (
        "from deepspeed.accelerator import get_accelerator as g; g().create_op_builder('ShareMemCommBuilder').load()"
    )
    environment = {**os.environ, "DS_ACCELERATOR": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", build], env=environment, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize("mode", ["lora", "full", "qlora", "pretrain"])
def test_a_killed_run_goes_on_to_the_same_weights(mode: str, flags: Flags, whole: Any, tmp_path: Path) -> None:
    output = tmp_path / "run"
    code, text = train(flags(mode, output), tmp_path / "out", wound=at_step(5, die))
    assert code == -9, text
    assert (output / "checkpoint-4").is_dir() and not (output / "result.json").exists()
    assert "Training is at step 4" in (output / "report.html").read_text(), "as new as the last checkpoint"
    code, text = train(flags(mode, output, "--resume auto"), tmp_path / "out")
    assert code == 0, text
    assert "going on from" in text and "checkpoint-4" in text
    assert_same_run(whole(mode), output)
    assert_trained(output, 6)


def test_order_by_length_accumulation_and_log_windows_survive_a_kill(flags: Flags, whole: Any, tmp_path: Path) -> None:
    more = (
        "--group_by_modality_length True --gradient_accumulation_steps 2 --logging_steps 4 --max_steps 8 --save_steps 3"
    )
    output = tmp_path / "run"
    assert train(flags("lora", output, more), tmp_path / "out", wound=at_step(4, die))[0] == -9
    code, text = train(flags("lora", output, f"{more} --resume auto"), tmp_path / "out")
    assert code == 0 and "checkpoint-3" in text, text
    assert_same_run(whole("lora", more), output)


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_a_signal_saves_the_step_it_is_at_and_asks_to_be_queued_again(
    name: str, flags: Flags, whole: Any, tmp_path: Path
) -> None:
    output = tmp_path / "run"
    wound = at_step(3, functools.partial(told_to_stop, signal.Signals[name]))
    code, text = train(flags("lora", output, "--save_steps 100"), tmp_path / "out", wound=wound)
    assert code == 75, text
    assert f"{name} at step 3 of 6: checkpoint-3 is saved; go on with the same command and --resume auto" in text
    code, text = train(flags("lora", output, "--save_steps 100 --resume auto"), tmp_path / "out")
    assert code == 0, text
    assert_same_run(whole("lora"), output)


def test_a_finished_run_is_left_alone_and_a_full_folder_refused(flags: Flags, whole: Any, tmp_path: Path) -> None:
    output = tmp_path / "run"
    shutil.copytree(whole("lora"), output)
    before = (output / "adapter_model.safetensors").stat().st_mtime_ns
    code, text = train(flags("lora", output, "--resume auto"), tmp_path / "out")
    assert code == 0 and "is finished at step 6 already; nothing to do" in text, text
    assert (output / "adapter_model.safetensors").stat().st_mtime_ns == before
    code, text = train(flags("lora", output), tmp_path / "out")
    assert code == 1
    assert "already holds something" in text and "--resume auto" in text


def test_a_run_killed_before_its_result_takes_it_from_a_checkpoint(flags: Flags, whole: Any, tmp_path: Path) -> None:
    output = tmp_path / "run"
    shutil.copytree(whole("lora"), output)
    for name in ("result.json", "adapter_model.safetensors", "adapter_config.json"):
        (output / name).unlink()
    code, text = train(flags("lora", output, "--resume auto"), tmp_path / "out")
    assert code == 0, text
    assert_same_run(whole("lora"), output)


def test_other_flags_and_other_data_are_listed_and_refused_unless_said(
    flags: Flags, whole: Any, data: Path, tmp_path: Path
) -> None:
    output = tmp_path / "run"
    shutil.copytree(whole("lora"), output)
    shutil.rmtree(output / "checkpoint-6")
    changed = tmp_path / "changed.json"
    changed.write_text(json.dumps(json.loads((data / "train.json").read_text())[1:]))
    more = f"--resume auto --learning_rate 1e-3 --data_path {changed}"
    code, text = train(flags("lora", output, more), tmp_path / "out")
    assert code == 1
    assert "learning_rate: 0.002 then, 0.001 now" in text
    assert "data_sha256: " in text and "--resume_changed True" in text
    code, text = train(flags("lora", output, f"{more} --resume_changed True"), tmp_path / "out")
    assert code == 0, text
    assert "going on all the same" in text
    assert_trained(output, 6)


def test_a_damaged_checkpoint_is_passed_over_or_refused_by_name(flags: Flags, whole: Any, tmp_path: Path) -> None:
    output = tmp_path / "run"
    shutil.copytree(whole("lora"), output)
    (output / "result.json").unlink()
    for step in (4, 6):
        weights = output / f"checkpoint-{step}" / "adapter_model.safetensors"
        weights.write_bytes(weights.read_bytes()[:-100])
    code, text = train(flags("lora", output, f"--resume {output / 'checkpoint-6'}"), tmp_path / "out")
    assert code == 1
    assert "adapter_model.safetensors has" in text and "it was cut off or changed" in text
    code, text = train(flags("lora", output, "--resume auto"), tmp_path / "out")
    assert code == 0, text
    assert "passed over checkpoint-6" in text and "checkpoint-2" in text
    assert_same_run(whole("lora"), output)


@pytest.mark.slow
@pytest.mark.usefixtures("operators")
@pytest.mark.parametrize(
    ("mode", "config"),
    # 4-bit weights cannot be partitioned: QLoRA under ZeRO-3 is refused.
    [pair for pair in itertools.product(MODES, (None, "zero2", "zero3")) if pair != ("qlora", "zero3")],
)
def test_two_ranks_go_on_to_the_same_weights(
    mode: str,
    config: str | None,
    flags: Flags,
    whole: Any,
    root: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    more = f"--deepspeed {root / 'deepspeed_configs' / config}.json" if config else ""
    output = tmp_path / "run"
    code, text = train(flags(mode, output, more), tmp_path / "out", ranks=2, wound=at_step(3, die))
    assert code != 0, text
    assert (output / "checkpoint-2").is_dir(), text
    code, text = train(flags(mode, output, f"{more} --resume auto"), tmp_path / "out", ranks=2)
    assert code == 0, text
    assert_same_run(whole(mode, more, 2), output)
    assert_trained(output, 6)
    if mode == "full":
        capfd.readouterr()
        load(output / "checkpoint-4", device="cpu")
        said = "".join(capfd.readouterr())
        assert "UNEXPECTED" not in said and "MISSING" not in said, said


@pytest.mark.slow
def test_sigterm_on_one_of_two_ranks_saves_on_both(flags: Flags, tmp_path: Path) -> None:
    output = tmp_path / "run"
    run = start(flags("lora", output), tmp_path / "out", ranks=2, wound=at_step(3, told_to_stop))
    assert run.wait() == 75, run.text
    assert (output / "checkpoint-3" / "rng_state_1.pth").is_file(), run.text
