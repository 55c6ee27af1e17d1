"""config.json of the two layouts, mapped into each other; an architecture that one side cannot express is refused.

Why by hand: llava-hf nests a text and a vision config, upstream keeps one flat LlamaConfig or MistralConfig plus mm_*
keys, and the two write grid pinpoints in opposite order: upstream (width, height), llava-hf (height, width).

    family = upstream_family(config)       # Family.LLAVA or Family.LLAVA_NEXT, or UserError
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Any

from llava_finetune.errors import UserError
from llava_finetune.saved.language_types import OTHER_LANGUAGES, PREFIXES
from llava_finetune.saved.manifest import read_json
from llava_finetune.saved.model_files import ADAPTER_CONFIG, BESIDE_ADAPTER, PROJECTOR_WEIGHTS
from llava_finetune.saved.supported import FAMILIES

Config = dict[str, Any]

TEXT_TYPES = {
    "llava_llama": "llama",
    "llava": "llama",
    "llava_mistral": "mistral",
    **{f"llava_{name}": name for name in OTHER_LANGUAGES},
}
UPSTREAM_TYPES = {
    "llama": ("llava_llama", "LlavaLlamaForCausalLM"),
    "mistral": ("llava_mistral", "LlavaMistralForCausalLM"),
    **{name: (f"llava_{name}", f"Llava{prefix}ForCausalLM") for name, prefix in PREFIXES.items()},
}
GEMMA_2_BOUND = 30.0
"""final_logit_softcapping where a Gemma-2 config does not say it."""
_SHARED = ("architectures", "model_type", "transformers_version", "_name_or_path", "auto_map", "quantization_config")
_UPSTREAM_ONLY = ("mm_", "image_", "tune_mm", "freeze_mm", "use_mm_proj", "unfreeze_mm", "tokenizer_", "vision_tower")


class Family(Enum):
    """The two llava-hf architectures and what they accept."""

    LLAVA = "llava"
    LLAVA_NEXT = "llava_next"

    @property
    def model_class(self) -> str:
        """Name of transformers' model class."""
        return "LlavaForConditionalGeneration" if self is Family.LLAVA else "LlavaNextForConditionalGeneration"

    @property
    def processor_class(self) -> str:
        """Name of transformers' processor class."""
        return "LlavaProcessor" if self is Family.LLAVA else "LlavaNextProcessor"


def read_config(source: Path) -> Config:
    """config.json of a whole model of upstream's layout. Raises UserError for an adapter or a projector alone."""
    if any((source / name).is_file() for name in (ADAPTER_CONFIG, BESIDE_ADAPTER)):
        raise UserError(f"{source} is an adapter; merge it first: llava-finetune merge {source} merged")
    if (source / PROJECTOR_WEIGHTS).is_file() and not any(source.glob("*model*")):
        raise UserError(f"{source} holds only a projector; merge it first: llava-finetune merge {source} merged")
    return dict(read_json(source / "config.json"))


def upstream_family(config: Mapping[str, Any]) -> Family:
    """Which llava-hf architecture expresses a config of upstream's layout.

    Raises UserError when none does: another language model, a projector other than mlp2x_gelu, an anyres model that
    does not merge with spatial_unpad, start and end tokens around pictures.
    """
    model_type = config.get("model_type")
    _refuse_family(model_type)
    if model_type not in TEXT_TYPES:
        known = ", ".join(sorted(set(TEXT_TYPES)))
        raise UserError(f'config.json: model_type "{model_type}" has no llava-hf layout; supported: {known}')
    if config.get("final_logit_softcapping"):
        raise UserError(
            f"config.json: final_logit_softcapping {config['final_logit_softcapping']}: Gemma-2 bounds its logits, and "
            "llava-hf's class does not; ask the model with llava-finetune evaluate"
        )
    projector = config.get("mm_projector_type", "linear")
    if projector != "mlp2x_gelu":
        raise UserError(f'config.json: mm_projector_type "{projector}"; llava-hf has only the two-layer "mlp2x_gelu"')
    if config.get("mm_use_im_start_end"):
        raise UserError("config.json: mm_use_im_start_end is true; llava-hf has no tokens around a picture")
    aspect, merge = config.get("image_aspect_ratio", "square"), config.get("mm_patch_merge_type") or "flat"
    if aspect == "anyres":
        if merge != "spatial_unpad":
            raise UserError(
                f'config.json: mm_patch_merge_type "{merge}" with anyres; LlavaNext knows only "spatial_unpad"'
            )
        return Family.LLAVA_NEXT
    if aspect not in ("pad", "square", None) or merge != "flat":
        raise UserError(
            f'config.json: image_aspect_ratio "{aspect}" with mm_patch_merge_type "{merge}" has no llava-hf layout'
        )
    return Family.LLAVA


