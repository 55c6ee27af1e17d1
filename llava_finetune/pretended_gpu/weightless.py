"""Models without weights: `from_pretrained` makes a model of its config alone, quantised where that is asked for.

A 4-bit layer is bitsandbytes' own, with the tensors that its quantisation leaves on a GPU.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
from torch.utils._python_dispatch import _disable_current_modes

BLOCK = 64
"""Weights of one scale in bitsandbytes' 4-bit types."""
NESTED_BLOCK = 256
"""Scales of one scale of scales, with double quantisation."""


@contextlib.contextmanager
def from_config_alone() -> Iterator[None]:
    """Inside, transformers' models come without weights: fake, if a FakeTensorMode is entered."""
    from transformers import PreTrainedModel

    with mock.patch.object(PreTrainedModel, "from_pretrained", classmethod(_make)):
        yield


def _make(cls: Any, /, path: Any = None, *_: Any, config: Any = None, dtype: Any = None, **keywords: Any) -> Any:
    from transformers import initialization

    config = config or cls.config_class.from_pretrained(path)
    attention = keywords.get("attn_implementation")
    how = {"attn_implementation": attention} if attention else {}
    with initialization.no_init_weights():
        model = cls._from_config(config, dtype=dtype or torch.float32, **how)
    model.eval()
    quantized = keywords.get("quantization_config")
    if quantized is not None:
        quantize(model, quantized)
    elif "cuda" in str(keywords.get("device_map")):
        model.to("cuda")
    return (model, {"missing_keys": set()}) if keywords.get("output_loading_info") else model


def quantize(model: Any, how: Any) -> None:
    """Put bitsandbytes' 4-bit layers where its loader would, and the whole model on the GPU."""
    from transformers.utils.quantization_config import QuantizationMethod

    skipped = tuple(how.llm_int8_skip_modules)
    for name, module in list(model.named_modules()):
        if type(module) is torch.nn.Linear and not name.startswith(skipped):
            parent, _, last = name.rpartition(".")
            setattr(model.get_submodule(parent), last, _four_bit(module, how))
    model.is_quantized = model.is_loaded_in_4bit = True
    model.quantization_method = QuantizationMethod.BITS_AND_BYTES
    kept = {"is_trainable": True, "is_qat_trainable": False, "is_compileable": False}
    model.hf_quantizer = SimpleNamespace(quantization_config=how, **kept)
    model.to("cuda")
    model.hf_device_map = {"": torch.device("cuda", 0)}


def _four_bit(module: torch.nn.Linear, how: Any) -> Any:
    """A layer of packed weights, N / 2 bytes, with the state that unpacks them."""
    import bitsandbytes
    from bitsandbytes.functional import QuantState

    size, number = (module.in_features, module.out_features), module.weight.numel()
    kept = {"compress_statistics": how.bnb_4bit_use_double_quant, "quant_type": how.bnb_4bit_quant_type}
    with _disable_current_modes(), torch.device("meta"):
        layer = bitsandbytes.nn.Linear4bit(  # type: ignore[attr-defined]
            *size, module.bias is not None, compute_dtype=how.bnb_4bit_compute_dtype, **kept
        )
    scales = -(-number // BLOCK)
    with torch.device("cuda"):
        weight = torch.nn.Parameter(torch.empty(number // 2, 1, dtype=torch.uint8), requires_grad=False)
        codes = torch.empty(16)
        state = {"code": codes, "blocksize": BLOCK, "quant_type": kept["quant_type"], "dtype": module.weight.dtype}
        if how.bnb_4bit_use_double_quant:
            nested = QuantState(
                torch.empty(-(-scales // NESTED_BLOCK)),
                code=torch.empty(256),
                blocksize=NESTED_BLOCK,
                dtype=torch.float32,
            )
            state |= {"absmax": torch.empty(scales, dtype=torch.uint8), "offset": torch.empty(()), "state2": nested}
        else:
            state["absmax"] = torch.empty(scales)
    weight.quant_state = layer.quant_state = QuantState(shape=torch.Size(module.weight.shape), **state)
    weight.bnb_quantized, weight.quant_storage = True, torch.uint8
    weight.compress_statistics, weight.quant_type = kept["compress_statistics"], kept["quant_type"]
    del layer.weight
    layer.weight = weight
    layer.bias = module.bias
    return layer
