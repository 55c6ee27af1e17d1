"""RMSNorm in one kernel on a GPU, torch's own, where transformers takes six operators: same numbers, less kept.

transformers computes it in fp32 and keeps its input in fp32 for the backward pass; the kernel computes
in fp32 too, keeps the input as it is and one number a position. In fp32 the numbers are equal; in 16 bit the kernel
rounds once where transformers rounds twice. On a CPU, where torch takes the operator apart, the layer's own forward
stays.

    num_replaced = fuse_norms(model)
"""

from __future__ import annotations

from typing import Any

import torch

from llava_finetune.kernels.known_norms import NORMS


def runs_in_a_kernel(x: torch.Tensor) -> bool:
    """Whether torch has the whole norm as one kernel where `x` lies."""
    return x.device.type == "cuda"


class _FusedNorm:
    """Before one of NORMS among a class's bases: its forward as one operator."""

    weight: torch.nn.Parameter
    variance_epsilon: float

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """... x width, of any floating type, to the same."""
        if not runs_in_a_kernel(hidden_states) or self.weight.dtype != hidden_states.dtype:
            return super().forward(hidden_states)  # type: ignore[misc, no-any-return]
        # Called by its own name: under autocast `rms_norm` would cast its input to fp32.
        width = [hidden_states.shape[-1]]
        return torch._fused_rms_norm(hidden_states, width, self.weight, self.variance_epsilon)[0]  # type: ignore[attr-defined, no-any-return]


def fuse_norms(model: torch.nn.Module) -> int:
    """Let every RMSNorm of transformers' that is known take the kernel, where torch has it. Returns how many do."""
    if not hasattr(torch, "_fused_rms_norm"):
        return 0
    found: list[Any] = [module for module in model.modules() if type(module).__name__ in NORMS.values()]
    for module in found:
        own = type(module)
        module.__class__ = type(f"Fused{own.__name__}", (_FusedNorm, own), {})
    return len(found)