def _refuse_family(model_type: Any) -> None:
    """Raise UserError for a model of transformers' own classes: nothing of it is converted in either direction."""
    if model_type in FAMILIES:
        raise UserError(
            f'config.json: model_type "{model_type}": it is in transformers\' own layout, and is trained, evaluated, '
            "merged and read by others as it is; nothing is to convert (docs/families.md)"
        )


def require_tower_fits(vision: Mapping[str, Any]) -> None:
    """Raise UserError for a tower whose features transformers' LLaVA would not read as training did."""
    kind = vision["model_type"]
    if kind == "dinov2_with_registers":
        raise UserError(
            "the vision tower is a DINOv2 with registers, which llava-hf would hand to the language model as patches; "
            "serve the model with: llava-finetune serve"
        )
    if kind == "dinov2" and vision.get("use_swiglu_ffn"):
        raise UserError(
            "the vision tower is DINOv2-giant, whose gated layers lie fused in its files and are not written; "
            "serve the model with: llava-finetune serve"
        )


def llava_hf_family(config: Mapping[str, Any]) -> Family:
    """The family of a llava-hf config; UserError for another architecture or for parts that upstream lacks."""
    model_type = config.get("model_type")
    _refuse_family(model_type)
    if model_type not in ("llava", "llava_next") or "text_config" not in config:
        raise UserError(
            f'config.json: model_type "{model_type}" is not a llava-hf model that upstream can hold; '
            "supported: llava (LlavaForConditionalGeneration) and llava_next (LlavaNextForConditionalGeneration)"
        )
    text = config["text_config"].get("model_type", "llama")
    if text not in UPSTREAM_TYPES:
        raise UserError(
            f'config.json: text_config.model_type "{text}"; a LLaVA is made of one of {", ".join(UPSTREAM_TYPES)}'
        )
    if text == "gemma2" and config["text_config"].get("final_logit_softcapping", GEMMA_2_BOUND):
        raise UserError(
            'config.json: text_config.model_type "gemma2": Gemma-2 bounds its logits, and llava-hf\'s class, which '
            "this model was made by, does not; the two would answer differently"
        )
    vision = config.get("vision_config", {}).get("model_type", "clip_vision_model")
    if vision != "clip_vision_model":
        raise UserError(f'config.json: vision_config.model_type "{vision}"; upstream reads only "clip_vision_model"')
    if config.get("projector_hidden_act", "gelu") != "gelu" or not config.get("multimodal_projector_bias", True):
        raise UserError(
            "config.json: upstream's projector is two linear layers with bias around a GELU; this one differs"
        )
    if not isinstance(config.get("vision_feature_layer", -2), int):
        raise UserError("config.json: vision_feature_layer is a list; upstream reads one layer")
    return Family(model_type)


