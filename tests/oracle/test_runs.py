"""Upstream's own trainer against our driver: the loss of every step and what is saved, on the same records and seed.

Upstream runs in its own process and tree, patched only for today's packages. Both get the same flags; parts with random
initial values are seeded where they are made (runner.py), because the two drivers make them at different moments.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.oracle.runs import Done, Job, largest_difference, largest_relative, run_jobs, weights
from tests.tiny import make_tiny_language_model, make_tiny_llava

STEPS = 3
# fp32: upstream runs the frozen tower in fp16 there, which moves a loss by a few parts in a million.
FP32 = 1e-4
# bf16 keeps 8 bits: one unit in the last place. Ours keeps the projector in fp32 outside DeepSpeed, upstream does not.
BF16 = 2**-8

BASES = {"v1": "llava-1.5", "llava_llama_2": "llava-llama-2", "plain": "language"}
LORA = ("--lora_enable", "True", "--lora_r", "128", "--lora_alpha", "256", "--mm_projector_lr", "2e-4")
MODES = {
    "pretrain": ("--tune_mm_mlp_adapter", "True"),
    "full": (),
    "LoRA": LORA,
    "QLoRA": (*LORA, "--bits", "4"),
}
GROUPED = ("--group_by_modality_length", "True")
STAGES = {"one process": 0, "ZeRO-2": 2, "ZeRO-3": 3}
AXES = {
    "mode": ("full", "LoRA", "QLoRA"),
    "data": ("one picture", "several pictures", "text only", "mixed"),
    "template": ("v1", "llava_llama_2"),
    "engine": tuple(STAGES),
}


@dataclass(frozen=True)
class Case:
    """One training that both drivers run; two ranks under ZeRO, else one process."""

    mode: str
    data: str
    template: str = "v1"
    engine: str = "one process"
    bf16: bool = False
    flags: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return ", ".join((self.mode, self.data, self.template, self.engine, "bf16" if self.bf16 else "fp32"))

    @property
    def ranks(self) -> int:
        return 2 if STAGES[self.engine] else 1


CASES = (
    Case("pretrain", "captions", "plain"),
    Case("pretrain", "captions", "plain", "ZeRO-2"),
    Case("pretrain", "captions", "plain", "ZeRO-3"),
    Case("full", "one picture"),
    Case("full", "mixed", flags=GROUPED),
    Case("full", "mixed", "llava_llama_2"),
    Case("full", "mixed", engine="ZeRO-2"),
    Case("full", "mixed", engine="ZeRO-3"),
    Case("full", "several pictures", engine="ZeRO-3"),
    Case("full", "text only", "llava_llama_2", "ZeRO-3"),
    Case("LoRA", "one picture", "llava_llama_2"),
    Case("LoRA", "several pictures"),
    Case("LoRA", "mixed", flags=GROUPED),
    Case("LoRA", "mixed", engine="ZeRO-2", flags=GROUPED),
    Case("LoRA", "text only", "llava_llama_2", "ZeRO-2"),
    Case("LoRA", "one picture", engine="ZeRO-3"),
    Case("QLoRA", "mixed"),
    Case("QLoRA", "text only"),
    Case("QLoRA", "one picture", engine="ZeRO-2"),
    Case("QLoRA", "several pictures", "llava_llama_2", "ZeRO-2"),
    Case("pretrain", "captions", "plain", bf16=True),
    Case("full", "mixed", bf16=True),
    Case("full", "mixed", engine="ZeRO-2", bf16=True),
    Case("LoRA", "mixed", bf16=True),
    Case("LoRA", "mixed", engine="ZeRO-3", bf16=True),
    Case("QLoRA", "mixed", bf16=True),
)


def test_the_cases_cover_every_pair_of_the_axes() -> None:
    """Projector pretraining has one template and one kind of data: it meets every engine."""
    for first, second in itertools.combinations(AXES, 2):
        wanted = set(itertools.product(AXES[first], AXES[second])) - {("QLoRA", "ZeRO-3")}  # cannot be split
        covered = {(getattr(case, first), getattr(case, second)) for case in CASES}
        assert wanted <= covered, (first, second, wanted - covered)
    assert {case.engine for case in CASES if case.mode == "pretrain"} == set(STAGES)
    assert {case.mode for case in CASES if case.bf16} == set(MODES)


def _talk(question: str, answer: str) -> list[dict[str, str]]:
    return [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Bases, pictures of many shapes, and records of each kind."""
    folder = tmp_path_factory.mktemp("oracle")
    for family in ("llava-1.5", "llava-llama-2"):
        make_tiny_llava(folder / family, family)
    make_tiny_language_model(folder / "language")
    kinds: dict[str, list[object]] = {name: [] for name in (*AXES["data"], "captions")}
    for index in range(24):
        file = f"{index}.png"
        Image.new("RGB", (40 + index * 3, 90 - index), (index * 10, 255 - index * 10, 99)).save(folder / file)
        turns = _talk(f"<image>\nwhat is {'very ' * (index % 5)}this?", f"a thing {index}") + _talk("is it?", "no")
        picture = {"id": f"p{index}", "image": file, "conversations": turns}
        text = {"id": f"t{index}", "conversations": _talk(f"how many {'and ' * (index % 7)}then?", f"it is {index}")}
        pair = [file, f"{(index + 1) % 24}.png"]
        several = {"id": f"s{index}", "image": pair, "conversations": _talk("<image>\n<image>\nthe same?", "no")}
        kinds["one picture"].append(picture)
        kinds["captions"].append(
            {"id": str(index), "image": file, "conversations": _talk("<image>\nx", f"red {index}")}
        )
        kinds["text only"].append(text)
        kinds["mixed"].append(text if index % 3 == 0 else picture)
        kinds["several pictures"].append(several if index % 2 else picture)
    for name, records in kinds.items():
        (folder / f"{name}.json").write_text(json.dumps(records))
    return folder


