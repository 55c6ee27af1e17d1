"""Out of memory is not the end: the step is redone in halves, and the loss curve is the undisturbed one."""

from __future__ import annotations

import functools
import itertools
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from llava_finetune.errors import OutOfMemoryError
from llava_finetune.launching import relaunch
from llava_finetune.model.allocation import halves, is_out_of_memory
from tests.fixtures.environments import no_rank
from tests.fixtures.forked_deepspeed import run_script
from tests.oracle.runs import ROOT, Done, Job, largest_difference, largest_relative, run_jobs, weights

LORA = ["--lora_enable", "True", "--lora_r", "8", "--lora_alpha", "16"]
ONCE = Path(__file__).parent / "once_out_of_memory.py"
IN_FORWARD = Path(__file__).parent / "once_out_of_memory_in_forward.py"


@pytest.fixture(scope="module")
def runs(models: dict[str, Path], data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Done]:
    work = tmp_path_factory.mktemp("memory")
    shared = [
        "--model_name_or_path", models["llava-1.5"], "--version", "v1", "--image_folder", data, "--data_path",
        data / "mixed.json", "--max_steps", "4", "--gradient_accumulation_steps", "2", "--learning_rate", "1e-3",
        "--lr_scheduler_type", "constant", "--lora_dropout", "0", "--logging_steps", "1", "--save_strategy", "no",
        "--report_to", "none", "--precision", "fp32", "--gradient_checkpointing", "False", "--check_data", "False",
        "--adam_epsilon", "1e-3",
    ]  # fmt: skip
    batch = "--per_device_train_batch_size"
    zero2 = ROOT / "deepspeed_configs" / "zero2.json"
    jobs = [
        Job("calm", [*shared, *LORA, batch, "4"], work / "calm"),
        Job("once", [*shared, *LORA, batch, "4"], work / "once", before=ONCE),
        Job("calm full", [*shared, batch, "3"], work / "calm-full"),
        Job("once full", [*shared, batch, "3"], work / "once-full", before=ONCE),
        Job("one record", [*shared, *LORA, batch, "1"], work / "one", before=ONCE),
        Job("two ranks", [*shared, *LORA, batch, "4", "--deepspeed", zero2], work / "two", 2, before=ONCE),
        *(
            Job(
                f"{name}, {kind}",
                [*flags, batch, "4", "--gradient_accumulation_steps", "1"],
                work / name / kind,
                2,
                before=before,
            )
            for name, flags in (("zero2", [*shared, *LORA, "--deepspeed", zero2]), ("ddp", [*shared, *LORA]))
            for kind, before in (("calm", None), ("once", IN_FORWARD))
        ),
    ]
    return run_jobs("ours", jobs, work / "jobs")


@pytest.mark.slow
@pytest.mark.parametrize(("calm", "once"), [("calm", "once"), ("calm full", "once full")])
def test_the_run_goes_on_with_the_same_losses_and_weights(calm: str, once: str, runs: dict[str, Done]) -> None:
    expected, got = runs[calm].require(), runs[once].require()
    batch, per_device = (4, 2) if calm == "calm" else (3, 2)
    assert f"step 2: out of memory (CUDA out of memory. Tried to allocate 2.00 GiB). The batch of {batch}" in got.log
    assert f"goes on in 2 parts: {per_device} per device, accumulation 4, the same global batch and order" in got.log
    loss = largest_relative(got.losses, expected.losses)
    weight = largest_difference(weights(got.output), weights(expected.output))
    print(f"out of memory, {calm}: loss {loss:.1e} relative, weights {weight:.1e}")
    assert loss < 1e-5 and weight < 1e-6


@pytest.mark.slow
def test_one_record_that_does_not_fit_says_what_helps(runs: dict[str, Done]) -> None:
    done = runs["one record"]
    assert done.code == 1
    assert "step 2: out of memory with one record at a time" in done.log
    assert "--gradient_checkpointing True, a smaller --model_max_length, --bits 4" in done.log
    assert "checkpoint-1 is saved, the last whole step" in done.log and (done.output / "checkpoint-1").is_dir()
    assert "Traceback" not in done.log


@pytest.mark.slow
def test_ranks_end_together_and_name_the_flags_to_go_on_with(runs: dict[str, Done]) -> None:
    done = runs["two ranks"]
    assert done.code == OutOfMemoryError.exit_code
    # It ran out behind DeepSpeed's step: the weights are those of step 2 already, and no checkpoint says otherwise.
    assert not list(done.output.glob("checkpoint-*"))
    assert "--resume auto --per_device_train_batch_size 2 --gradient_accumulation_steps 4" in done.log


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["zero2", "ddp"])
def test_a_rank_whose_forward_pass_does_not_fit_goes_on_in_the_same_step(engine: str, runs: dict[str, Done]) -> None:
    """Nothing is restarted and the other rank notices nothing: curve and weights are the undisturbed run's."""
    expected, got = runs[f"{engine}, calm"].require(), runs[f"{engine}, once"].require()
    assert "rank 1: out of memory in the forward pass" in got.log and "rank 0: out of memory" not in got.log
    assert "Its batch of 4 goes on in 2 parts" in got.log and "Its batch of 4 goes on in 4 parts" in got.log
    loss = largest_relative(got.losses, expected.losses)
    weight = largest_difference(weights(got.output), weights(expected.output))
    print(f"out of memory in one rank's forward pass, {engine}: loss {loss:.1e} relative, weights {weight:.1e}")
    assert loss < 1e-5 and weight < 1e-6


