"""Tensor names of the two layouts, mapped through one neutral name, so that each direction is the other's inverse.

Neutral names are (part, rest): part is one of `text`, `head`, `tower`, `projector`, `newline`. llava-hf exists in two
spellings (the hub's `language_model.model.X`, transformers 5's in-memory `model.language_model.X`); both are read, the
hub's is written because vLLM, SGLang and older transformers know only that one.

    to_upstream(from_llava_hf("language_model.model.norm.weight"))   # "model.norm.weight"
"""

from __future__ import annotations

from dataclasses import dataclass

# Upstream's Sequential indices of mlp2x_gelu against llava-hf's attribute names.
_PROJECTOR = {"0": "linear_1", "2": "linear_2"}
_PROJECTOR_BACK = {value: key for key, value in _PROJECTOR.items()}
# DINOv2's attention as its files spell it, against transformers' names in memory; nothing is called `vision_model`.
_DINO = {
    "attention.attention.query": "attention.q_proj",
    "attention.attention.key": "attention.k_proj",
    "attention.attention.value": "attention.v_proj",
    "attention.output.dense": "attention.o_proj",
}
_EMBEDDED = ("cls_token", "mask_token", "patch_embeddings.", "position_embeddings", "register_tokens")
_OF_DINO = ("encoder.layer.", "layernorm.", *(f"embeddings.{name}" for name in _EMBEDDED))
_BUFFERS = (".rotary_emb.inv_freq", ".position_ids")


@dataclass(frozen=True)
class Name:
    """A tensor's neutral name: the part of the model, and the name inside that part ("" for a lone tensor)."""

    part: str
    rest: str


def is_buffer(name: str) -> bool:
    """Whether a tensor is a constant that old transformers saved and new ones compute."""
    return name.endswith(_BUFFERS)


def from_llava_hf(name: str) -> Name | None:
    """Neutral name of a llava-hf tensor, in either spelling; None when the name is not part of a LLaVA."""
    if name in ("lm_head.weight", "language_model.lm_head.weight"):
        return Name("head", "weight")
    name = name.removeprefix("model.")
    if name == "image_newline":
        return Name("newline", "")
    if name.startswith("language_model."):
        return Name("text", name.removeprefix("language_model.").removeprefix("model."))
    if name.startswith("vision_tower."):
        return Name("tower", _tower_rest(name.removeprefix("vision_tower.")))
    if name.startswith("multi_modal_projector."):
        return _projector(name.removeprefix("multi_modal_projector."), _PROJECTOR_BACK)
    return None


def from_upstream(name: str) -> Name | None:
    """Neutral name of a tensor in upstream's layout; None when the name is not part of a LLaVA."""
    if name == "lm_head.weight":
        return Name("head", "weight")
    if not name.startswith("model."):
        return None
    name = name.removeprefix("model.")
    if name == "image_newline":
        return Name("newline", "")
    if name.startswith("vision_tower.vision_tower."):
        return Name("tower", _tower_rest(name.removeprefix("vision_tower.vision_tower.")))
    if name.startswith("mm_projector."):
        rest = name.removeprefix("mm_projector.")
        return Name("projector", rest) if rest.split(".")[0] in _PROJECTOR else None
    return Name("text", name)


def from_clip(name: str) -> Name | None:
    """Neutral name of a tensor in a tower's folder; None for what is not read of a whole CLIP or SigLIP.

    That is the text half, the scales of their logits, and SigLIP's pooling head.
    """
    if name.startswith(("text_model.", "text_projection.", "visual_projection.", "logit_")):
        return None
    if name.removeprefix("vision_model.").startswith("head."):
        return None
    return Name("tower", _tower_rest(name))


def to_llava_hf(name: Name) -> str:
    """The hub's spelling of a neutral name."""
    if name.part == "text":
        return f"language_model.model.{name.rest}"
    if name.part == "head":
        return "language_model.lm_head.weight"
    if name.part == "tower" and name.rest.startswith(_OF_DINO):
        spelled = next((pair for pair in _DINO.items() if pair[1] in name.rest), ("", ""))
        return f"vision_tower.{name.rest.replace(spelled[1], spelled[0])}"
    if name.part == "tower":
        return f"vision_tower.vision_model.{name.rest}"
    if name.part == "newline":
        return "image_newline"
    index, _, tail = name.rest.partition(".")
    return f"multi_modal_projector.{_PROJECTOR[index]}.{tail}"


def to_upstream(name: Name) -> str:
    """Upstream's spelling of a neutral name (a tower's tensors as upstream saves a trained tower)."""
    prefix = {
        "text": "model.",
        "tower": "model.vision_tower.vision_tower.vision_model.",
        "projector": "model.mm_projector.",
    }
    if name.part == "head":
        return "lm_head.weight"
    if name.part == "newline":
        return "model.image_newline"
    if name.rest.startswith(_OF_DINO) and name.part == "tower":
        return f"model.vision_tower.vision_tower.{name.rest}"
    return prefix[name.part] + name.rest


def to_clip(name: Name) -> str:
    """The name inside a CLIP folder, as the hub's `openai/clip-*` spell it."""
    return f"vision_model.{name.rest}"


def _tower_rest(rest: str) -> str:
    spelled = next((pair for pair in _DINO.items() if pair[0] in rest), ("", ""))
    return rest.removeprefix("vision_model.").replace(*spelled)


def _projector(rest: str, table: dict[str, str]) -> Name | None:
    layer, _, tail = rest.partition(".")
    return Name("projector", f"{table[layer]}.{tail}") if layer in table else None
