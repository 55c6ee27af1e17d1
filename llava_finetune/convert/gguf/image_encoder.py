"""The second GGUF file, `mmproj`: the CLIP tower as far as LLaVA runs it, and the projector.

`block_count` and `feature_layer` both say at which layer the features are taken: without the second llama.cpp leaves
out one layer more (its issue 25817). The tower's last norm is never applied, so it is not written.

    file = image_encoder(source, FILE_TYPES["f16"])
"""

from __future__ import annotations

import re
from typing import Any

from gguf import GGMLQuantizationType as Kind

from llava_finetune.convert.gguf.file_types import FileType, fitting
from llava_finetune.convert.gguf.files import GgufFile, Tensor
from llava_finetune.convert.gguf.source import Source
from llava_finetune.errors import UserError

ACTIVATIONS = {"gelu": True, "quick_gelu": False}
LAYER = re.compile(r"encoder\.layers\.(\d+)\.(.+)\.(weight|bias)")
PARTS = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.out_proj": "attn_out",
    "layer_norm1": "ln1",
    "layer_norm2": "ln2",
    "mlp.fc1": "ffn_up",
    "mlp.fc2": "ffn_down",
}
SINGLE = {
    "embeddings.class_embedding": "v.class_embd",
    "embeddings.patch_embedding.weight": "v.patch_embd.weight",
    "embeddings.position_embedding.weight": "v.position_embd.weight",
    "pre_layrnorm.weight": "v.pre_ln.weight",
    "pre_layrnorm.bias": "v.pre_ln.bias",
}
ALWAYS_F32 = ("v.position_embd.weight",)


def image_encoder(source: Source, file_type: FileType) -> GgufFile:
    """Plan the file of tower and projector. Raises UserError for a tower that llama.cpp's CLIP is not."""
    layers = num_layers(source)
    file = GgufFile("clip")
    _add_shape(file.writer, source, layers, file_type)
    for name, stored in source.tensors.items():
        target = _target(name.part, name.rest, layers)
        if target is not None:
            kind = Kind.F32 if target in ALWAYS_F32 else fitting(file_type.tower, stored.shape)
            file.tensors.append(Tensor(target, stored.shape, kind, stored.load))
    _check_complete(file, source, layers)
    return file


def num_layers(source: Source) -> int:
    """After how many of the tower's layers the features are taken: -2 of 24 is 23."""
    select, layers = int(source.config.get("mm_vision_select_layer", -2)), int(source.vision["num_hidden_layers"])
    taken = select if select >= 0 else layers + select + 1
    if not 1 <= taken <= layers:
        raise UserError(
            f"config.json: mm_vision_select_layer {select} is none of the tower's {layers} layers that llama.cpp can "
            f"take"
        )
    return taken


def _target(part: str, rest: str, layers: int) -> str | None:
    """llama.cpp's name of a tensor; None for one that is not of this file or that LLaVA never uses."""
    if part == "projector":
        return f"mm.{rest}"
    if part != "tower" or rest.startswith("post_layernorm."):
        return None
    if rest in SINGLE:
        return SINGLE[rest]
    found = LAYER.fullmatch(rest)
    if found is None or found[2] not in PARTS:
        raise UserError(f"the tower's tensor {rest} has no place in llama.cpp's CLIP")
    return f"v.blk.{found[1]}.{PARTS[found[2]]}.{found[3]}" if int(found[1]) < layers else None


def _add_shape(writer: Any, source: Source, layers: int, file_type: FileType) -> None:
    vision, pictures = source.vision, source.pictures
    activation = vision.get("hidden_act", "quick_gelu")
    if activation not in ACTIVATIONS:
        raise UserError(f'the tower\'s hidden_act "{activation}" is not in llama.cpp; it has {", ".join(ACTIVATIONS)}')
    writer.add_type("mmproj")
    writer.add_name(source.folder.resolve().name)
    writer.add_file_type(0 if file_type.tower is Kind.F32 else 1)
    writer.add_bool("clip.has_vision_encoder", True)
    writer.add_string("clip.projector_type", "mlp")
    writer.add_bool("clip.use_gelu", ACTIVATIONS[activation])
    for key, name in (
        ("image_size", "image_size"),
        ("patch_size", "patch_size"),
        ("embedding_length", "hidden_size"),
        ("feed_forward_length", "intermediate_size"),
        ("attention.head_count", "num_attention_heads"),
    ):
        writer.add_uint32(f"clip.vision.{key}", int(vision[name]))
    writer.add_uint32("clip.vision.projection_dim", int(vision.get("projection_dim") or vision["hidden_size"]))
    writer.add_uint32("clip.vision.block_count", layers)
    writer.add_array("clip.vision.feature_layer", [layers])
    writer.add_float32("clip.vision.attention.layer_norm_epsilon", float(vision.get("layer_norm_eps", 1e-5)))
    writer.add_array("clip.vision.image_mean", [float(value) for value in pictures["image_mean"]])
    writer.add_array("clip.vision.image_std", [float(value) for value in pictures["image_std"]])


def _check_complete(file: GgufFile, source: Source, layers: int) -> None:
    expected = set(SINGLE.values()) | {f"mm.{layer}.{kind}" for layer in (0, 2) for kind in ("weight", "bias")}
    expected |= {
        f"v.blk.{layer}.{part}.{kind}"
        for layer in range(layers)
        for part in PARTS.values()
        for kind in ("weight", "bias")
    }
    missing = sorted(expected - {each.name for each in file.tensors})
    if missing:
        raise UserError(
            f"{source.folder}: {len(missing)} tensors of tower and projector are missing, the first is {missing[0]} "
            "(llama.cpp's name); copy the folder again, or name the tower's with --vision-tower"
        )
