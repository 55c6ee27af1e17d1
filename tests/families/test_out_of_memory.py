"""Out of memory is not the end: the step is redone in halves, and the loss curve is the undisturbed one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from llava_finetune.out_of_memory import halves, is_out_of_memory
from tests.oracle.runs import Done, Job, largest_difference, largest_relative, run_jobs, weights

LORA = ["--lora_enable", "True", "--lora_r", "8", "--lora_alpha", "16"]
ONCE = Path(__file__).parent / "once_out_of_memory.py"


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
    zero2 = Path(__file__).parents[2] / "deepspeed_configs" / "zero2.json"
    jobs = [
        Job("calm", [*shared, *LORA, batch, "4"], work / "calm"),
        Job("once", [*shared, *LORA, batch, "4"], work / "once", before=ONCE),
        Job("calm full", [*shared, batch, "3"], work / "calm-full"),
        Job("once full", [*shared, batch, "3"], work / "once-full", before=ONCE),
        Job("one record", [*shared, *LORA, batch, "1"], work / "one", before=ONCE),
        Job("two ranks", [*shared, *LORA, batch, "4", "--deepspeed", zero2], work / "two", 2, before=ONCE),
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
    assert "Traceback" not in done.log


@pytest.mark.slow
def test_ranks_end_together_and_name_the_flags_to_go_on_with(runs: dict[str, Done]) -> None:
    done = runs["two ranks"]
    assert done.code == 1
    assert "--resume auto --per_device_train_batch_size 2 --gradient_accumulation_steps 4" in done.log


def test_halves_keep_the_order_and_leave_none_out() -> None:
    assert halves([5, 3, 9, 1, 7], 2) == [[5, 3], [9, 1, 7]]
    assert halves([5, 3, 9], 4) == [[5], [3], [9]]
    assert halves([1], 2) == [[1]]


def test_only_memory_errors_are_taken_for_memory_errors() -> None:
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert is_out_of_memory(RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried ..."))
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
