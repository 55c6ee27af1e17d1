"""LoRA's linear layers with fewer passes over wide tensors: same adapter, same files, same loss.

peft computes `result + B(A(dropout(x))) * scaling`: three passes over an output that is up to 12 times as wide as the
rank, twice with the backward. Here the scaling is on the r-wide side and both products accumulate in place. DoRA,
quantised bases, several adapters, biases of LoRA and ZeRO-3 keep peft's own forward.

    num_replaced = speed_up(peft_model)
"""

from __future__ import annotations

from typing import Any

import torch
from peft.tuners.lora import Linear
from torch.nn import functional

from llava_finetune.kernels.fp8 import Fp8Linear, input_gradient, product

_STEPS = 1 << 15  # 15 random bits per element: four elements from each 64-bit draw
_INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


def keep_mask(x: torch.Tensor, probability: float) -> tuple[torch.Tensor | None, float]:
    """A mask in integers as wide as `x`'s elements (all bits: kept; 0: dropped), and the factor that keeps the mean.

    torch draws one random number per element, which took 22 % of a step on CPU; here a 64-bit draw serves four, and a
    mask of bits is applied by `and`. The probability is a multiple of 1/32768. None where nothing is dropped.
    """
    threshold = min(round(probability * _STEPS), _STEPS - 1)
    if threshold <= 0:
        return None, 1.0
    words = torch.empty((x.numel() + 3) // 4, dtype=torch.int64, device=x.device).random_(-(1 << 63), None)
    words.bitwise_and_(0x7FFF7FFF7FFF7FFF)
    draws = words.view(torch.int16)[: x.numel()].view(x.shape)
    # The sign of threshold - 1 - draw, spread over all bits: set where the draw is at or over the threshold.
    mask = draws.neg_().add_(threshold - 1).bitwise_right_shift_(15)
    return mask.to(_INTEGERS[x.element_size()]), _STEPS / (_STEPS - threshold)


def masked(x: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """`x` with the elements zeroed that `mask` drops."""
    return x if mask is None else x.view(mask.dtype).bitwise_and(mask).view(x.dtype)


def draws_in_a_kernel(x: torch.Tensor) -> bool:
    """Whether one kernel draws, masks and scales: a GPU's reads and writes everything once, a CPU's is slow."""
    return x.device.type == "cuda"


def dropped(x: torch.Tensor, probability: float) -> tuple[torch.Tensor, torch.Tensor | None, float]:
    """`x` under dropout, the mask for the backward pass, and the factor that the mean still needs.

    The mask is of bytes where a kernel draws it, else of integers as wide as `x`'s elements.
    """
    if probability > 0 and draws_in_a_kernel(x):
        kept, mask = torch.native_dropout(x, probability, True)
        return kept, mask, 1.0
    integers, factor = keep_mask(x, probability)
    return masked(x, integers), integers, factor


def dropped_again(x: torch.Tensor, mask: torch.Tensor | None, probability: float) -> torch.Tensor:
    """What `dropped` did with its mask, done to another tensor."""
    if mask is not None and mask.dtype == torch.bool:
        return torch.ops.aten.native_dropout_backward(x, mask, 1 / (1 - probability))  # type: ignore[no-any-return]
    return masked(x, mask)


class _LoraLinear(torch.autograd.Function):
    """The gradient of y = x W' + b + s dropped(x) A' B' with W and b frozen, without y itself, which _Output computes.

    x: N x in; W: out x in, in e4m3 where it has scales (fp8.py); A: r x in; B: out x r. Returns a stand-in for y that
    takes no memory, and s dropped(x) A'.
    All that is saved is saved before y is: a checkpoint that runs again stops there, and spares the widest products.
    """

    @staticmethod
    def forward(ctx: Any, x: Any, weight: Any, scales: Any, a: Any, b: Any, scaling: float, probability: float) -> Any:
        kept, mask, factor = dropped(x, probability)
        scale = scaling * factor
        inner = kept @ a.T
        if scale != 1:
            inner.mul_(scale)
        ctx.save_for_backward(x, weight, scales, a, b, inner, mask)
        ctx.mark_non_differentiable(inner)
        ctx.scale, ctx.probability = scale, probability
        return x.new_empty(()).expand(len(x), len(weight)), inner

    @staticmethod
    def backward(ctx: Any, grad: Any, _: Any) -> Any:
        x, weight, scales, a, b, inner, mask = ctx.saved_tensors
        grad_b = grad.T @ inner if ctx.needs_input_grad[4] else None
        grad_inner = grad @ b
        if ctx.scale != 1:
            grad_inner.mul_(ctx.scale)
        grad_a = grad_x = None
        if ctx.needs_input_grad[3]:
            grad_a = grad_inner.T @ dropped_again(x, mask, ctx.probability)
        if ctx.needs_input_grad[0]:
            grad_x = grad @ weight if scales is None else input_gradient(grad, weight, scales)
            if mask is None:
                grad_x.addmm_(grad_inner, a)
            else:
                grad_x.add_(dropped_again(grad_inner @ a, mask, ctx.probability))
        return grad_x, None, None, grad_a, grad_b, None, None


class _Output(torch.autograd.Function):
    """x W' + b + inner B'. Its gradient goes to `stand_in` as it is: _LoraLinear knows the rest."""

    @staticmethod
    def forward(ctx: Any, stand_in: Any, x: Any, weight: Any, scales: Any, bias: Any, inner: Any, b: Any) -> Any:
        plain = scales is None
        wide = functional.linear(x, weight, bias) if plain else product(x, weight, scales, bias)
        return wide.addmm_(inner, b.T)

    @staticmethod
    def backward(ctx: Any, grad: Any) -> Any:
        return grad, None, None, None, None, None, None


class FastLoraLinear(Linear):  # type: ignore[misc]
    """peft's LoRA layer whose plain case runs as one function; every other case is peft's own forward."""

    def forward(self, x: torch.Tensor, *arguments: Any, **keywords: Any) -> torch.Tensor:
        parts = None if arguments or keywords else self._plain(x)
        if parts is None:
            return super().forward(x, *arguments, **keywords)  # type: ignore[no-any-return]
        a, b, dtype, scaling, probability = parts
        base = self.get_base_layer()
        bias = None if base.bias is None else base.bias.to(dtype)
        # The casts are outside of the function, so that gradients reach fp32 adapters in fp32 as under autocast.
        flat = x.reshape(-1, x.shape[-1]).to(dtype)
        with torch.autocast(x.device.type, enabled=False):
            scales, b = getattr(base, "scales", None), b.to(dtype)
            weight = base.weight.to(dtype) if scales is None else base.weight
            stand_in, inner = _LoraLinear.apply(flat, weight, scales, a.to(dtype), b, scaling, probability)
            out = _Output.apply(stand_in, flat.detach(), weight, scales, bias, inner, b.detach())
        return out.view(*x.shape[:-1], out.shape[-1])  # type: ignore[no-any-return]

    def _plain(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.dtype, float, float] | None:
        """A, B, the type to compute in, scaling and dropout of the one plain adapter; None for any other case."""
        active = [name for name in self.active_adapters if name in self.lora_A]
        if self.disable_adapters or self.merged or len(active) != 1 or active[0] in self.lora_variant:
            return None
        name = active[0]
        a, b = self.lora_A[name], self.lora_B[name]
        base = self.get_base_layer()
        weights = (base.weight, a.weight, b.weight)
        # Under ZeRO-3 weights are fetched by the hooks of the modules that are called: peft's forward calls them.
        if a.bias is not None or b.bias is not None or any(hasattr(weight, "ds_id") for weight in weights):
            return None
        if base.weight.requires_grad or (base.bias is not None and base.bias.requires_grad):
            return None
        device = x.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
        computed = [weight for weight in weights if weight.is_floating_point()]  # a base of bytes fits any
        if not torch.is_autocast_enabled(device) and any(weight.dtype != dtype for weight in computed):
            return None
        dropout = self.lora_dropout[name]
        probability = dropout.p if self.training and isinstance(dropout, torch.nn.Dropout) else 0.0
        return a.weight, b.weight, dtype, float(self.scaling[name]), probability


def speed_up(model: torch.nn.Module) -> int:
    """Let every plain LoRA layer over a linear layer, or one in e4m3, use the fast forward. Returns how many do."""
    plain = [module for module in model.modules() if type(module) is Linear and not module.fan_in_fan_out]
    for module in plain:
        if type(module.get_base_layer()) in (torch.nn.Linear, Fp8Linear):
            module.__class__ = FastLoraLinear
    return sum(type(module) is FastLoraLinear for module in plain)
