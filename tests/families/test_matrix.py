"""Families x modes x engines at tiny size: every run trains, engines agree, and a table of all of it is printed."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from llava_finetune.model.loading import load
from tests.families.cells import (
    CROSSED,
    ENGINES,
    FAMILIES,
    MODES,
    OURS,
    QUANTISED,
    STEPS,
    Cell,
    cells,
    job,
    possible,
    table,
)
from tests.oracle.runs import Done, Job, largest_difference, largest_relative, run_jobs, weights

AGREE = {"fp32": 1e-4, "bf16": 2e-2}
IN_BF16 = ("LoRA",)
BF16 = " / bf16"
CELLS = cells()
REFUSED = [Cell(CROSSED, mode, engine) for mode in MODES for engine in ENGINES if not possible(mode, engine)]


@pytest.fixture(scope="module")
def runs(models: dict[str, Path], data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Done]:
    """Every run of this file, in one process tree: its start costs more than ten trainings.

    One-process LoRA runs come first, because `continued` goes on from them.
    """
    work = tmp_path_factory.mktemp("matrix")
    first = {family: _earlier(family, models, data, work) for family in FAMILIES}
    folders = {family: made.output for family, made in first.items()}
    jobs = [job(cell, models, data, work / "fp32", folders) for cell in CELLS + REFUSED]
    in_bf16 = [job(cell, models, data, work / "bf16", {}, "bf16") for cell in CELLS if _is_in_bf16(cell)]
    jobs += [replace(made, name=made.name + BF16) for made in in_bf16]
    return run_jobs("ours", [*first.values(), *jobs], work / "jobs")


def _is_in_bf16(cell: Cell) -> bool:
    """The mode that is trained most, on every engine of the crossed family."""
    return cell.family == CROSSED and cell.mode in IN_BF16


def _earlier(family: str, models: Mapping[str, Path], data: Path, work: Path) -> Job:
    made = job(Cell(family, "LoRA", "one process"), models, data, work / "earlier", {})
    return replace(made, name=Cell(family, "LoRA", "earlier").name)


def test_the_matrix_covers_every_pair() -> None:
    for family in FAMILIES:
        assert {cell.mode for cell in CELLS if cell.family == family} == set(MODES)
        assert {cell.engine for cell in CELLS if cell.family == family} == set(ENGINES), family
    crossed = {(cell.mode, cell.engine) for cell in CELLS if cell.family == CROSSED}
    assert REFUSED
    assert len(crossed) == len(MODES) * len(ENGINES) - 2 * len(QUANTISED)


@pytest.mark.slow
@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: cell.name)
def test_a_cell_trains(cell: Cell, runs: dict[str, Done]) -> None:
    done = runs[cell.name].require()
    assert len(done.losses) == STEPS
    assert all(math.isfinite(loss) and loss > 0 for loss in done.losses), done.losses
    if "--lora_enable" in MODES[cell.mode]:
        assert "adapters moved" in done.log


def largest_gap(mode: str, runs: Mapping[str, Done], precision: str = "") -> float:
    """The largest relative difference of any engine's losses to those of one process, for the crossed family."""
    one = runs[Cell(CROSSED, mode, "one process").name + precision].require()
    others = [cell for cell in CELLS if (cell.family, cell.mode) == (CROSSED, mode) and cell.engine != "one process"]
    for cell in others:
        assert set(weights(runs[cell.name + precision].require().output)) == set(weights(one.output)), cell
    return max(largest_relative(runs[cell.name + precision].losses, one.losses) for cell in others)


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
def test_engines_agree(mode: str, runs: dict[str, Done], note: Callable[[str], None]) -> None:
    """Same data, same seed: same losses in fp32, and the same tensors saved."""
    gap = largest_gap(mode, runs)
    note(f"engines, {mode}: losses within {gap:.1e} relative of one process (fp32)")
    assert gap < AGREE["fp32"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mode", "engine", "alone"), [("LoRA", "ZeRO-2", "earlier"), ("QLoRA 4-bit", "DDP", "one process")]
)
def test_two_processes_train_a_language_model_of_ours_as_one(
    mode: str, engine: str, alone: str, runs: dict[str, Done], note: Callable[[str], None]
) -> None:
    two, one = (runs[Cell(OURS, mode, which).name].require() for which in (engine, alone))
    losses, apart = (
        largest_relative(two.losses, one.losses),
        largest_difference(weights(two.output), weights(one.output)),
    )
    note(f"{OURS}, {mode}, {engine}: losses within {losses:.1e}, weights {apart:.1e} of one process (fp32)")
    assert losses < AGREE["fp32"] and apart < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("mode", IN_BF16)
def test_engines_agree_in_bf16_but_for_its_noise(mode: str, runs: dict[str, Done], note: Callable[[str], None]) -> None:
    gap = largest_gap(mode, runs, BF16)
    note(f"engines, {mode}: losses within {gap:.1e} relative of one process (bf16)")
    assert gap < AGREE["bf16"]


