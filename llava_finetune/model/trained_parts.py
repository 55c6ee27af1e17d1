"""Which parts of a model are trained, and in which dtype.

restore_trainable(model, building, "language")
for part, trained, total in trainable_table(model): print(part, trained, total)
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

PARTS: Sequence[tuple[str, tuple[str, ...]]] = (
    ("vision tower", ("vision_tower", "vision_model.")),
    ("newline", ("image_newline",)),
    ("projector", ("mm_projector", "connector.", "multi_modal_projector", "perceiver_resampler")),
    ("cross-attention", ("gated_cross_attn_layers",)),
)
"""The parts of a model, and what the names of their tensors hold: upstream's layout, and those of the families."""


def part_of(name: str) -> str:
    """The part that a tensor belongs to by its name; what is no other part's is the language model's."""
    return next((part for part, marks in PARTS if any(mark in name for mark in marks)), "language model")


@dataclass(frozen=True)
class Building:
    """How a model is put together, and which of its parts are trained."""

    base: str
    dtype: torch.dtype
    device: torch.device
    cache_dir: str | None = None
    attention: str = "auto"
    bits: int = 16
    double_quant: bool = True
    quant_type: str = "nf4"
    deepspeed: bool = False
    fsdp: Any = None
    gradient_checkpointing: bool = False
    freeze_backbone: bool = False
    projector_only: bool = False
    freeze_projector: bool = False
    projector_lr: float | None = None
    tune_tower: bool = False


def settle_dtypes(model: Any, building: Building) -> None:
    """One dtype for what DeepSpeed partitions; fp32 for what is trained beside an fp16 base.

    ZeRO-3 flattens parameters into one buffer (`defragment` asserts a single dtype), and peft makes fp32 adapters. The
    fp16 loss scaler refuses fp16 gradients ("Attempting to unscale FP16 gradients", haotian-liu/LLaVA#1684).
    """
    dtype, deepspeed = building.dtype, building.deepspeed
    if not deepspeed and dtype != torch.float16:
        return
    for parameter in model.parameters():
        if parameter.requires_grad and not hasattr(parameter, "ds_id"):
            parameter.data = parameter.data.to(dtype if deepspeed else torch.float32)


def in_use(name: str, num_layers: int, select_layer: int | Sequence[int]) -> bool:
    """Whether a tower's parameter or module takes part: features are read before the layers behind `select_layer`.

    LLaVA reads the output of the last layer but one (-2); what comes after gets no gradient. Of several layers, whose
    features are put side by side, the last decides.
    """
    layer = re.search(r"encoder\.layers?\.(\d+)\.", name)
    if layer is not None:
        selected = [select_layer] if isinstance(select_layer, int) else select_layer
        return int(layer[1]) < max(one % (num_layers + 1) for one in selected)
    # DINOv2 names its last norm `layernorm`, and takes its mask token only where it is pretrained.
    return "post_layernorm" not in name and "mask_token" not in name and not name.startswith("layernorm.")


def train_tower(model: Any) -> None:
    """Set the tower's parameters trainable, those that take part."""
    tower = model.get_vision_tower().vision_tower
    for name, parameter in tower.named_parameters():
        parameter.requires_grad = in_use(name, tower.config.num_hidden_layers, model.config.mm_vision_select_layer)


def restore_trainable(model: Any, building: Building, targets: str) -> None:
    """peft freezes all but its adapters: the projector, newline and a tuned tower are trained beside them."""
    inner = model.get_model()
    if not building.freeze_projector and "projector" not in targets.split(","):
        inner.mm_projector.requires_grad_(True)
    if getattr(inner, "image_newline", None) is not None and not building.freeze_projector:
        inner.image_newline.requires_grad = True
    if building.tune_tower:
        train_tower(model)
    settle_dtypes(model, building)


def trainable_table(model: Any) -> list[tuple[str, int, int]]:
    """(part, trainable, all) parameters of each part and of the adapters."""
    counts: dict[str, list[int]] = {}
    for name, parameter in model.named_parameters():
        part = "LoRA" if "lora_" in name else part_of(name).replace("newline", "projector")
        size = getattr(parameter, "ds_numel", parameter.numel())
        row = counts.setdefault(part, [0, 0])
        row[0] += size if parameter.requires_grad else 0
        row[1] += size
    return [(part, trained, total) for part, (trained, total) in counts.items()]
