"""Kernels that a GPU has of its own and a CPU build of torch takes apart: chosen here as a CUDA build would.

What they compute is never run. Which one is chosen is an assumption, and docs/pretended-gpu.md lists it as one.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from typing import Any
from unittest import mock

import torch

REAL_ATTENTION = torch.nn.functional.scaled_dot_product_attention


@contextlib.contextmanager
def gpu_kernels() -> Iterator[None]:
    """Inside, attention on `cuda` is one kernel, and so are the gradient of SiLU and torch's own RMSNorm.

    transformers asks whether tensors are fake, for it takes them for those of a compiler, which has kernels of its own.
    """
    from transformers.utils import import_utils

    _keep_whole()
    with (
        mock.patch.object(torch.nn.functional, "scaled_dot_product_attention", attention),
        mock.patch.object(import_utils, "is_fake_tensor", lambda tensor: False),
    ):
        yield


@functools.cache
def _keep_whole() -> torch.library.Library:
    """Without a kernel for CUDA, the dispatcher takes these apart before anyone sees them."""
    library = torch.library.Library("aten", "IMPL", "CUDA")
    if not torch.backends.cuda.is_built():
        for name in ("silu_backward", "_fused_rms_norm", "_fused_rms_norm_backward"):
            library.impl(name, _never)
    return library


def _never(*_: Any, **__: Any) -> Any:
    raise RuntimeError("a pretended kernel was run: its tensors were not fake")


def attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> torch.Tensor:
    """SDPA's choice on a GPU: FlashAttention without a mask in 16 bit from 8.0 on, else the memory-efficient kernel."""
    if query.device.type != "cuda":
        how = {"scale": scale, "enable_gqa": enable_gqa}
        return REAL_ATTENTION(query, key, value, attn_mask, dropout_p, is_causal, **how)  # type: ignore[arg-type]
    dtype = torch.get_autocast_dtype("cuda") if torch.is_autocast_enabled("cuda") else query.dtype
    query, key, value = (part.to(dtype) for part in (query, key, value))
    if attn_mask is None and dtype.itemsize == 2 and torch.cuda.get_device_capability()[0] >= 8:
        flash = torch.ops.aten._scaled_dot_product_flash_attention
        return flash(query, key, value, dropout_p, is_causal, False, scale=scale)[0]  # type: ignore[no-any-return]
    groups = query.shape[-3] // key.shape[-3]
    if groups > 1:
        key, value = key.repeat_interleave(groups, -3), value.repeat_interleave(groups, -3)
    efficient = torch.ops.aten._scaled_dot_product_efficient_attention
    bias = None if attn_mask is None else _bias(attn_mask, dtype).expand(*query.shape[:3], key.shape[2])
    return efficient(query, key, value, bias, True, dropout_p, is_causal, scale=scale)[0]  # type: ignore[no-any-return]


def _bias(mask: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """A mask as the kernel adds it to the scores."""
    if mask.dtype != torch.bool:
        return mask
    return torch.zeros_like(mask, dtype=dtype).masked_fill_(mask.logical_not(), float("-inf"))
