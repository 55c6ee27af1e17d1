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


def restore(model: nn.Module) -> int:
    """Compute every rotary frequency again in fp32 on its own device; returns how many had lost precision."""
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    rounded = 0
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
