"""Tensor names of the two layouts: each direction undoes the other, and foreign names have no place."""

from __future__ import annotations

import pytest

from llava_finetune.saved import tensor_names

PAIRS = {
    "model.embed_tokens.weight": "language_model.model.embed_tokens.weight",
    "model.layers.0.self_attn.q_proj.weight": "language_model.model.layers.0.self_attn.q_proj.weight",
    "model.norm.weight": "language_model.model.norm.weight",
    "lm_head.weight": "language_model.lm_head.weight",
    "model.mm_projector.0.weight": "multi_modal_projector.linear_1.weight",
    "model.mm_projector.2.bias": "multi_modal_projector.linear_2.bias",
    "model.image_newline": "image_newline",
    "model.vision_tower.vision_tower.vision_model.encoder.layers.1.mlp.fc1.weight": (
        "vision_tower.vision_model.encoder.layers.1.mlp.fc1.weight"
    ),
}


@pytest.mark.parametrize(("upstream", "hub"), PAIRS.items())
def test_each_direction_undoes_the_other(upstream: str, hub: str) -> None:
    neutral = tensor_names.from_upstream(upstream)
    assert neutral is not None
    assert neutral == tensor_names.from_llava_hf(hub)
    assert tensor_names.to_llava_hf(neutral) == hub
    assert tensor_names.to_upstream(neutral) == upstream


@pytest.mark.parametrize(
    ("modern", "hub"),
    [
        ("model.language_model.layers.0.mlp.up_proj.weight", "language_model.model.layers.0.mlp.up_proj.weight"),
        ("model.vision_tower.embeddings.class_embedding", "vision_tower.vision_model.embeddings.class_embedding"),
        ("model.multi_modal_projector.linear_1.bias", "multi_modal_projector.linear_1.bias"),
        ("model.image_newline", "image_newline"),
        ("lm_head.weight", "language_model.lm_head.weight"),
    ],
)
def test_both_spellings_of_llava_hf_are_one_name(modern: str, hub: str) -> None:
    assert tensor_names.from_llava_hf(modern) == tensor_names.from_llava_hf(hub) is not None


@pytest.mark.parametrize(
    "name", ["qformer.layer.0.weight", "model.mm_projector.1.weight", "model.mm_projector.sampler.weight"]
)
def test_a_name_of_another_architecture_has_no_place(name: str) -> None:
    parse = tensor_names.from_upstream if name.startswith("model.") else tensor_names.from_llava_hf
    assert parse(name) is None


def test_the_text_half_of_a_clip_has_no_place() -> None:
    assert tensor_names.from_clip("text_model.encoder.layers.0.mlp.fc1.weight") is None
    assert tensor_names.from_clip("logit_scale") is None
    assert tensor_names.from_clip("vision_model.post_layernorm.bias") == tensor_names.Name(
        "tower", "post_layernorm.bias"
    )


def test_dinov2s_names_are_one_in_its_files_and_in_memory() -> None:
    saved = tensor_names.from_clip("encoder.layer.3.attention.attention.query.weight")
    assert saved == tensor_names.from_upstream(
        "model.vision_tower.vision_tower.encoder.layer.3.attention.q_proj.weight"
    )
    assert saved == tensor_names.from_llava_hf("model.vision_tower.encoder.layer.3.attention.q_proj.weight")
    assert saved is not None
    assert tensor_names.to_llava_hf(saved) == "vision_tower.encoder.layer.3.attention.attention.query.weight"
    assert tensor_names.to_upstream(saved) == "model.vision_tower.vision_tower.encoder.layer.3.attention.q_proj.weight"
    assert tensor_names.from_clip("vision_model.head.probe") is None
