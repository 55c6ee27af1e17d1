"""A model's folder without weights: the config of a published or own model, its tower's, and a tiny tokenizer.

make_folder(Path("seven"), "liuhaotian/llava-v1.5-7b")
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llava_finetune.model.language_models import llava_class
from llava_finetune.planning.from_config import read_config
from llava_finetune.planning.shapes import DinoV2, Shape, SigLip
from llava_finetune.saved.language_types import language_of

UPSTREAM = {"llama": "llava_llama", "llava": "llava_llama", "mistral": "llava_mistral"}
"""Model types of language models, and of upstream's configs until 2024, as upstream's layout has them now."""
ARCHITECTURES = {"llava_llama": "LlavaLlamaForCausalLM", "llava_mistral": "LlavaMistralForCausalLM"}


def make_folder(folder: Path, shape: Shape, layers: int | None = None) -> Path:
    """What `train` reads of a base, in `folder`; `layers` leaves that many of either tower of layers that are used."""
    import llava.model  # noqa: F401  registers the config classes
    import transformers

    folder.mkdir(parents=True, exist_ok=True)
    _write_tokenizer(folder)
    _write_tower(folder / "clip", shape, layers)
    values = upstream_values(read_config(shape.name)[0], shape) | {"mm_vision_tower": str(folder / "clip")}
    if (language := language_of(values["model_type"])) is not None:
        llava_class(language)  # and registers its config class
        values["model_type"] = f"llava_{language}"
    if layers:
        values["num_hidden_layers"] = layers
    built = transformers.AutoConfig.for_model(**values)
    built.architectures = [llava_class(language).__name__ if language else ARCHITECTURES[built.model_type]]
    built.save_pretrained(folder)
    return folder


def upstream_values(config: Mapping[str, Any], shape: Shape) -> dict[str, Any]:
    """A config in upstream's layout from any that `plan` reads: llava-hf's, a plain language model's, upstream's."""
    values = dict(config.get("text_config", config))
    family = values.get("model_type", "llama")
    language = shape.language
    values |= {
        "model_type": UPSTREAM.get(family, family),
        "hidden_size": language.hidden,
        "intermediate_size": language.intermediate,
        "num_hidden_layers": language.layers,
        "num_attention_heads": language.heads,
        "num_key_value_heads": language.kv_heads,
        "head_dim": language.head_size,
        "vocab_size": language.vocabulary,
        "mm_hidden_size": shape.vision.hidden,
        "mm_projector_type": shape.projector,
        "mm_vision_select_layer": shape.select_layer,
        "image_aspect_ratio": "anyres" if shape.anyres else config.get("image_aspect_ratio", "pad"),
    }
    usual = {"mm_vision_select_feature": "patch", "mm_use_im_patch_token": False, "mm_use_im_start_end": False}
    if shape.anyres:
        points = [list(pair) for pair in shape.pinpoints]
        usual |= {"mm_patch_merge_type": "spatial_unpad", "image_grid_pinpoints": points}
    return {**usual, **values}


def _write_tower(folder: Path, shape: Shape, layers: int | None) -> None:
    import transformers

    vision = shape.vision
    # One layer more than are read: features come from the last but one.
    depth = min(vision.layers, layers + 1) if layers else vision.layers
    values: dict[str, Any] = {
        "hidden_size": vision.hidden, "intermediate_size": vision.intermediate, "num_hidden_layers": depth,
        "num_attention_heads": vision.heads, "image_size": vision.image_size, "patch_size": vision.patch_size,
    }  # fmt: skip
    if isinstance(vision, SigLip):
        config: Any = transformers.SiglipVisionConfig(**values)
    elif isinstance(vision, DinoV2):
        config = transformers.Dinov2Config(**values, mlp_ratio=vision.intermediate // vision.hidden)
    else:
        config = transformers.CLIPVisionConfig(**values)
    config.save_pretrained(folder)
    size = vision.image_size
    processor: dict[str, Any] = {"image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": size}}
    processor |= {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    processor["crop_size"] = {"height": size, "width": size}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor), encoding="utf-8")


def _write_tokenizer(folder: Path) -> None:
    """A tokenizer of bytes: the length of a text in tokens is known before it is written."""
    import tokenizers

    special = ["<unk>", "<s>", "</s>"]
    made = tokenizers.Tokenizer(tokenizers.models.BPE())
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=len(special) + len(alphabet), special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    made.train_from_iterator([], trainer)
    made.save(str(folder / "tokenizer.json"))
    names = dict(zip(("unk_token", "bos_token", "eos_token"), special, strict=True))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False, **names}
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
