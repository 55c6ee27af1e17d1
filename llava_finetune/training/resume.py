"""Find the checkpoint to go on from, see that it belongs to this run, and take the run's log back to its step.

checkpoint = find(output, "auto")
refuse_differences(checkpoint, settings, allowed=False)
rewind(output, step_of(checkpoint))
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from data_prep.errors import DataError
from data_prep.files import sha256_of
from data_prep.records.json_text import parse_json, require_regular
from llava_finetune.config.arguments import Arguments
from llava_finetune.config.augmenting import asked_kinds
from llava_finetune.errors import UserError
from llava_finetune.saved.checkpoints import SEAL, fault_of, read_seal, step_of
from llava_finetune.saved.manifest import read_json, weights_sha256
from llava_finetune.saved.model_files import MANIFEST
from llava_finetune.saved.pickles import refuse_code
from llava_finetune.training.other_ranks import refuse_other_ranks

# What decides a run's numbers; everything else (logging, saving, evaluation, workers) may change between parts of it.
MODEL = (
    "version", "freeze_backbone", "tune_mm_mlp_adapter", "mm_vision_select_layer", "mm_projector_type",
    "mm_use_im_start_end", "mm_use_im_patch_token", "mm_patch_merge_type", "mm_vision_select_feature",
    "attn_implementation",
)  # fmt: skip
TRAINING = (
    "learning_rate", "weight_decay", "max_grad_norm",
    "num_train_epochs", "max_steps", "lr_scheduler_type", "warmup_steps", "optim", "adam_beta1", "adam_beta2",
    "adam_epsilon", "seed", "data_seed", "bits", "base_dtype",
    "lora_enable", "lora_r", "lora_alpha", "lora_dropout", "lora_bias",
    "lora_targets", "use_dora", "use_rslora", "tune_vision_tower", "vision_tower_lr", "mm_projector_lr",
    "freeze_mm_mlp_adapter", "group_by_modality_length", "group_by_real_length", "train_sampling_strategy",
    "model_max_length", "lr_scheduler_kwargs", "label_smoothing_factor", "neftune_noise_alpha",
    "quant_type", "double_quant", "dpo", "dpo_beta", "dpo_label_smoothing", "dpo_length_normalised", "sft_weight",
)  # fmt: skip


def settings_of(arguments: Arguments) -> dict[str, Any]:
    """What decides a run's numbers: data and base by their hashes, every flag that matters, ranks and ZeRO stage."""
    model, data, training = arguments.model, arguments.data, arguments.training
    replay = data.replay.rpartition(":")[0] if data.replay else None
    tower = model.vision_tower
    return {
        **{name: getattr(model, name) for name in MODEL},
        **{name: _plain(getattr(training, name, None)) for name in TRAINING},
        # Cut otherwise into micro-batches, as after running out of memory, the same records make a step.
        "records_per_step": training.per_device_train_batch_size * training.gradient_accumulation_steps,
        "sharing": training.sharing,
        "independent_turns": data.independent_turns.lower(),
        "image_aspect_ratio": data.image_aspect_ratio,
        "augment": ",".join(sorted(asked_kinds(data.augment))) or None,
        "data_sha256": _hash_of(data.data_path),
        "replay": data.replay and data.replay.rpartition(":")[2],
        "replay_sha256": _hash_of(replay) if replay else None,
        "base_sha256": weights_sha256(Path(model.model_name_or_path)) or model.model_name_or_path,
        "vision_tower_sha256": tower and (weights_sha256(Path(tower)) or tower),
        "precision": arguments.precision.name,
        "ranks": training.world_size,
        "zero_stage": arguments.zero_stage,
    }


def _hash_of(path: str) -> str:
    return sha256_of(require_regular(Path(path), ".json or .jsonl file"))


def _plain(value: Any) -> Any:
    value = getattr(value, "value", value)
    return value if isinstance(value, (int, float, str, bool, type(None))) else str(value)


