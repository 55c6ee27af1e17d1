"""A frozen base in 8-bit floating point (e4m3) with a scale for each row: half the bytes, products on fp8 units.

Hopper and Ada multiply e4m3 at twice the rate of bf16. A frozen weight takes part in two products, forward and input
gradient, and both take the same copy of it: the scales of its rows go into the incoming gradient first. What comes in
is rounded row by row as it comes. The weight's bytes are kept as uint8, which no cast of a whole model touches.

    to_fp8(model)        # every linear layer of the language model's decoder layers, adapters or not
"""

from __future__ import annotations

from typing import Any

import torch

from llava_finetune.errors import UsageError

E4M3 = torch.float8_e4m3fn
LARGEST = 448.0
"""The largest number of e4m3."""
SMALLEST = 1e-12
"""A row of zeros has this scale."""
MULTIPLE = 16
"""Both sides of a weight have to be multiples of it."""
NEEDED = (8, 9)
"""Compute capability of Ada; Hopper has 9.0."""


def require_hardware() -> None:
    """Raise UsageError for a GPU that multiplies no e4m3. A CPU does, slowly: for its numbers."""
    if not torch.cuda.is_available():
        return
    name, capability = torch.cuda.get_device_name(), torch.cuda.get_device_capability()
    if torch.version.hip is not None or capability < NEEDED:
        found = f"compute capability {capability[0]}.{capability[1]}"
        raise UsageError(
            f"--base_dtype fp8: {name} has {found}, and products in e4m3 need 8.9 (Ada) or 9.0 (Hopper); leave it out, "
            "or give --bits 4, which saves memory on every GPU"
        )


def rounded(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """`rows` (N x M) in e4m3, and the scale of each, N x 1 in fp32, by which it is multiplied to be itself."""
    scales = (rows.abs().amax(1, keepdim=True).float() / LARGEST).clamp_min(SMALLEST)
    inside = (rows * scales.reciprocal().to(rows.dtype)).clamp(-LARGEST, LARGEST)  # beyond it a cast gives NaN
    return inside.to(E4M3), scales


def packed(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """A weight (out x in) as bytes of e4m3, and the scales of its rows, out x 1: fp32 that bf16 holds, too."""
    values = weight.float()
    scales = (values.abs().amax(1, keepdim=True) / LARGEST).clamp_min(SMALLEST).to(torch.bfloat16).float()
    return (values / scales).clamp(-LARGEST, LARGEST).to(E4M3).view(torch.uint8), scales


def product(x: torch.Tensor, weight: torch.Tensor, scales: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """x W' + b in x's type; x: N x in, weight and scales: as `packed` gives them."""
    rows, own = rounded(x)
    out = torch._scaled_mm(rows, weight.view(E4M3).T, own, scales.float().T, out_dtype=torch.bfloat16).to(x.dtype)
    return out if bias is None else out.add_(bias)


def input_gradient(grad: torch.Tensor, weight: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """grad W in grad's type; grad: N x out."""
    rows, own = rounded(grad * scales.T.to(grad.dtype))
    # The units read both factors along the sum: the weight is turned for this product, a pass over its bytes.
    turned = weight.view(E4M3).T.contiguous().T
    ones = torch.ones(1, weight.shape[1], device=weight.device)
    return torch._scaled_mm(rows, turned, own, ones, out_dtype=torch.bfloat16).to(grad.dtype)


class _Product(torch.autograd.Function):
    """`product` with the gradient of its input alone."""

    @staticmethod
    def forward(ctx: Any, x: Any, weight: Any, scales: Any, bias: Any) -> Any:
        ctx.save_for_backward(weight, scales)
        return product(x, weight, scales, bias)

    @staticmethod
    def backward(ctx: Any, grad: Any) -> Any:
        return input_gradient(grad, *ctx.saved_tensors), None, None, None


class Fp8Linear(torch.nn.Linear):
    """A frozen linear layer: `weight` holds bytes of e4m3, `scales` one number for each output."""

    def __init__(self, layer: torch.nn.Linear, device: torch.device | str) -> None:
        super().__init__(layer.in_features, layer.out_features, layer.bias is not None, device="meta")
        weight, scales = packed(layer.weight.detach().to(device))
        self.weight = torch.nn.Parameter(weight, requires_grad=False)
        self.bias = None if layer.bias is None else torch.nn.Parameter(layer.bias.detach(), requires_grad=False)
        self.register_buffer("scales", scales, persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        device = x.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
        bias = None if self.bias is None else self.bias.to(dtype)
        flat = x.reshape(-1, x.shape[-1]).to(dtype)
        out = _Product.apply(flat, self.weight, self.scales, bias)
        return out.view(*x.shape[:-1], out.shape[-1])  # type: ignore[no-any-return]


def to_fp8(model: Any, device: torch.device | str = "cpu") -> int:
    """Put Fp8Linear in place of every frozen linear layer of the decoder layers; returns how many.

    Below adapters, too. Layers whose sides are no multiples of 16 stay as they are.
    """
    layers = model.get_model().layers
    chosen = [(name, layer) for name, layer in layers.named_modules() if _is_frozen_linear(layer)]
    for name, layer in chosen:
        parent, _, last = name.rpartition(".")
        setattr(layers.get_submodule(parent), last, Fp8Linear(layer, device))
    return len(chosen)


def _is_frozen_linear(layer: Any) -> bool:
    if type(layer) is not torch.nn.Linear or any(one.requires_grad for one in layer.parameters()):
        return False
    return all(side % MULTIPLE == 0 for side in layer.weight.shape)
