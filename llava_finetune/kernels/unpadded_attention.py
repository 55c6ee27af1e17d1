"""Attention for batches without padding: the one place in a decoder layer where samples are kept apart.

On a GPU all samples go through one variable-length FlashAttention call, torch's own (SDPA, 16 bit, compute capability
8.0 and later) or flash-attn's. On CPU, and where a sample has a mask of its own, they take turns.

    if can_unpad(model.config):
        unpad_attention(model.config)
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

UNPADDED = "unpadded_"
FLASH = "flash_attention_"


@dataclass(frozen=True, eq=False)
class Samples:
    """Where the samples of a batch without padding lie: an object, for torch.compile would guard a dict's every item.

    lengths: positions of each; bounds: their sums from 0 (int32); masks: bool T x T for each, None for causal.
    """

    lengths: Sequence[int]
    bounds: torch.Tensor
    masks: Sequence[torch.Tensor | None]


def can_unpad(config: Any) -> bool:
    """Whether a model's attention can run on laid-out batches: eager, SDPA or flash, no window, no dropout in it."""
    name = config._attn_implementation
    plain = name in ("eager", "sdpa") or name.startswith((UNPADDED, FLASH))
    return plain and not getattr(config, "sliding_window", None) and not getattr(config, "attention_dropout", 0)


def unpad_attention(config: Any) -> None:
    """Switch a language model's config to attention that takes `samples`; padded batches go on as before."""
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    name = config._attn_implementation
    if name.startswith(UNPADDED):
        return
    # transformers reads from the config which flash kernels it loads: that name has to stay.
    new = name if name.startswith(FLASH) else UNPADDED + name
    ALL_ATTENTION_FUNCTIONS.register(new, _attention(name))
    ALL_MASK_ATTENTION_FUNCTIONS.register(new, ALL_MASK_ATTENTION_FUNCTIONS[name])
    config._attn_implementation = new


def _attention(name: str) -> Any:
    """An attention function for transformers: laid-out batches sample by sample, anything else as `name` does."""

    @torch.compiler.disable  # its lengths are plain numbers: a compiled layer would be compiled again for each batch
    def attention(
        module: Any, query: Any, key: Any, value: Any, mask: Any, scaling: float | None = None, **keywords: Any
    ) -> Any:
        samples = keywords.pop("samples", None)
        if samples is None:
            return _padded(name)(module, query, key, value, mask, scaling=scaling, **keywords)
        scale = query.shape[-1] ** -0.5 if scaling is None else scaling
        if _in_one_call(name, query, samples):
            return _varied(name, query, key, value, scale, samples), None
        each: Any = _short if name == "eager" else _fused
        pieces: Any = zip(*(part.squeeze(0).split(samples.lengths, dim=1) for part in (query, key, value)), strict=True)
        masked = zip(pieces, samples.masks, strict=True)
        out = torch.cat([each(*piece, scale, seen).transpose(0, 1) for piece, seen in masked])
        return out[None], None

    return attention


def _padded(name: str) -> Any:
    from transformers.integrations.flash_attention import flash_attention_forward
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
    from transformers.models.llama.modeling_llama import eager_attention_forward

    if name.startswith(FLASH):
        return flash_attention_forward
    return ALL_ATTENTION_FUNCTIONS.get_interface(name, eager_attention_forward)


def _short(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float, seen: torch.Tensor | None
) -> torch.Tensor:
    """Attention of one sample by two matrix products: on CPU the backward of short ones beats SDPA's.

    query: heads x T x D; key, value: groups x T x D, never repeated; seen: bool T x T, None for causal. Softmax is
    fp32 inside, as eager's.
    """
    groups, length, width = key.shape
    folded = query.reshape(groups, -1, length, width)
    scores = torch.matmul(folded * scaling, key[:, None].transpose(-1, -2))
    if seen is None:
        seen = torch.ones(length, length, dtype=torch.bool, device=query.device).tril()
    weights = scores.masked_fill(~seen, torch.finfo(scores.dtype).min).softmax(-1)
    return torch.matmul(weights, value[:, None]).reshape(query.shape)


def _fused(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float, seen: torch.Tensor | None
) -> torch.Tensor:
    attend = functional.scaled_dot_product_attention
    how: dict[str, Any] = {"attn_mask": seen, "is_causal": seen is None, "scale": scaling, "enable_gqa": True}
    return attend(query[None], key[None], value[None], **how)[0]  # type: ignore[no-any-return]


def _in_one_call(name: str, query: torch.Tensor, samples: Samples) -> bool:
    """Whether a variable-length kernel takes this batch: no masks, and flash-attn's or torch's is there."""
    if any(mask is not None for mask in samples.masks):
        return False
    return name.startswith(FLASH) or (name == "sdpa" and _has_varlen(query.device, _type(query)))


@functools.cache
def _has_varlen(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether torch's variable-length attention runs: FlashAttention 2, in 16 bit, on Ampere or later."""
    if device.type != "cuda" or dtype.itemsize != 2 or importlib.util.find_spec("torch.nn.attention.varlen") is None:
        return False
    return torch.cuda.get_device_capability(device) >= (8, 0)


def _type(query: torch.Tensor) -> torch.dtype:
    """The type that SDPA would compute in; the kernels called here do not know autocast."""
    device = query.device.type
    cast = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
    return torch.get_autocast_dtype(device) if cast else query.dtype


def _varied(
    name: str, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float, samples: Samples
) -> torch.Tensor:
    """Causal attention of all samples in one call, 1 x N x heads x D; `bounds`: where each begins and the last ends."""
    dtype = _type(query)
    parts = [part.transpose(1, 2).to(dtype) for part in (query, key, value)]
    bounds, longest = samples.bounds, max(samples.lengths)
    if name.startswith(FLASH):
        from transformers.modeling_flash_attention_utils import _flash_attention_forward

        lengths = {"cu_seq_lens_q": bounds, "cu_seq_lens_k": bounds, "max_length_q": longest, "max_length_k": longest}
        how = {"is_causal": True, "softmax_scale": scaling, "attn_implementation": name, **lengths}
        return _flash_attention_forward(*parts, None, query_length=query.shape[2], **how)  # type: ignore[no-any-return]
    from torch.nn.attention.varlen import varlen_attn

    grouped = key.shape[1] != query.shape[1]
    how = {"scale": scaling, "window_size": (-1, 0), "enable_gqa": grouped}  # nothing to the right: causal
    return varlen_attn(*(part.squeeze(0) for part in parts), bounds, bounds, longest, longest, **how)[None]  # type: ignore
