"""Attention for batches without padding: the one place in a decoder layer where samples are kept apart.

On a GPU all samples go through one variable-length FlashAttention call, torch's own (SDPA, 16 bit, compute capability
8.0 and later) or flash-attn's. Elsewhere they take turns. Questions that share a beginning, a picture and what stands
before it, are branches of one sample: each looks at the beginning and at itself, and no mask is needed for that.

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

    spans: lengths of each sample's beginning, which all of it sees, and of its branches, which see it and themselves;
    a plain sample is a beginning alone. Of all spans of the batch, int32 sums from 0: query_bounds of their own
    lengths, key_bounds of what they look at.
    """

    spans: Sequence[Sequence[int]]
    query_bounds: torch.Tensor
    key_bounds: torch.Tensor


def can_unpad(config: Any) -> bool:
    """Whether a model's attention can run on laid-out batches: eager, SDPA or flash, no window, dropout, cap in it."""
    name = config._attn_implementation
    plain = name in ("eager", "sdpa") or name.startswith((UNPADDED, FLASH))
    kept = ("sliding_window", "attention_dropout", "attn_logit_softcapping")
    return plain and not any(getattr(config, each, None) for each in kept)


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
        if _in_one_call(name, query):
            return _varied(name, query, key, value, scale, samples), None
        each: Any = _short if name == "eager" else _fused
        asking = query.squeeze(0).split([length for spans in samples.spans for length in spans], dim=1)
        seen = (_seen_by_each(part.squeeze(0), samples.spans, 1) for part in (key, value))
        out = [each(*piece, scale).transpose(0, 1) for piece in zip(asking, *seen, strict=True)]
        return torch.cat(out)[None], None

    return attention


def _padded(name: str) -> Any:
    from transformers.integrations.flash_attention import flash_attention_forward
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
    from transformers.models.llama.modeling_llama import eager_attention_forward

    if name.startswith(FLASH):
        return flash_attention_forward
    return ALL_ATTENTION_FUNCTIONS.get_interface(name, eager_attention_forward)


def _seen_by_each(part: torch.Tensor, all_spans: Sequence[Sequence[int]], dim: int) -> list[torch.Tensor]:
    """Keys or values that each span looks at: a sample's beginning, and for a branch its own behind them."""
    pieces = iter(part.split([length for spans in all_spans for length in spans], dim=dim))
    seen = []
    for spans in all_spans:
        beginning = next(pieces)
        seen += [beginning, *(torch.cat([beginning, next(pieces)], dim) for _ in spans[1:])]
    return seen


def _causal(query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
    """Who looks at whom, bool T x S, where the T positions that ask are the last of the S that are seen."""
    length, seen = query.shape[-2], key.shape[-2]
    return torch.ones(length, seen, dtype=torch.bool, device=query.device).tril(seen - length)


def _short(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float) -> torch.Tensor:
    """Attention of one span by two matrix products: on CPU the backward of short ones beats SDPA's.

    query: heads x T x D; key, value: groups x S x D, never repeated. Softmax is fp32 inside, as eager's.
    """
    folded = query.reshape(key.shape[0], -1, *query.shape[1:])
    scores = torch.matmul(folded * scaling, key[:, None].transpose(-1, -2))
    weights = scores.masked_fill(~_causal(query, key), torch.finfo(scores.dtype).min).softmax(-1)
    return torch.matmul(weights, value[:, None]).reshape(query.shape)


def _fused(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float) -> torch.Tensor:
    # SDPA's own causal mask has its corner above: it is right for as many keys as queries alone.
    seen = None if query.shape[-2] == key.shape[-2] else _causal(query, key)
    how: dict[str, Any] = {"attn_mask": seen, "is_causal": seen is None, "scale": scaling, "enable_gqa": True}
    attend = functional.scaled_dot_product_attention
    return attend(query[None], key[None], value[None], **how)[0]  # type: ignore[no-any-return]


def _in_one_call(name: str, query: torch.Tensor) -> bool:
    """Whether a variable-length kernel takes this batch: flash-attn's or torch's is there."""
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
    """Causal attention of all spans in one call, 1 x N x heads x D; a branch's last position sees the last key.

    FlashAttention's causal mask has its corner below: with fewer queries than keys the queries are the last of them.
    """
    dtype, spans = _type(query), samples.spans
    asking, *seen = (part.transpose(1, 2).to(dtype).squeeze(0) for part in (query, key, value))
    if any(len(one) > 1 for one in spans):
        seen = [torch.cat(_seen_by_each(part, spans, 0)) for part in seen]
    bounds = samples.query_bounds, samples.key_bounds
    longest = [max(max(one) for one in spans), max(one[0] + max(one[1:], default=0) for one in spans)]
    if name.startswith(FLASH):
        from transformers.modeling_flash_attention_utils import _flash_attention_forward

        names = ("cu_seq_lens_q", "cu_seq_lens_k", "max_length_q", "max_length_k")
        how = {"is_causal": True, "softmax_scale": scaling, "attn_implementation": name}
        how |= dict(zip(names, (*bounds, *longest), strict=True))
        parts = (asking[None], *(part[None] for part in seen))
        return _flash_attention_forward(*parts, None, query_length=query.shape[2], **how)  # type: ignore[no-any-return]
    from torch.nn.attention.varlen import varlen_attn

    grouped = key.shape[1] != query.shape[1]
    how = {"scale": scaling, "window_size": (-1, 0), "enable_gqa": grouped}  # nothing to the right: causal
    return varlen_attn(asking, *seen, *bounds, *longest, **how)[None]  # type: ignore
