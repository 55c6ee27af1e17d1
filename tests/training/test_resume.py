"""A run that was interrupted and resumed is the run that was not: same data, same losses, same weights, bit for bit."""

from __future__ import annotations

import functools
import itertools
import json
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llava_finetune.model.loading import load
from tests.training.conftest import MODES, assert_same_run, assert_trained
from tests.training.forked import at_step, die, late, start, told_to_stop, train

Flags = Callable[..., list[str]]


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


def test_the_order_by_length_of_a_later_epoch_is_drawn_from_the_random_state_that_it_began_with(
    flags: Flags, whole: Any, tmp_path: Path
) -> None:
    """In the first epoch a resumed run would draw the same order by itself, from the seed."""
    more = "--group_by_modality_length True --max_steps 9 --save_steps 7"
    output = tmp_path / "run"
    assert train(flags("lora", output, more), tmp_path / "out", wound=at_step(8, die))[0] == -9
    code, text = train(flags("lora", output, f"{more} --resume auto"), tmp_path / "out")
    assert code == 0 and "checkpoint-7" in text, text
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


def test_a_rank_that_is_late_at_every_meeting_finds_what_the_first_one_wrote(flags: Flags, tmp_path: Path) -> None:
    """Two seconds late at its start, and each time after the first rank has looked at the folder and written to it."""
    output = tmp_path / "run"
    code, text = train(flags("lora", output, "--max_steps 2"), tmp_path / "out", ranks=2, wound=late(2.0))
    assert code == 0, text
    assert_trained(output, 2)
    code, text = train(flags("lora", output, "--max_steps 2"), tmp_path / "out", ranks=2, wound=late(0.5))
    assert code == 1 and text.count("already holds something") >= 1, text
    code, text = train(flags("lora", output, "--max_steps 2 --resume auto"), tmp_path / "out", 2, late(0.5))
    assert code == 0 and "is finished at step 2 already" in text, text


@pytest.mark.slow
def test_sigterm_on_one_of_two_ranks_saves_on_both(flags: Flags, tmp_path: Path) -> None:
    output = tmp_path / "run"
    run = start(flags("lora", output), tmp_path / "out", ranks=2, wound=at_step(3, told_to_stop))
    assert run.wait() == 75, run.text
    assert (output / "checkpoint-3" / "rng_state_1.pth").is_file(), run.text