def find(output: Path, resume: str, say: Callable[[str], None] = print) -> Path | None:
    """The checkpoint to go on from: the newest whole one for `auto` (None without one), the one named, or None.

    Every file is compared with its hash. Raises UserError for a named folder that is not whole, for a file that would
    run code, and where `auto` finds finished checkpoints and none of them whole; else it passes damaged ones over with
    a warning, and goes on from the newest whole one before them.
    """
    if resume == "none":
        return None
    if resume != "auto":
        folder = Path(resume)
        fault = _fault_of(folder) if folder.is_dir() else "no such folder"
        if fault:
            raise UserError(f"--resume {resume}: {fault}; give a whole checkpoint-N folder, or --resume auto")
        return folder
    damaged = []
    for path in sorted((path for path in output.glob("checkpoint-*") if step_of(path) >= 0), key=step_of, reverse=True):
        fault = _fault_of(path)
        if fault is None:
            return path
        say(f"WARNING: passed over {path.name}: {fault}")
        damaged += [path] if (path / SEAL).exists() or (path / MANIFEST).exists() else []  # ours: its seal is lost
    if damaged:
        raise UserError(
            f"{output}: no whole checkpoint is left to go on from: {damaged[0].name}: {_fault_of(damaged[0])}; copy it "
            "here again from a backup, or start anew in another --output_dir"
        )
    if (output / "run.json").is_file():
        say(f"{output} has no whole checkpoint: the run starts from the beginning")
    return None


def _fault_of(folder: Path) -> str | None:
    refuse_code(folder)
    if fault := fault_of(folder, contents=True):
        return fault
    try:
        read_json(folder / "trainer_state.json")
    except UserError as error:
        return str(error)
    return None


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """One line for each setting that differs: `learning_rate: 0.0002 then, 0.001 now`."""
    lines = []
    for name in now:
        if name in before and before[name] != now[name]:
            lines.append(f"{name}: {_short(name, before[name])} then, {_short(name, now[name])} now")
    return lines


def _short(name: str, value: Any) -> str:
    return f"{str(value)[:12]}..." if name.endswith("sha256") and value else str(value)


def refuse_differences(
    checkpoint: Path, settings: Mapping[str, Any], allowed: bool, say: Callable[[str], None]
) -> None:
    """Raise UserError listing every setting that differs from the checkpoint's; with `allowed` only say them."""
    before = read_seal(checkpoint).get("settings", {})
    refuse_other_ranks(checkpoint, before, settings)
    found = differences(before, settings)
    if not found:
        return
    text = f"{checkpoint} was trained with other settings:\n  " + "\n  ".join(found)
    if not allowed:
        raise UserError(
            f"{text}\nThe rest of the run would not be the run that was begun. Give the same settings, start anew in "
            "another --output_dir, or go on all the same with --resume_changed True"
        )
    say(f"{text}\ngoing on all the same (--resume_changed True)")


def _step_in(line: str, log: Path) -> float:
    """The step of a row of log.jsonl, infinite where it is no row."""
    try:
        row = parse_json(line.encode(errors="replace"), log)
    except (ValueError, DataError):
        return math.inf
    found = row.get("step") if isinstance(row, dict) else None
    return found if type(found) is int else math.inf


def rewind(output: Path, step: int) -> int:
    """Drop log rows and predictions after `step` (-1: all), and a last line cut off by a kill. Returns rows dropped."""
    dropped = 0
    log = output / "log.jsonl"
    if log.is_file():
        kept = []
        for line in log.read_text(encoding="utf-8", errors="replace").splitlines():
            keep = _step_in(line, log) <= step
            dropped += not keep
            if keep:
                kept.append(line + "\n")
        temporary = log.with_name(f".{log.name}.{os.getpid()}.tmp")
        temporary.write_text("".join(kept), encoding="utf-8")
        temporary.replace(log)
    for file in [*output.glob("predictions-*.jsonl"), *output.glob("scores-*.json")]:
        found = re.fullmatch(r"(?:predictions|scores)-(?:eval|probe|hallucination)-(\d+)\.jsonl?", file.name)
        if found and int(found.group(1)) > step:
            file.unlink()
    return dropped
