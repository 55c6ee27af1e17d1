"""Weights that reach the model, all of them: nothing is left random or dropped in silence; and 4- and 8-bit loading.

load_parts(model, torch.load("runs/pretrain/mm_projector.bin"), describe("runs/pretrain", "lmsys/vicuna-7b-v1.5"))
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from llava_finetune.errors import UserError
from llava_finetune.saved.folders import ModelFolder

PROJECTOR = ("mm_projector", "image_newline")
# Module names from the root: transformers matches them from the start. Any list replaces the default, which is lm_head.
KEPT_IN_16_BIT = ["model.mm_projector", "model.vision_tower", "lm_head"]


def quantization(load_8bit: bool, load_4bit: bool, dtype: torch.dtype) -> dict[str, Any]:
    """from_pretrained's keywords for the asked width; projector, tower and head stay in `dtype`. {} for 16 bit."""
    if not (load_8bit or load_4bit):
        return {}
    from transformers import BitsAndBytesConfig

    if load_4bit:
        config = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_compute_dtype=dtype,
            bnb_4bit_use_double_quant=True,
            bnb_4bit_quant_type="nf4",
            llm_int8_skip_modules=KEPT_IN_16_BIT,
        )
    else:
        config = BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=KEPT_IN_16_BIT)
    return {"quantization_config": config}


def load_whole(model_class: Any, path: str, **keywords: Any) -> Any:
    """`from_pretrained`, refusing a checkpoint that leaves the projector random. Raises UserError."""
    model, info = model_class.from_pretrained(path, output_loading_info=True, **keywords)
    watched = (*PROJECTOR, "vision_tower")
    missing = sorted(key for key in info["missing_keys"] if any(part in key for part in watched))
    unexpected = sorted(key for key in info["unexpected_keys"] if "mm_projector" in key)
    mismatched = sorted(str(entry[0]) for entry in info.get("mismatched_keys", ()) if "mm_projector" in str(entry[0]))
    if missing or unexpected or mismatched:
        raise UserError(
            f"{path}: its weights and its config.json describe two different models: "
            f"missing {_short(missing)}, unexpected {_short(unexpected)}, of another shape {_short(mismatched)}. "
            f"config.json says mm_projector_type {getattr(model.config, 'mm_projector_type', None)!r}; correct it there"
        )
    return model


def load_parts(model: Any, weights: Mapping[str, Any], folder: ModelFolder) -> None:
    """Load what `folder` brings; every weight has a place of its shape, and no projector stays random.

    Raises UserError.
    """
    places, where = model.state_dict(), folder.path
    unknown = sorted(key for key in weights if key not in places)
    if unknown:
        raise UserError(
            f"{where}: {len(unknown)} of {len(weights)} weights have no place in the model ({_short(unknown)}); "
            "is this the base and the mm_projector_type it was trained with?"
        )
    shapes = [key for key in weights if places[key].shape != weights[key].shape]
    if shapes:
        key = shapes[0]
        raise UserError(
            f"{where}: {key} has shape {list(weights[key].shape)}, the model's has {list(places[key].shape)}; "
            "is this the base and the mm_projector_type it was trained with?"
        )
    random = sorted(key for key in places if key not in weights and any(part in key for part in PROJECTOR))
    if random and not folder.base_has_projector:
        raise UserError(
            f"{where}: {_short(random)} missing, and its base {folder.base} has no projector either: it would stay "
            "random; give the LLaVA that it was trained on with --model-base, or copy the file again"
        )
    model.load_state_dict(dict(weights), strict=False)


def _short(keys: list[str]) -> str:
    return ", ".join(keys[:3]) + (f" and {len(keys) - 3} more" if len(keys) > 3 else "") if keys else "none"
