"""A rank runs out of memory where the step cannot be redone: all ranks save the last step, and the run goes on."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from llava_finetune.errors import OutOfMemoryError
from tests.training.conftest import Flags, rows_of, tensors
from tests.training.forked import memory_ends, train

CONFIGS = Path(__file__).parents[2] / "deepspeed_configs"
# Grouped batches are drawn anew in every epoch, from torch's random state.
MORE = "--save_steps 100 --lora_dropout 0 --adam_epsilon 1e-3 --group_by_modality_length True"
HALF = "--resume auto --per_device_train_batch_size 1 --gradient_accumulation_steps 2"


@pytest.mark.parametrize(
    ("mode", "engine", "ranks", "where", "step"),
    [
        ("lora", "ddp", 2, "backward", 5),  # the first of an epoch
        ("lora", "zero2", 1, "backward", 5),
        ("full", "zero2", 2, "backward", 4),
        ("lora", "zero3", 2, "backward", 4),
        ("full", "zero3", 2, "forward", 5),
    ],
)
def test_the_last_whole_step_is_saved_and_the_curve_is_the_undisturbed_one(
    mode: str,
    engine: str,
    ranks: int,
    where: str,
    step: int,
    flags: Flags,
    data: Path,
    whole: Callable[..., Path],
    tmp_path: Path,
) -> None:
    # Records that teach as many tokens as each other: the mean over two micro-batches is the mean over both.
    records = json.loads((data / "captions.json").read_text())
    for one in records:
        one["conversations"][1]["value"] = "a red picture"
    (tmp_path / "same.json").write_text(json.dumps(records))
    more = f"{MORE} --data_path {tmp_path}/same.json"
    more += "" if engine == "ddp" else f" --deepspeed {CONFIGS / engine}.json"
    output = tmp_path / "run"
    code, text = train(flags(mode, output, more), tmp_path / "out", ranks, memory_ends(step, where))
    assert code == OutOfMemoryError.exit_code, text
    last = f"checkpoint-{step - 1}"
    assert f"{last} is saved, the last whole step" in text
    assert [path.name for path in output.glob("checkpoint-*")] == [last]
    assert not list(output.glob(".saving/*"))

    code, text = train(flags(mode, output, f"{more} {HALF}"), tmp_path / "out", ranks)
    assert code == 0, text
    assert f"going on from {output / last}" in text
    calm = whole(mode, more.replace("--save_steps 100", ""), ranks)
    assert_close(output, calm)


def assert_close(one: Path, other: Path) -> None:
    """Same losses and weights but for the order in which numbers are added up."""
    first, second = ([row["loss"] for row in rows_of(path) if "loss" in row] for path in (one, other))
    assert len(first) == len(second) == 6
    assert first == pytest.approx(second, rel=1e-5)
    ours, theirs = tensors(one), tensors(other)
    assert ours.keys() == theirs.keys()
    assert max(float((ours[name] - theirs[name]).abs().max()) for name in ours) < 1e-5