def _job(case: Case, work: Path, root: Path, ours: bool) -> Job:
    base = work / BASES[case.template]
    tower = work / "llava-1.5" / "clip" if case.template == "plain" else base / "clip"
    linear = case.template == "llava_llama_2"
    flags = [
        "--model_name_or_path", base, "--version", case.template, "--data_path", work / f"{case.data}.json",
        "--image_folder", work, "--vision_tower", tower, "--mm_vision_select_layer", "-2",
        "--mm_projector_type", "linear" if linear else "mlp2x_gelu", "--mm_use_im_start_end", "False",
        "--mm_use_im_patch_token", "False", "--image_aspect_ratio", "square" if linear else "pad",
        "--max_steps", STEPS, "--per_device_train_batch_size", "2",
        "--gradient_accumulation_steps", 2 // case.ranks, "--learning_rate", "1e-3", "--weight_decay", "0.01",
        "--warmup_ratio", "0.03", "--lr_scheduler_type", "cosine", "--logging_steps", "1",
        "--evaluation_strategy", "no", "--adam_epsilon", "1e-3", "--save_strategy", "no", "--report_to", "none",
        "--use_cpu", "True", "--model_max_length", "2048", "--seed", "7", "--lora_dropout", "0",
        "--gradient_checkpointing", str("LoRA" in case.mode),
        "--lazy_preprocess", "True", *MODES[case.mode], *case.flags,
    ]  # fmt: skip
    if STAGES[case.engine]:
        flags += ["--deepspeed", root / "deepspeed_configs" / f"zero{STAGES[case.engine]}.json"]
    flags += ["--bf16", "True"] if case.bf16 else (["--precision", "fp32"] if ours else [])
    if ours:
        flags += ["--check_data", "False"]
    side = "ours" if ours else "upstream"
    several = case.data == "several pictures" and not ours
    before = Path(__file__).parent / "several_pictures.py" if several else None
    return Job(
        case.name, flags, work / side / case.name.replace(", ", "-").replace(" ", "_"), case.ranks, before=before
    )


@pytest.fixture(scope="module")
def runs(work: Path, root: Path, upstream_tree: Path) -> dict[str, tuple[Done, Done]]:
    """Ours and upstream's run of every case."""
    ours = run_jobs("ours", [_job(case, work, root, True) for case in CASES], work / "ours-jobs")
    theirs = run_jobs(
        "upstream", [_job(case, work, root, False) for case in CASES], work / "upstream-jobs", upstream_tree
    )
    return {case.name: (ours[case.name], theirs[case.name]) for case in CASES}


def _tower_in_fp16(state: dict[str, Any]) -> dict[str, Any]:
    """Upstream keeps and saves the frozen tower in fp16 in its fp32 runs; ours keeps it as it came."""
    return {name: value.half().float() if "vision_tower" in name else value for name, value in state.items()}


@pytest.mark.slow(seconds=6)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_steps_loss_and_the_saved_weights_are_upstreams(
    case: Case, runs: dict[str, tuple[Done, Done]], note: Callable[[str], None]
) -> None:
    ours, theirs = runs[case.name]
    ours.require(), theirs.require()
    assert len(ours.losses) == STEPS
    # Nearly equal losses could hide a label: with random weights every token's loss is about the same.
    assert len(ours.taught) == case.ranks and all(ours.taught)
    assert ours.taught == theirs.taught
    loss = largest_relative(ours.losses, theirs.losses)
    weight = largest_difference(_tower_in_fp16(weights(ours.output)), _tower_in_fp16(weights(theirs.output)))
    note(f"oracle: {case.name:<52} loss {loss:.1e} relative, weights {weight:.1e}")
    assert loss < (BF16 if case.bf16 else FP32), (ours.losses, theirs.losses)
    # The large epsilon of Adam keeps an update in proportion to its gradient: with 1e-8 an entry without a gradient
    # would move by the learning rate in the direction of its rounding error, and nothing could be compared.
    assert weight < (1e-3 if case.bf16 else 2e-5), weight
