"""Rotary positions in fp32, whatever the model's dtype: their frequencies are recomputed after a cast.

Why: `model.to(bfloat16)`, and DeepSpeed releases whose engine casts the whole module, round the frequencies to 8 bits.
At position 2,000 an angle is then off by several radians, and such a model answers otherwise than where it is served.

    model.to(torch.bfloat16); restore(model)
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


def rotary_modules(model: nn.Module) -> list[Any]:
    """The modules of a transformers model that hold rotary frequencies."""
    return [module for module in model.modules() if hasattr(module, "original_inv_freq") and hasattr(module, "config")]


def _by_kind_of_layer(model: nn.Module) -> list[Any]:
    """Gemma-3's: frequencies of their own for layers with a window and for those without."""
    return [module for module in model.modules() if hasattr(module, "layer_types") and hasattr(module, "rope_type")]


def _restored_by_kind(module: Any) -> bool:
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    kinds = [kind for kind in module.layer_types if hasattr(module, f"{kind}_inv_freq")]
    if all(getattr(module, f"{kind}_inv_freq").dtype == torch.float32 for kind in kinds):
        return False
    for kind in kinds:
        default = module.rope_type[kind] == "default"
        compute = module.compute_default_rope_parameters if default else ROPE_INIT_FUNCTIONS[module.rope_type[kind]]
        frequencies, _ = compute(module.config, layer_type=kind)
        frequencies = frequencies.to(getattr(module, f"{kind}_inv_freq").device, torch.float32)
        setattr(module, f"{kind}_inv_freq", frequencies)
        setattr(module, f"{kind}_original_inv_freq", frequencies.clone())
    return True


def restore(model: nn.Module) -> int:
    """Compute every rotary frequency again in fp32 on its own device; returns how many had lost precision."""
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    rounded = 0
    for module in _by_kind_of_layer(model):
        rounded += _restored_by_kind(module)
    for module in rotary_modules(model):
        if module.inv_freq.dtype == module.original_inv_freq.dtype == torch.float32:
            continue
        rounded += 1
        default = module.rope_type == "default"
        compute = module.compute_default_rope_parameters if default else ROPE_INIT_FUNCTIONS[module.rope_type]
        frequencies, module.attention_scaling = compute(module.config)
        module.inv_freq = frequencies.to(module.inv_freq.device, torch.float32)
        module.original_inv_freq = module.inv_freq.clone()
    return rounded
