"""Families of transformers' own classes on several processes: the losses and weights of one process.

In one step a rank has a record of text alone while the other has pictures: gradients must come in the same order on
both, for ZeRO-2 adds them up in the order in which they come.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.families.cells import ENGINES
from tests.oracle.runs import ROOT, Done, Job, largest_difference, largest_relative, run_jobs, weights
from tests.tiny_families import BUILDERS, make_tiny_family

LORA = "--lora_enable True --lora_r 4 --lora_alpha 8 --lora_dropout 0 --lora_targets language,projector"
MODES = {"LoRA": LORA, "full": "", "QLoRA": f"{LORA} --bits 4"}
CELLS = [
    *((name, mode, engine) for name in BUILDERS for mode in ("LoRA", "full") for engine in ("one process", "ZeRO-2")),
    ("smolvlm", "LoRA", "DDP"),
    *(("smolvlm", "QLoRA", engine) for engine in ("one process", "ZeRO-2")),
]
"""Family, mode and engine of each run."""
BY_HAND = {("idefics", "LoRA"), ("idefics2", "LoRA"), ("llava_onevision", "LoRA"), ("idefics3", "full")}
"""Run when a person asks for them: ALL_FAMILIES=1 pytest tests/families/test_families_on_engines.py"""
RUN = [cell for cell in CELLS if cell[:2] not in BY_HAND or os.environ.get("ALL_FAMILIES")]
STEPS, AGREE = 3, 1e-4


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six records with one, several and no picture, of shapes that are cut into unlike numbers of tiles."""
    folder, random = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    for name, size in (("wide", (100, 60)), ("tall", (60, 100)), ("small", (50, 50))):
        pixels = random.integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{name}.png")
    pictures = (["wide.png"], ["tall.png", "small.png"], ["small.png"], [], ["wide.png"], ["tall.png"])
    answers = ("red", "blue, and a green one", "black", "gray", "a white square", "Yes.")
    rows = []
    for number, names in enumerate(pictures):
        turns = [
            {"from": "human", "value": "<image>\n" * len(names) + "What color is the shape?"},
            {"from": "gpt", "value": answers[number]},
        ]
        rows.append({"id": str(number), "conversations": turns, **({"image": names} if names else {})})
    (folder / "train.json").write_text(json.dumps(rows))
    return folder


@pytest.fixture(scope="module")
def runs(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Done]:
    """Every cell's run."""
    work = tmp_path_factory.mktemp("runs")
    bases = {name: make_tiny_family(work / name, name) for name in BUILDERS}
    return run_jobs("ours", list(jobs(bases, data, work)), work / "jobs")


def jobs(bases: dict[str, Path], data: Path, work: Path) -> Iterator[Job]:
    for number, (family, mode, engine) in enumerate(RUN):
        ranks, config = ENGINES[engine]
        words: list[object] = [
            "--model_name_or_path", bases[family], "--data_path", data / "train.json", "--image_folder", data,
            "--max_steps", STEPS, "--per_device_train_batch_size", 1, "--gradient_accumulation_steps", 2 // ranks,
            "--learning_rate", "1e-2", "--lr_scheduler_type", "constant", "--seed", "5", "--logging_steps", "1",
            "--save_strategy", "no", "--report_to", "none", "--gradient_checkpointing", "False", "--check_data",
            "False", "--dataloader_num_workers", "0", "--precision", "fp32", *MODES[mode].split(),
        ]  # fmt: skip
        if config:
            words += ["--deepspeed", ROOT / "deepspeed_configs" / f"{config}.json"]
        yield Job(f"{family} / {mode} / {engine}", words, work / f"run-{number}", ranks)


@pytest.mark.slow
@pytest.mark.parametrize(("family", "mode", "engine"), [cell for cell in RUN if cell[2] != "one process"])
def test_two_processes_train_as_one(family: str, mode: str, engine: str, runs: dict[str, Done]) -> None:
    one, two = (runs[f"{family} / {mode} / {which}"].require() for which in ("one process", engine))
    assert len(one.losses) == STEPS and all(math.isfinite(loss) for loss in one.losses)
    assert largest_relative(two.losses, one.losses) < AGREE, (two.losses, one.losses)
    assert largest_difference(weights(two.output), weights(one.output)) < 1e-5


def test_the_pages_table_of_engines_is_what_runs_here() -> None:
    page = (ROOT / "docs/families.md").read_text()
    head = "| two processes | DDP | ZeRO-2 |\n|---|---|---|\n"
    rows = []
    for name in BUILDERS:
        ran = [", ".join(f"{mode} by hand" if (name, mode) in BY_HAND else mode
                         for family, mode, on in CELLS if (family, on) == (name, engine)) or "not run"
               for engine in ("DDP", "ZeRO-2")]  # fmt: skip
        rows.append(f"| `{name}` | {' | '.join(ran)} |\n")
    assert head + "".join(rows) in page
