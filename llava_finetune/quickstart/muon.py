"""Muon whose orthogonalisation runs in fp32, for CPUs that emulate bf16.

torch.optim.Muon always computes it in bf16. Where the CPU has no bf16 products, that took 20 times as long as all the
rest of a step of the quickstart's tower.

    optimizer = Muon(matrices, lr=2e-3, weight_decay=0.05)
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch.optim._muon import DEFAULT_A, DEFAULT_B, DEFAULT_C, DEFAULT_NS_STEPS, EPS


class Muon(torch.optim.Optimizer):
    """torch.optim.Muon with Nesterov momentum and adjust_lr_fn="match_rms_adamw", without its bf16.

    The parameters are matrices. Source of the method: https://kellerjordan.github.io/posts/muon/
    """

    def __init__(
        self, params: Iterable[torch.nn.Parameter], lr: float, weight_decay: float, momentum: float = 0.95
    ) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One step for every parameter that has a gradient."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["momentum_buffer"] = torch.zeros_like(parameter)
                average = state["momentum_buffer"].lerp_(parameter.grad, 1 - group["momentum"])
                update = orthogonal(parameter.grad.lerp(average, group["momentum"]))
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.add_(update, alpha=-group["lr"] * 0.2 * max(parameter.shape) ** 0.5)


def orthogonal(matrix: torch.Tensor) -> torch.Tensor:
    """The matrix with all singular values brought near 1, by the quintic Newton-Schulz iteration."""
    if matrix.shape[0] > matrix.shape[1]:
        return orthogonal(matrix.T).T
    out = matrix / matrix.norm().clamp(min=EPS)
    for _ in range(DEFAULT_NS_STEPS):
        gram = out @ out.T
        out = torch.addmm(out, torch.addmm(gram, gram, gram, beta=DEFAULT_B, alpha=DEFAULT_C), out, beta=DEFAULT_A)
    return out