@pytest.mark.slow
def test_the_table_is_printed(runs: dict[str, Done], note: Callable[[str], None]) -> None:
    shown = {cell: f"{runs[cell.name].require().losses[-1]:.4f}" for cell in CELLS}
    text = table(shown)
    note(text)
    assert len(text.splitlines()) == 2 + len(FAMILIES) * (1 + len(MODES))
    assert text.count("refused") == 1 + len(FAMILIES) * len(QUANTISED) * 2


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("mode", ["LoRA", "rsLoRA, projector lr"])
def test_merged_weights_are_w_plus_scaled_b_a(
    mode: str, engine: str, runs: dict[str, Done], models: dict[str, Path]
) -> None:
    done = runs[Cell(CROSSED, mode, engine).name].require()
    base, adapter = weights(models[CROSSED]), weights(done.output)
    merged = load(str(done.output), dtype="fp32", device="cpu").model.state_dict()
    scale = 16 / math.sqrt(8) if "rsLoRA" in mode else 16 / 8
    checked = 0
    for name, value in adapter.items():
        if "lora_A" not in name:
            continue
        target = name.removeprefix("base_model.model.").replace(".lora_A.weight", ".weight")
        expected = base[target] + scale * adapter[name.replace("lora_A", "lora_B")] @ value
        assert (merged[target] - expected).abs().max() < 1e-6, target
        assert (merged[target] - base[target]).abs().max() > 0, target
        checked += 1
    assert checked == 2 * 7


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("mode", ["full, tower lr", "LoRA, tower lr", "LoRA in tower"])
def test_a_tuned_tower_is_saved_and_reloaded(
    mode: str, engine: str, runs: dict[str, Done], models: dict[str, Path]
) -> None:
    done = runs[Cell(CROSSED, mode, engine).name].require()
    before = weights(models[CROSSED] / "clip")
    tower = load(str(done.output), dtype="fp32", device="cpu").model.get_vision_tower().vision_tower
    after = {name.removeprefix("vision_model."): value for name, value in tower.state_dict().items()}
    saved = {
        name.split("vision_tower.vision_tower.")[1].removeprefix("vision_model."): value
        for name, value in weights(done.output).items()
        if "vision_tower.vision_tower." in name and "lora" not in name
    }
    moved = {
        name: (after[name.removeprefix("vision_model.")] - value).abs().max().item() for name, value in before.items()
    }
    # The layer behind the selected one, the pooled output's norm and keys' biases get no gradient.
    first = [name for name in moved if "layers.0" in name and name.endswith("proj.weight")]
    assert first and all(moved[name] > 0 for name in first), moved
    if mode != "LoRA in tower":
        assert saved
        assert all((after[name] - value).abs().max() == 0 for name, value in saved.items())
        # At its own rate of 1e-4 two steps of Adam move a weight by at most about twice that.
        assert max(moved.values()) < 4e-4, moved


@pytest.mark.slow
@pytest.mark.parametrize("family", [name for name in FAMILIES if name.startswith("1.6")])
def test_anyres_trains_and_saves_image_newline(family: str, runs: dict[str, Done], models: dict[str, Path]) -> None:
    import json

    base = weights(models[family])["model.image_newline"]
    for mode in ("LoRA", "full", "pretrain"):
        done = next(run for name, run in runs.items() if name.startswith(f"{family} / {mode} / ")).require()
        saved = [value for name, value in weights(done.output).items() if name.endswith("image_newline")]
        assert len(saved) == 1, (mode, list(weights(done.output)))
        assert (saved[0] - base).abs().max() > 1e-5, mode
        config = json.loads((done.output / "config.json").read_text())
        before = json.loads((models[family] / "config.json").read_text())
        for key in ("mm_patch_merge_type", "image_aspect_ratio", "image_grid_pinpoints", "mm_vision_select_layer"):
            assert config[key] == before[key], (mode, key)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_a_continued_adapter_starts_from_the_earlier_projector(family: str, runs: dict[str, Done]) -> None:
    """Its first loss is below the earlier run's first, which a fresh adapter and the base's projector would give."""
    earlier = runs[Cell(family, "LoRA", "earlier").name].require()
    name = next(name for name in runs if name.startswith(f"{family} / continued"))
    continued = runs[name].require()
    assert continued.losses[0] < earlier.losses[0] - 1e-3
    start, end = weights(earlier.output), weights(continued.output)
    # Two more steps of Adam at 1e-3 are at most about 2e-3 away; a fresh projector or adapter is further.
    assert largest_difference(start, end) < 4e-3


@pytest.mark.slow
@pytest.mark.parametrize("cell", REFUSED, ids=lambda cell: cell.name)
def test_quantised_weights_under_zero3_are_refused(cell: Cell, runs: dict[str, Done]) -> None:
    done = runs[cell.name]
    assert done.code == 2
    assert "with ZeRO-3: quantised weights cannot be partitioned; use deepspeed_configs/zero2.json" in done.log
