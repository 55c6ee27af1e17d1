"""The figures of the how-tos are what `plan` says: a line of a table that differs is printed as it should stand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from llava_finetune.machine import GB
from llava_finetune.planning.disk_and_time import SET_UP
from llava_finetune.planning.from_config import read_shape
from llava_finetune.planning.memory import ALLOCATOR, estimate, host_ram
from llava_finetune.planning.memory import REPLAYED as REPLAYED_SHARES
from llava_finetune.planning.proposals import max_length, propose, read_gpus
from llava_finetune.planning.setting import Setting

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
NAMES = {
    "LLaVA-1.5 7B": "liuhaotian/llava-v1.5-7b",
    "LLaVA-1.5 13B": "liuhaotian/llava-v1.5-13b",
    "LLaVA-1.6 Mistral 7B": "liuhaotian/llava-v1.6-mistral-7b",
    "LLaVA-1.6 34B": "liuhaotian/llava-v1.6-34b",
    "TinyLlama LLaVA 1.1B": "bczhou/tiny-llava-v1-hf",
}
MODES = {"LoRA": "lora", "QLoRA": "qlora", "full": "full", "stage 1": "pretrain"}


def wanted(model: str, mode: str, num_gpus: int = 1) -> tuple[Setting, str]:
    """The setting of `LoRA r 64`, and the model's id."""
    name, _, rank = mode.partition(" r ")
    shape = read_shape(NAMES[model])
    return Setting(MODES[name], num_gpus, rank=int(rank or 128), max_length=max_length(shape)), NAMES[model]


def gigabytes(size: float) -> str:
    return f"{size / GB:.1f}"


def on_24_gb(model: str, mode: str) -> str:
    setting, name = wanted(model, mode)
    found = propose(read_shape(name), setting, 24 * GB, 128)
    assert found is not None
    sizes, kept = found.estimate, found.estimate.adapters + found.estimate.gradients + found.estimate.optimizer
    values = [gigabytes(size) for size in (sizes.weights, kept, sizes.activations, sizes.total)]
    return f"| {model} | {mode} | {found.setting.batch} | {' | '.join(values)} |"


def on_t4(model: str, mode: str) -> str:
    setting, name = wanted(model, mode)
    size = estimate(read_shape(name), replace(setting, batch=1, checkpointing=True, stage=0)).total
    return f"| {model} | {mode} | {gigabytes(size)} GB |"


def of_34b(gpus: str, mode: str) -> str:
    number, size = read_gpus(gpus)
    setting, name = wanted("LLaVA-1.6 34B", mode, number)
    shape = read_shape(name)
    found = propose(shape, setting, size, 128)
    assert found is not None
    sizes, kept = found.estimate, found.estimate.adapters + found.estimate.gradients + found.estimate.optimizer
    stage = f"{found.setting.stage}{' + CPU offload' if found.setting.offload else ''}"
    weights = "in RAM" if not sizes.weights else gigabytes(sizes.weights)
    values = [weights, *(gigabytes(part) for part in (kept, sizes.activations, sizes.total))]
    ram = round(host_ram(shape, found.setting, on_gpu=True) / GB)
    cards = f"{number} x {size // GB} GB"
    return f"| {cards} | {mode} | {stage} | {found.setting.batch} | {' | '.join(values)} | {ram} |"


LINES = [
    ("24gb.md", on_24_gb, "LLaVA-1.5 7B", "LoRA r 128"),
    ("24gb.md", on_24_gb, "LLaVA-1.5 7B", "QLoRA r 128"),
    ("24gb.md", on_24_gb, "LLaVA-1.5 13B", "QLoRA r 128"),
    ("24gb.md", on_24_gb, "LLaVA-1.6 Mistral 7B", "LoRA r 128"),
    ("24gb.md", on_24_gb, "LLaVA-1.6 Mistral 7B", "QLoRA r 128"),
    ("t4.md", on_t4, "LLaVA-1.5 7B", "QLoRA r 128"),
    ("t4.md", on_t4, "LLaVA-1.5 7B", "QLoRA r 64"),
    ("t4.md", on_t4, "TinyLlama LLaVA 1.1B", "LoRA r 128"),
    ("34b.md", of_34b, "1x48GB", "QLoRA r 128"),
    ("34b.md", of_34b, "1x48GB", "LoRA r 128"),
    ("34b.md", of_34b, "8x80GB", "LoRA r 128"),
    ("34b.md", of_34b, "8x80GB", "full"),
]


@pytest.mark.parametrize(("page", "line", "what", "mode"), LINES)
def test_a_line_of_a_how_to_is_the_plans(page: str, line: Callable[[str, str], str], what: str, mode: str) -> None:
    expected = line(what, mode)
    assert expected in (DOCS / page).read_text(), f"docs/{page} should have: {expected}"


REPLAYED = [
    [cell.strip() for cell in line.strip("| ").split("|")]
    for line in (DOCS / "pretended-gpu.md").read_text().splitlines()
    if line.startswith(("| 1.5 ", "| 1.6 "))
]
"""The rows of `benchmarks/pretended_plan.py` that the page shows."""


@pytest.mark.parametrize("row", REPLAYED, ids=lambda row: ", ".join(row[:5]))
def test_no_plan_is_below_what_was_replayed(row: list[str]) -> None:
    model, mode, batch, checkpointing, accumulated, counted, seen, _, lost = row
    setting, name = wanted(f"LLaVA-{model}", mode)
    setting = replace(setting, batch=int(batch), checkpointing=checkpointing == "yes", stage=0)
    found = estimate(read_shape(name), replace(setting, accumulated=accumulated == "yes"))
    assert f"{found.tensors / GB:.2f} GB" == counted
    reserved = float(seen.split()[0]) * GB * (1 + float(lost.split()[0]) / 100)
    assert reserved <= found.tensors + found.allocator < 1.035 * reserved


def test_every_share_of_the_allocator_was_replayed_and_deepspeed_has_no_smaller_one() -> None:
    modes = {(MODES[mode.partition(" r ")[0]], checkpointing == "yes") for _, mode, _, checkpointing, *_ in REPLAYED}
    assert modes == REPLAYED_SHARES.keys()
    shape = read_shape(NAMES["LLaVA-1.5 7B"])
    for mode, checkpointing in modes:
        found = estimate(shape, Setting(mode, checkpointing=checkpointing, stage=2))
        assert found.allocator == round(max(ALLOCATOR, REPLAYED_SHARES[mode, checkpointing]) * found.tensors)


@pytest.mark.parametrize(
    ("file", "words"),
    [
        ("docs/install.md", "3 GB of disk ({} with CUDA)"),
        ("docs/training.md", "Set-up takes {} of disk with CUDA."),
        ("scripts/setup.sh", "about 3 GB are needed ({} with CUDA)"),
    ],
)
def test_the_disk_of_a_set_up_is_one_figure(file: str, words: str) -> None:
    assert words.format(SET_UP) in (ROOT / file).read_text()
