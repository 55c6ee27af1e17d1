"""The language model's GGUF file, under the architecture that llama.cpp has for it (`architectures`).

llama.cpp turns neighbouring pairs of a Llama head's channels where transformers turns its halves, so the rows of q_proj
and k_proj change places, each by its own number of heads.

    file = language_model(source, vocabulary, template_text, FILE_TYPES["f16"])
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import gguf
import torch
from gguf import GGMLQuantizationType as Kind

from llava_finetune.convert.gguf.architectures import Architecture, architecture_of
from llava_finetune.convert.gguf.file_types import FileType
from llava_finetune.convert.gguf.files import GgufFile, Tensor
from llava_finetune.convert.gguf.source import Source
from llava_finetune.convert.gguf.vocabulary import Vocabulary
from llava_finetune.errors import UserError

OPTIONAL_PARTS = ("tower", "projector", "newline")


def language_model(source: Source, vocabulary: Vocabulary, template: str, file_type: FileType) -> GgufFile:
    """Plan the language model's file. Raises UserError for rotary scaling or a tensor that llama.cpp has not."""
    kind = architecture_of(source.config["model_type"])
    file = GgufFile(kind.name)
    _add_shape(file.writer, source, file_type)
    vocabulary.add_to(file.writer)
    file.writer.add_chat_template(template)
    _add_rotary(file, source.config, kind)
    layers = int(source.config["num_hidden_layers"])
    known = gguf.get_tensor_name_map(kind.number, layers)
    tied = bool(source.config.get("tie_word_embeddings"))
    for name, stored in source.tensors.items():
        if name.part in OPTIONAL_PARTS or (name.part == "head" and tied):
            continue
        own = f"model.{name.rest}" if name.part == "text" else "lm_head.weight"
        target = known.get_name(own, try_suffixes=(".weight", ".bias"))
        if target is None:
            raise UserError(f"{source.folder}: tensor {own} has no place in llama.cpp's architecture {kind.name}")
        load = _permuted(stored.load, _heads_of(own, source.config) if kind.turns_pairs else None)
        file.tensors.append(Tensor(target, stored.shape, file_type.of(stored.shape), load))
    _check_complete(file, source, kind, tied)
    return file


def permute(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """Rows (or a bias) from transformers' order, halves of a head, to llama.cpp's, neighbouring pairs."""
    half = weight.shape[0] // heads // 2
    return weight.reshape(heads, 2, half, *weight.shape[1:]).transpose(1, 2).reshape(weight.shape)


def _permuted(load: Any, heads: int | None) -> Any:
    return load if heads is None else lambda: permute(load(), heads)


def _heads_of(name: str, config: Mapping[str, Any]) -> int | None:
    """By how many heads a tensor's rows are turned; None for one that is not."""
    if ".q_proj." in name:
        return int(config["num_attention_heads"])
    if ".k_proj." in name:
        return int(config.get("num_key_value_heads") or config["num_attention_heads"])
    return None


def _add_shape(writer: Any, source: Source, file_type: FileType) -> None:
    config = source.config
    heads = int(config["num_attention_heads"])
    width = int(config["hidden_size"])
    head = int(config.get("head_dim") or width // heads)
    context = int(config["max_position_embeddings"])
    window = config.get("sliding_window") if config.get("use_sliding_window", True) else None
    writer.add_type("model")
    writer.add_name(source.folder.resolve().name)
    writer.add_file_type(file_type.number)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_vocab_size(source.rows())
    # llama.cpp reads no sliding window for these architectures: within the window both are the same.
    writer.add_context_length(min(context, int(window)) if window else context)
    writer.add_embedding_length(width)
    writer.add_block_count(int(config["num_hidden_layers"]))
    writer.add_feed_forward_length(int(config["intermediate_size"]))
    writer.add_head_count(heads)
    writer.add_head_count_kv(int(config.get("num_key_value_heads") or heads))
    writer.add_rope_dimension_count(head)
    writer.add_layer_norm_rms_eps(float(config["rms_norm_eps"]))
    if head * heads != width:
        writer.add_key_length(head)
        writer.add_value_length(head)


def rotary(config: Mapping[str, Any]) -> dict[str, Any]:
    """The rotary settings of a config, old keys (rope_theta, rope_scaling) and new (rope_parameters) alike."""
    new = dict(config.get("rope_parameters") or config.get("rope_scaling") or {})
    new.setdefault("rope_theta", config.get("rope_theta") or 10000.0)
    new["rope_type"] = new.get("rope_type") or new.get("type") or "default"
    return new


def _add_rotary(file: GgufFile, config: Mapping[str, Any], architecture: Architecture) -> None:
    settings = rotary(config)
    file.writer.add_rope_freq_base(float(settings["rope_theta"]))
    kind = settings["rope_type"]
    turned = config.get("no_rope_layers") or []
    if [bool(one) for one in turned] != [place % 4 != 0 for place in range(1, len(turned) + 1)]:
        raise UserError(
            f"config.json: no_rope_layers {turned}: llama.cpp leaves every fourth layer without rotary positions, and "
            "no other; serve the model with: llava-finetune serve"
        )
    if kind not in architecture.rotary:
        known = " and ".join(architecture.rotary[1:])
        raise UserError(f'config.json: rotary scaling "{kind}" is not written as GGUF; supported: {known}')
    if kind == "linear":
        file.writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        file.writer.add_rope_scaling_factor(float(settings["factor"]))
    elif kind == "llama3":
        factors = _llama3_factors(settings, config)
        file.tensors.append(Tensor("rope_freqs.weight", tuple(factors.shape), Kind.F32, lambda: factors))


def _llama3_factors(settings: Mapping[str, Any], config: Mapping[str, Any]) -> torch.Tensor:
    """By what llama.cpp divides each frequency: Llama 3.1's scaling, long waves fully, short ones not at all."""
    head = int(config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"])
    factor, original = float(settings["factor"]), float(settings["original_max_position_embeddings"])
    low, high = float(settings["low_freq_factor"]), float(settings["high_freq_factor"])
    waves = 2 * math.pi * float(settings["rope_theta"]) ** (torch.arange(0, head, 2, dtype=torch.float64) / head)
    smooth = ((original / waves - low) / (high - low)).clamp(0, 1)
    return (1 / ((1 - smooth) / factor + smooth)).to(torch.float32)


def _check_complete(file: GgufFile, source: Source, kind: Architecture, tied: bool) -> None:
    """Raise UserError unless every tensor of the architecture is there: llama.cpp would name it only when it loads."""
    layers = int(source.config["num_hidden_layers"])
    expected = {f"blk.{layer}.{part}" for layer in range(layers) for part in kind.layer}
    expected |= {"token_embd.weight", "output_norm.weight"} | (set() if tied else {"output.weight"})
    missing = sorted(expected - {each.name for each in file.tensors})
    if missing:
        raise UserError(
            f"{source.folder}: {len(missing)} tensors of the language model are missing, the first is {missing[0]} "
            "(llama.cpp's name); copy the folder again"
        )
