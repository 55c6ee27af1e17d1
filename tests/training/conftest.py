"""Tiny trainings: the tiny LLaVA and eight coloured pictures, trained for a few steps in fp32."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.training.forked import train

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 30), "blue": (30, 30, 220), "white": (240, 240, 240)}
COMMON = (
    "--precision fp32 --learning_rate 2e-3 --per_device_train_batch_size 2 --save_steps 2 --max_steps 6 --seed 7 "
    "--gradient_checkpointing False --dataloader_num_workers 0 --version v1 --check_data False"
)
WEIGHTS = ("adapter_model.safetensors", "non_lora_trainables.bin", "model.safetensors", "mm_projector.bin")
Flags = Callable[..., list[str]]
MODES = {
    "lora": "--lora_enable True --lora_r 8 --lora_alpha 16 --lora_dropout 0.1",
    "full": "",
    "qlora": "--lora_enable True --lora_r 8 --lora_alpha 16 --lora_dropout 0.1 --bits 4",
    "pretrain": "--tune_mm_mlp_adapter True --version plain",
}


@pytest.fixture(scope="session", autouse=True)
def imported(ready_to_fork: None) -> None:
    """Every test here may fork a training."""


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """train.json (10 questions on 8 pictures and text), captions.json and eval.json, beside their pictures."""
    folder = tmp_path_factory.mktemp("data")
    questions, captions = [], []
    for index in range(8):
        name = list(COLOURS)[index % 4]
        Image.new("RGB", (56, 40 + 4 * index), COLOURS[name]).save(folder / f"{index}.png")
        questions.append(record(f"q-{index}", "<image>\nwhat colour?", name, image=f"{index}.png"))
        captions.append(record(f"c-{index}", "<image>", f"a {name} picture", image=f"{index}.png"))
    questions += [record("t-0", "two and two?", "four"), record("t-1", "is it " + "very " * 9 + "late?", "no")]
    (folder / "train.json").write_text(json.dumps(questions))
    (folder / "captions.json").write_text(json.dumps(captions))
    (folder / "eval.json").write_text(json.dumps([*questions[:5], questions[8]]))
    (folder / "odd.json").write_text(json.dumps([*questions[:4], questions[8]]))
    (folder / "probe.json").write_text(json.dumps(questions[8:]))
    return folder


def record(name: str, question: str, answer: str, **more: Any) -> dict[str, Any]:
    """A human/gpt record of one turn."""
    turns = [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
    return {"id": name, "conversations": turns, **more}


@pytest.fixture
def flags(tiny: Path, data: Path) -> Callable[..., list[str]]:
    """The command line of a mode: `flags("lora", output, "--max_steps 4")`."""

    def make(mode: str, output: Path, more: str = "") -> list[str]:
        records = "captions.json" if mode == "pretrain" else "train.json"
        where = f"--model_name_or_path {tiny} --data_path {data / records} --image_folder {data} --output_dir {output}"
        return f"{where} {COMMON} {MODES[mode]} {more}".split()

    return make


def rows_of(output: Path) -> list[dict[str, Any]]:
    """The rows of a run's log.jsonl."""
    return [json.loads(line) for line in (output / "log.jsonl").read_text().splitlines()]


def tensors(folder: Path) -> dict[str, Any]:
    """Every trained tensor of a result."""
    import torch
    from safetensors.torch import load_file

    found: dict[str, Any] = {}
    for name in WEIGHTS:
        path = folder / name
        if path.is_file():
            state = load_file(path) if path.suffix == ".safetensors" else torch.load(path, weights_only=True)
            found |= {f"{name}/{key}": value for key, value in state.items()}
    assert found, f"{folder}: no weights"
    return found


def assert_same_run(one: Path, other: Path) -> None:
    """Same rows and same weights, to the bit."""
    import torch

    keys = ("step", "loss", "grad_norm", "learning_rate")
    numbers = [[[row[key] for key in keys] for row in rows_of(path) if "loss" in row] for path in (one, other)]
    assert numbers[0] == numbers[1]
    first, second = tensors(one), tensors(other)
    assert first.keys() == second.keys()
    different = [name for name in first if not torch.equal(first[name], second[name])]
    assert not different, different[:5]


def begun(whole: Path, step: int, folder: Path) -> Path:
    """`folder` as a run leaves it that was killed after the checkpoint of a step; `whole`: that run, not killed."""
    shutil.copytree(whole / f"checkpoint-{step}", folder / f"checkpoint-{step}")
    shutil.copy(whole / "log.jsonl", folder)
    return folder


def assert_same_random_state(one: Path, other: Path) -> None:
    """Two checkpoints draw the same numbers from now on: Python's, NumPy's and torch's."""
    import numpy as np
    import torch

    first, second = (torch.load(folder / "rng_state.pth", weights_only=False) for folder in (one, other))
    assert first["python"] == second["python"] and torch.equal(first["cpu"], second["cpu"])
    assert all(np.array_equal(*pair) for pair in zip(first["numpy"], second["numpy"], strict=True))


def assert_trained(output: Path, steps: int) -> None:
    losses = [row["loss"] for row in rows_of(output) if "loss" in row]
    assert len(losses) == steps
    assert all(math.isfinite(loss) and loss > 0 for loss in losses)


@pytest.fixture(scope="session")
def whole_runs() -> dict[str, Path]:
    """Uninterrupted runs, by their mode, made once."""
    return {}


@pytest.fixture
def whole(flags: Flags, whole_runs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    def make(mode: str, more: str = "", ranks: int = 1) -> Path:
        key = f"{mode} {more} {ranks}"
        if key not in whole_runs:
            folder = tmp_path_factory.mktemp("whole")
            code, text = train(flags(mode, folder / "run", f"--save_total_limit 9 {more}"), folder / "out", ranks)
            assert code == 0, text
            whole_runs[key] = folder / "run"
        return whole_runs[key]

    return make
