"""The matrix of families, modes and engines: which runs there are, and with which flags.

One family is crossed in full; for the others every pair of family and mode, family and engine is run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.oracle.runs import ROOT, Job

STEPS = 2
LORA = ("--lora_enable", "True", "--lora_r", "8", "--lora_alpha", "16")

MODES: Mapping[str, tuple[str, ...]] = {
    "pretrain": ("--tune_mm_mlp_adapter", "True"),
    "full": (),
    "full, tower lr": ("--tune_vision_tower", "True", "--vision_tower_lr", "1e-4"),
    "frozen backbone": ("--freeze_backbone", "True"),
    "LoRA": LORA,
    "QLoRA 4-bit": (*LORA, "--bits", "4"),
    "LoRA 8-bit": (*LORA, "--bits", "8"),
    "LoRA in tower": (*LORA, "--lora_targets", "language,vision"),
    "LoRA, tower lr": (*LORA, "--tune_vision_tower", "True", "--vision_tower_lr", "1e-4"),
    "projector adapted": (*LORA, "--lora_targets", "language.attention,projector"),
    "DoRA, projector frozen": (*LORA, "--use_dora", "True", "--freeze_mm_mlp_adapter", "True"),
    "rsLoRA, projector lr": (*LORA, "--use_rslora", "True", "--mm_projector_lr", "1e-4"),
    "continued": (*LORA, "--init_lora", "{earlier}"),
}
ENGINES: Mapping[str, tuple[int, str | None]] = {
    "one process": (1, None),
    "DDP": (2, None),
    "ZeRO-2": (2, "zero2"),
    "ZeRO-3": (2, "zero3"),
    "ZeRO-2 offload": (2, "zero2_offload"),
    "ZeRO-3 offload": (2, "zero3_offload"),
}
FAMILIES: Mapping[str, str] = {
    "llava-1.5": "llava-1.5",
    "llava-llama-2": "llava-llama-2",
    "1.6-vicuna": "1.6-vicuna",
    "1.6-mistral": "1.6-mistral",
    "1.6-yi": "1.6-yi",
    "SmolLM2 + CLIP": "language-smollm2",
    "Qwen3 + CLIP": "language-qwen3",
}
TEMPLATES = {
    "llava-1.5": "v1",
    "llava-llama-2": "llava_llama_2",
    "1.6-vicuna": "v1",
    "1.6-mistral": "mistral_instruct",
    "1.6-yi": "chatml_direct",
    "SmolLM2 + CLIP": "chatml_direct",
    "Qwen3 + CLIP": "chat_template",
}
CROSSED = "llava-1.5"
QUANTISED = ("QLoRA 4-bit", "LoRA 8-bit")
OURS = "Qwen3 + CLIP"
"""A language model that upstream has no class for."""
SWAPPED = {"LoRA": "projector adapted", "QLoRA 4-bit": "LoRA, tower lr"}
"""Modes of OURS that take each other's engine, so that these two run on two processes and are held to one."""


@dataclass(frozen=True)
class Cell:
    """One run of the matrix."""

    family: str
    mode: str
    engine: str

    @property
    def name(self) -> str:
        return f"{self.family} / {self.mode} / {self.engine}"


def possible(mode: str, engine: str) -> bool:
    """Quantised weights cannot be partitioned: refused by the driver, and tested as a refusal."""
    return not (mode in QUANTISED and engine.startswith("ZeRO-3"))


def cells() -> list[Cell]:
    """The full cross of one family; for each other family every mode once and every engine once at least."""
    out = [Cell(CROSSED, mode, engine) for mode in MODES for engine in ENGINES if possible(mode, engine)]
    engines = list(ENGINES)
    for row, family in enumerate((name for name in FAMILIES if name != CROSSED), start=1):
        # Two ranks cost three times one: every engine meets a family once, at a mode that shifts from row to row.
        turns = [(column + row) % len(MODES) for column in range(len(MODES))]
        chosen = {
            mode: engines[turn] if turn < len(engines) else "one process"
            for mode, turn in zip(MODES, turns, strict=True)
        }
        for one, other in SWAPPED.items() if family == OURS else ():
            chosen[one], chosen[other] = chosen[other], chosen[one]
        out += [Cell(family, mode, engine) for mode, engine in chosen.items()]
    return [*out, Cell(OURS, "QLoRA 4-bit", "one process")]


def flags(cell: Cell, models: Mapping[str, Path], data: Path, earlier: Mapping[str, Path]) -> list[object]:
    """The command line of a cell without --output_dir. `earlier`: adapter folders to continue from, by family."""
    ranks, config = ENGINES[cell.engine]
    base = models[FAMILIES[cell.family]]
    version = "plain" if cell.mode == "pretrain" else TEMPLATES[cell.family]
    out: list[object] = [
        "--model_name_or_path", base, "--version", version, "--image_folder", data,
        "--data_path", data / ("captions.json" if cell.mode == "pretrain" else "mixed.json"),
        "--max_steps", STEPS, "--per_device_train_batch_size", 2, "--gradient_accumulation_steps", 2 // ranks,
        "--learning_rate", "1e-3", "--lr_scheduler_type", "constant", "--lora_dropout", "0", "--seed", "5",
        "--logging_steps", "1", "--save_strategy", "no", "--report_to", "none",
        "--gradient_checkpointing", "False", "--check_data", "False", "--dataloader_num_workers", "0",
    ]  # fmt: skip
    if FAMILIES[cell.family].startswith("language"):
        out += ["--vision_tower", models["clip"], "--mm_projector_type", "mlp2x_gelu"]
        out += ["--mm_vision_select_layer", "-2", "--mm_use_im_patch_token", "False"]
    if config:
        out += ["--deepspeed", ROOT / "deepspeed_configs" / f"{config}.json"]
    return [*out, *(str(flag).format(earlier=earlier.get(cell.family)) for flag in MODES[cell.mode])]


def job(
    cell: Cell,
    models: Mapping[str, Path],
    data: Path,
    work: Path,
    earlier: Mapping[str, Path],
    precision: str = "fp32",
) -> Job:
    """The cell as a job for the runner."""
    folder = work / cell.name.replace(" ", "").replace("/", "_")
    words = [*flags(cell, models, data, earlier), "--precision", precision]
    return Job(cell.name, words, folder, ENGINES[cell.engine][0])


def table(shown: Mapping[Cell, str]) -> str:
    """Families and modes by engines; `shown` is what stands for a cell that ran."""
    width = max(map(len, MODES)) + 4
    columns = [max(len(engine), 7) + 2 for engine in ENGINES]
    head = "".join(f"{engine:>{size}}" for engine, size in zip(ENGINES, columns, strict=True))
    lines = [f"families x modes x engines, loss of step {STEPS} (refused: quantised with ZeRO-3)", " " * width + head]
    for family in FAMILIES:
        lines.append(family)
        for mode in MODES:
            texts = [
                shown.get(Cell(family, mode, engine), "" if possible(mode, engine) else "refused") for engine in ENGINES
            ]
            row = "".join(f"{text:>{size}}" for text, size in zip(texts, columns, strict=True))
            lines.append(f"  {mode:<{width - 2}}{row}")
    return "\n".join(lines)
