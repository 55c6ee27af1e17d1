"""What a card shows alone, for benchmarks/gpu.py: products and copies, and kernels beside plain arithmetic.

Each figure is tried by itself: one that fails says why in its place, and the others stay.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import torch


def device() -> torch.device:
    """The GPU, or the CPU of a rehearsal."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def synchronize() -> None:
    """Wait for the GPU."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def each(calls: Mapping[str, Callable[[], Any]]) -> dict[str, Any]:
    """What every call gives, or `failed` and the reason."""
    found: dict[str, Any] = {}
    for name, call in calls.items():
        try:
            found[name] = call()
        except Exception as error:  # a card, a build or a library without it: whatever is raised is the result
            first, *_ = str(error).splitlines() or [""]
            found[name] = f"failed {type(error).__name__}: {first[:200]}"
    return found


def peaks(tiny: bool) -> dict[str, Any]:
    """TFLOP/s of a product as wide as a 7B's, in bf16 and e4m3, and TB a second of a copy."""
    rows, inner, outer = (64, 64, 128) if tiny else (4096, 4096, 11008)
    work = 2 * rows * inner * outer / 1e12

    def bf16() -> float:
        x, weight = _random(rows, inner), _random(outer, inner)
        return work / _seconds(lambda: x @ weight.T)

    def fp8() -> float:
        x, weight = (_random(*size).to(torch.float8_e4m3fn) for size in ((rows, inner), (outer, inner)))
        scale, scales = torch.ones(rows, 1, device=device()), torch.ones(1, outer, device=device())
        return work / _seconds(lambda: torch._scaled_mm(x, weight.T, scale, scales, out_dtype=torch.bfloat16))

    def copy() -> float:
        weight = _random(outer, inner)
        return 2 * weight.nbytes / 1e12 / _seconds(weight.clone)

    name = torch.cuda.get_device_name() if torch.cuda.is_available() else "the CPU (a rehearsal)"
    return {"device": name} | each({"bf16_tflops": bf16, "fp8_tflops": fp8, "copy_tb": copy})


def _random(rows: int, columns: int) -> torch.Tensor:
    return torch.randn(rows, columns, device=device(), dtype=torch.bfloat16)


def _seconds(call: Callable[[], Any], repeats: int = 20) -> float:
    call()
    synchronize()
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    synchronize()
    return (time.perf_counter() - start) / repeats


def numbers() -> dict[str, Any]:
    """Relative errors of what only a GPU runs: attention over spans, products in e4m3, LoRA's dropout in one kernel."""
    return each({"attention": _attention_error, "fp8 product": _fp8_error, "dropout": _dropout_error})


def _attention_error() -> float:
    """A beginning with two branches and a sample alone, 16 bit, beside fp32 by hand."""
    from llava_finetune.kernels.unpadded_attention import Samples, _attention

    spans = [[40, 9, 23], [31]]
    total = sum(map(sum, spans))
    draw = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(1, 2, total, 64, generator=draw) for _ in range(3))
    asked = torch.tensor([0, 40, 49, 72, 103], dtype=torch.int32, device=device())
    seen = torch.tensor([0, 40, 89, 152, 183], dtype=torch.int32, device=device())
    found = []
    for name, where, dtype in (("eager", "cpu", torch.float32), ("sdpa", device(), torch.bfloat16)):
        samples = Samples(spans, asked.to(where), seen.to(where))
        parts = [part.to(where, dtype) for part in (query, key, value)]
        found.append(_attention(name)(None, *parts, None, samples=samples)[0].float().cpu())
    return _apart(found[1], found[0])


def _fp8_error() -> float:
    from llava_finetune.kernels import fp8

    x, weight = torch.randn(64, 256), torch.randn(128, 256)
    kept, scales = (one.to(device()) for one in fp8.packed(weight))
    got = fp8.product(x.to(device(), torch.bfloat16), kept, scales, None)
    return _apart(got.float().cpu(), x @ weight.T)


def _dropout_error() -> float:
    """How far the mean of what dropout keeps lies from the mean of everything."""
    from llava_finetune.kernels.fast_lora import dropped

    kept, _, factor = dropped(torch.ones(1024, 1024, device=device()), 0.05)
    return abs(float((kept * factor).mean()) - 1)


def _apart(got: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((got - wanted).norm() / wanted.norm())
