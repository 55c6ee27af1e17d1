"""A checkpoint of another number of ranks: under ZeRO each keeps its own part of the optimizer, so it cannot go on.

The way that works is a new run that starts from the checkpoint's weights; the message names it for the mode.

    refuse_other_ranks(checkpoint, {"ranks": 2, "zero_stage": 2}, {"ranks": 1, "zero_stage": 2})
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llava_finetune.errors import UserError


def refuse_other_ranks(checkpoint: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raise UserError where a checkpoint's optimizer lies in parts for another number of ranks or ZeRO stage."""
    then, ranks = before.get("ranks"), now["ranks"]
    stages = before.get("zero_stage"), now["zero_stage"]
    if then is None or not any(stages) or (then == ranks and stages[0] == stages[1]):
        return
    raise UserError(
        f"{checkpoint} was written by {then} rank(s) {_under(stages[0])}, and this run has {ranks} "
        f"{_under(stages[1])}: each rank keeps a part of the optimizer, and the parts fit no other number. Go on with "
        f"{_same(then, stages[0])}, or start a new run from its weights: another OUTPUT, no --resume, and "
        f"{_start(checkpoint, now)}"
    )


def _under(stage: int | None) -> str:
    return f"under ZeRO-{stage}" if stage else "without ZeRO"


def _same(ranks: int, stage: int | None) -> str:
    return f"NUM_GPUS={ranks} DEEPSPEED_CONFIG={f'zero{stage}' if stage else 'none'}"


def _start(checkpoint: Path, now: Mapping[str, Any]) -> str:
    if now.get("lora_enable"):
        return f"--init_lora {checkpoint}"
    if now.get("tune_mm_mlp_adapter"):
        return f"--pretrain_mm_mlp_adapter {checkpoint / 'mm_projector.bin'}"
    return f"MODEL={checkpoint}"
