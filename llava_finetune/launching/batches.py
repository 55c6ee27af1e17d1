"""Batch, accumulation and epochs of a launch: what the caller gives is kept, the rest follows the number of records.

GLOBAL_BATCH has upstream's meaning: records per optimizer step over all processes.

>>> choose(mode="lora", flags=(), environment={"GLOBAL_BATCH": "128"}, world=2, on_gpu=True, data="no.json").flags[:4]
('--per_device_train_batch_size', '4', '--gradient_accumulation_steps', '16')
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from data_prep.numbers import MOST, real, whole
from data_prep.records.record import DataError, read_records
from llava_finetune.flags import flag, number_in, number_of
from llava_finetune.planning.steps import Steps, batch_for, count_steps, epochs_for, usual_batch, warmup_of

FLAGS = ("--per_device_train_batch_size", "--gradient_accumulation_steps")
EPOCHS = "--num_train_epochs"
PER_DEVICE = {"pretrain": 8}
"""Records per device and forward pass by mode where PER_GPU_BATCH says nothing; 4 for all others."""


@dataclass(frozen=True)
class Batches:
    """The flags that a launch adds, the arithmetic as lines for the user, and its steps (of 0 records: not counted)."""

    flags: tuple[str, ...]
    notes: tuple[str, ...]
    steps: Steps


def count_records(data: str) -> int | None:
    """Records of a file; None where it cannot be read, which the run itself says with its place."""
    try:
        return len(read_records(Path(data))) or None
    except (DataError, OSError):
        return None


def global_batch(mode: str, flags: Sequence[str], environment: Mapping[str, str], records: int | None) -> int:
    """Records per optimizer step: GLOBAL_BATCH, else by the number of records (None: as for plenty)."""
    if environment.get("GLOBAL_BATCH"):
        return number(environment, "GLOBAL_BATCH", 1)
    return usual_batch(mode) if records is None else batch_for(records, _epochs(mode, flags, records, 1), mode)


def choose(
    *, mode: str, flags: Sequence[str], environment: Mapping[str, str], world: int, on_gpu: bool, data: str
) -> Batches:
    """The batch flags and epochs for `world` processes, and lines that show the arithmetic."""
    records = count_records(data)
    epochs = _epochs(mode, flags, records, world)
    wanted = global_batch(mode, flags, environment, records)
    per_gpu, accumulation = (number_in(flags, name, None, whole(1)) for name in FLAGS)
    usual = number(environment, "PER_GPU_BATCH", PER_DEVICE.get(mode, 4))
    size = per_gpu or min(usual, max(1, wanted // world))
    parts = accumulation or max(1, round(wanted / (size * world)))
    total, unit = size * parts * world, "GPU" if on_gpu else "process"
    note = f"{total} records a step = {world} {unit}(s) x {size} x {parts} accumulated"
    if total != wanted and not (per_gpu and accumulation):
        note += f" (GLOBAL_BATCH={wanted} is no multiple of {size * world})"
    added = [] if per_gpu else [FLAGS[0], str(size)]
    added += [] if accumulation else [FLAGS[1], str(parts)]
    added += [] if flag(flags, EPOCHS) else [EPOCHS, f"{epochs:g}"]
    most = int(number_in(flags, "--max_steps", -1, real(-1, MOST)))
    steps = count_steps(records or 0, epochs=epochs, per_device=size, accumulation=parts, ranks=world, max_steps=most)
    return Batches(tuple(added), (note, _steps_note(steps, flags, environment)), steps)


def _steps_note(steps: Steps, flags: Sequence[str], environment: Mapping[str, str]) -> str:
    if not steps.records:
        return "the records cannot be counted here: batch and epochs as for plenty of them"
    text = steps.text(warmup_of(number_in(flags, "--warmup_steps", 0, real(0)), steps.steps))
    followed = [] if environment.get("GLOBAL_BATCH") else ["GLOBAL_BATCH"]
    followed += [] if flag(flags, EPOCHS) or steps.by_steps else [EPOCHS]
    return f"{text} ({' and '.join(followed)} by the number of records)" if followed else text


def _epochs(mode: str, flags: Sequence[str], records: int | None, world: int) -> float:
    usual = 1 if records is None else epochs_for(records, mode, world)
    return float(number_in(flags, EPOCHS, usual, real(0, 1e6)))


def number(environment: Mapping[str, str], name: str, default: int, low: int = 1, high: int = MOST) -> int:
    """A whole number from the environment; UsageError where it is none, or not from `low` to `high`."""
    return int(number_of(name, environment.get(name) or str(default), whole(low, high), "="))