def to_llava_hf(config: Mapping[str, Any], vision: Mapping[str, Any], *, image_token: int, vocab_size: int) -> Config:
    """llava-hf's config.json for a config of upstream's layout and the config dict of its tower.

    Raises UserError for a tower that llava-hf cannot hold.
    """
    family = upstream_family(config)
    require_tower_fits(vision)
    text_type = TEXT_TYPES[config["model_type"]]
    text = {k: v for k, v in config.items() if k not in _SHARED and not k.startswith(_UPSTREAM_ONLY)}
    text = _text_config(text_type, {**text, "vocab_size": vocab_size})
    without_class_token = vision["model_type"] == "siglip_vision_model"
    dtype = config.get("dtype") or config.get("torch_dtype") or "float16"
    tokens = (vision["image_size"] // vision["patch_size"]) ** 2
    out: Config = {
        "architectures": [family.model_class],
        "model_type": family.value,
        "dtype": dtype,
        "torch_dtype": dtype,
        "image_token_index": image_token,
        "image_seq_length": tokens,
        "multimodal_projector_bias": True,
        "projector_hidden_act": "gelu",
        "tie_word_embeddings": bool(text.get("tie_word_embeddings", False)),
        "vision_feature_layer": config.get("mm_vision_select_layer", -2),
        "vision_feature_select_strategy": "full"
        if without_class_token or config.get("mm_vision_select_feature") == "cls_patch"
        else "default",
        "text_config": text,
        "vision_config": _without_name(vision),
    }
    for key in ("bos_token_id", "eos_token_id", "pad_token_id"):
        if text.get(key) is not None:
            out[key] = text[key]
    if family is Family.LLAVA_NEXT:
        out["image_grid_pinpoints"] = swap_pinpoints(config["image_grid_pinpoints"])
        out["use_image_newline_parameter"] = True
    return out


def to_upstream(config: Mapping[str, Any], *, vision_tower: str, aspect_ratio: str, vocab_size: int) -> Config:
    """Upstream's config.json for a llava-hf config; `vision_tower` is the tower's folder as upstream shall read it."""
    family = llava_hf_family(config)
    text_type = config["text_config"].get("model_type", "llama")
    model_type, architecture = UPSTREAM_TYPES[text_type]
    text = _text_config(text_type, {**config["text_config"], "vocab_size": vocab_size})
    anyres = family is Family.LLAVA_NEXT
    full = config.get("vision_feature_select_strategy", "default") == "full"
    vision_hidden = vision_config(config)["hidden_size"]
    dtype = config.get("dtype") or config.get("torch_dtype") or config["text_config"].get("torch_dtype") or "float16"
    out: Config = {
        **text,
        "architectures": [architecture],
        "model_type": model_type,
        "dtype": dtype,
        "torch_dtype": dtype,
        "tie_word_embeddings": bool(config.get("tie_word_embeddings") or text.get("tie_word_embeddings", False)),
        "mm_vision_tower": vision_tower,
        "mm_hidden_size": vision_hidden,
        "mm_projector_type": "mlp2x_gelu",
        "mm_vision_select_layer": config.get("vision_feature_layer", -2),
        "mm_vision_select_feature": "cls_patch" if full else "patch",
        "mm_patch_merge_type": "spatial_unpad" if anyres else "flat",
        "image_aspect_ratio": "anyres" if anyres else aspect_ratio,
        "mm_use_im_start_end": False,
        "mm_use_im_patch_token": False,
        "use_mm_proj": True,
        "tune_mm_mlp_adapter": False,
        "freeze_mm_mlp_adapter": False,
        "tokenizer_padding_side": "right",
        "tokenizer_model_max_length": text["max_position_embeddings"],
    }
    if anyres:
        pinpoints = config.get("image_grid_pinpoints") or [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]]
        out["image_grid_pinpoints"] = swap_pinpoints(pinpoints)
    return out


def vision_config(config: Mapping[str, Any]) -> Config:
    """The whole CLIPVisionConfig of a llava-hf config: transformers' own defaults for LLaVA fill what is left out."""
    from transformers import LlavaConfig, LlavaNextConfig

    built = (LlavaConfig if config["model_type"] == "llava" else LlavaNextConfig)(
        vision_config=dict(config.get("vision_config") or {}) or None, text_config={"model_type": "llama"}
    )
    return _without_name(built.vision_config.to_dict())


def swap_pinpoints(pinpoints: Any) -> list[list[int]]:
    """Grid pinpoints with width and height exchanged; old configs hold them as a string."""
    if isinstance(pinpoints, str):
        pinpoints = ast.literal_eval(pinpoints)
    return [[int(second), int(first)] for first, second in pinpoints]


def _text_config(model_type: str, values: Mapping[str, Any]) -> Config:
    """A complete text config: every default written out, the rotary base under its old name too, for older readers."""
    from transformers import CONFIG_MAPPING

    kind = CONFIG_MAPPING[model_type]
    values = {k: v for k, v in values.items() if k not in (*_SHARED, "dtype", "torch_dtype") and v is not None}
    if model_type == "mistral":
        values.setdefault("sliding_window", None)
    text = _without_name(kind.from_dict(values).to_dict())
    rope = text.get("rope_parameters") or {}
    if "rope_theta" in rope:
        text["rope_theta"] = rope["rope_theta"]
    return text


def _without_name(config: Mapping[str, Any]) -> Config:
    return {
        k: v for k, v in config.items() if k not in ("_name_or_path", "architectures", "transformers_version", "dtype")
    }
