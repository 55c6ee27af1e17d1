"""Choose the training precision by the hardware, and say why.

bf16 where it is native; else fp16 weights with fp32 trainables and loss scaling; else fp32.

    choose_precision("auto", "cpu")
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from llava_finetune.errors import UsageError

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


@dataclass(frozen=True)
class Precision:
    """`name` is bf16, fp16 or fp32; `reason` is one clause for the log."""

    name: str
    reason: str

    @property
    def dtype(self) -> torch.dtype:
        return DTYPES[self.name]


def cpu_has_bf16() -> bool:
    """True when the CPU multiplies bf16 natively (AMX or AVX512-BF16); elsewhere bf16 is emulated and slow."""
    return bool(torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported())


def choose_precision(asked: str, device: str) -> Precision:
    """`asked`: auto, bf16, fp16 or fp32; `device`: cuda, mps or cpu."""
    if asked != "auto":
        if asked not in DTYPES:
            raise UsageError(f"--precision {asked}: expected auto, {', '.join(DTYPES)}")
        return Precision(asked, "asked for")
    if device == "cuda":
        major, minor = torch.cuda.get_device_capability()
        if major >= 8:
            return Precision("bf16", f"compute capability {major}.{minor} has native bf16")
        return Precision("fp16", f"compute capability {major}.{minor} has no native bf16")
    if device == "cpu" and cpu_has_bf16():
        return Precision("bf16", "this CPU multiplies bf16 natively")
    return Precision("fp32", f"{device} has no fast 16-bit arithmetic")