def test_halves_keep_the_order_and_leave_none_out() -> None:
    assert halves([5, 3, 9, 1, 7], 2) == [[5, 3], [9, 1, 7]]
    assert halves([5, 3, 9], 4) == [[5], [3], [9]]
    assert halves([1], 2) == [[1]]


def test_only_memory_errors_are_taken_for_memory_errors() -> None:
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert is_out_of_memory(RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried ..."))
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))


def out_of_memory_once(marks: Path, fail_at: int) -> None:
    """In a rank: the backward of number `fail_at` runs out of memory, unless it has done so in an earlier start."""
    mark = marks / os.environ["RANK"]
    if mark.exists():
        return
    from accelerate import Accelerator

    backward, calls = Accelerator.backward, itertools.count(1)

    def fail_once(self: Any, loss: Any, **keywords: Any) -> None:
        if next(calls) == fail_at:
            mark.touch()
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        backward(self, loss, **keywords)  # under DeepSpeed the optimizer's step too

    Accelerator.backward = fail_once


def launched(folder: Path, models: dict[str, Path], data: Path, ranks: int, fail_at: int, *flags: str) -> Any:
    """The LoRA launcher, four steps of four records, out of memory at the backward of number `fail_at` (0: never)."""
    folder.mkdir()
    environment = no_rank(
        MODEL=str(models["llava-1.5"]),
        DATA=str(data / "captions.json"),
        IMAGES=str(data),
        OUTPUT=str(folder / "run"),
        NUM_GPUS=str(ranks),
        PER_GPU_BATCH="2",
        GLOBAL_BATCH="4",
        DS_ACCELERATOR="cpu",
    )
    small = "--max_steps 4 --dataloader_num_workers 0 --gradient_checkpointing False --check_data False"
    same = "--lora_dropout 0 --precision fp32 --learning_rate 1e-3 --lr_scheduler_type constant"
    command = ["bash", str(ROOT / "scripts" / "finetune_lora.sh"), *f"{small} {same}".split(), *flags]
    done = run_script(command, environment, folder, functools.partial(out_of_memory_once, folder, fail_at))
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done


def losses(folder: Path) -> list[float]:
    rows = [json.loads(line) for line in (folder / "run/log.jsonl").read_text().splitlines()]
    rows = [row for row in rows if "loss" in row]
    assert [row["step"] for row in rows] == [1, 2, 3, 4], "every step is there once"
    return [row["loss"] for row in rows]


@pytest.mark.slow(seconds=40)
def test_a_launcher_starts_ranks_again_with_half_the_batch_and_the_curve_is_the_undisturbed_one(
    models: dict[str, Path], data: Path, tmp_path: Path, operators: None
) -> None:
    """The last whole step is saved, and the run goes on from it."""
    launched(tmp_path / "calm", models, data, 1, 0)
    done = launched(tmp_path / "two", models, data, 2, 3, "--save_steps", "500")
    again = "# out of memory: once more, from the last checkpoint, with --per_device_train_batch_size 1"
    assert f"{again} --gradient_accumulation_steps 2" in done.stdout
    assert f"going on from {tmp_path / 'two' / 'run' / 'checkpoint-2'}" in done.stdout
    assert largest_relative(losses(tmp_path / "two"), losses(tmp_path / "calm")) < 1e-5
    assert (tmp_path / "two/run/adapter_config.json").is_file()


def test_the_batch_is_halved_until_it_fits_or_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    started = []

    def run(command: Sequence[str], environment: Mapping[str, str], failure: Path | None) -> int:
        started.append(list(command))
        return OutOfMemoryError.exit_code

    monkeypatch.setattr(relaunch, "run", run)
    assert relaunch.run_until_it_fits(["train"], {}, batch=6, accumulation=2) == OutOfMemoryError.exit_code
    batches = [(command[-3], command[-1]) for command in started[1:]]
    assert batches == [("3", "4"), ("1", "12")], "every step keeps its twelve records"


def test_launchers_on_two_machines_read_how_a_try_ended_from_a_disk_that_both_see(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second try's file is another one: a launcher that is late still reads of the first."""
    (tmp_path / ".failure-1.json").write_text("an earlier run's")
    seen = []

    def run(command: Sequence[str], environment: Mapping[str, str], failure: Path | None) -> int:
        assert failure is not None and not failure.exists()
        seen.append(failure.name)
        return OutOfMemoryError.exit_code if len(seen) == 1 else 0

    monkeypatch.setattr(relaunch, "run", run)
    assert relaunch.run_until_it_fits(["train"], {}, batch=2, accumulation=1, shared=tmp_path) == 0
    assert seen == [".failure-1.json", ".failure-2.json"]
