"""The image processor and processor files of an exported model: padded where upstream pads.

Why: llava-hf's stock processor cuts the borders off (resize, then centre crop); upstream pads to a square first, and a
model that was trained so must be served so.

    write_processor(out, image_processor=clip_dict, config=llava_hf_config, pad=True)
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data_prep.records.marks import IMAGE_TOKEN
from llava_finetune.convert.configs import Family
from llava_finetune.errors import UserError
from llava_finetune.saved.manifest import read_json, write_json

_KEPT = (
    "do_resize",
    "size",
    "resample",
    "do_center_crop",
    "crop_size",
    "do_rescale",
    "rescale_factor",
    "do_normalize",
    "image_mean",
    "image_std",
    "do_convert_rgb",
)


def write_processor(out: Path, image_processor: Mapping[str, Any], config: Mapping[str, Any], *, pad: bool) -> None:
    """Write preprocessor_config.json and processor_config.json for a llava-hf config.

    `image_processor` is the tower's CLIPImageProcessor as a dict; `pad` says whether a picture is padded to a square.
    """
    family = Family(config["model_type"])
    settings = {key: image_processor[key] for key in _KEPT if key in image_processor}
    settings["processor_class"] = family.processor_class
    settings["image_processor_type"] = "LlavaImageProcessor" if family is Family.LLAVA else "LlavaNextImageProcessor"
    settings["do_pad"] = pad if family is Family.LLAVA else True
    if family is Family.LLAVA_NEXT:
        settings["image_grid_pinpoints"] = config["image_grid_pinpoints"]
    write_json(out / "preprocessor_config.json", settings)
    write_json(
        out / "processor_config.json",
        {
            "processor_class": family.processor_class,
            "image_token": IMAGE_TOKEN,
            "num_additional_image_tokens": int(config["vision_config"]["model_type"] != "siglip_vision_model"),
            "patch_size": config["vision_config"]["patch_size"],
            "vision_feature_select_strategy": config["vision_feature_select_strategy"],
        },
    )


def clip_preprocessor(folder: Path) -> dict[str, Any]:
    """The CLIPImageProcessor settings of a llava-hf folder, as a tower folder of upstream holds them.

    Read from preprocessor_config.json, or from processor_config.json where transformers 5 nests them.
    """
    settings: dict[str, Any] = {}
    if (folder / "preprocessor_config.json").is_file():
        settings = read_json(folder / "preprocessor_config.json")
    elif (folder / "processor_config.json").is_file():
        settings = read_json(folder / "processor_config.json").get("image_processor") or {}
    missing = [key for key in ("size", "image_mean", "image_std") if key not in settings]
    if missing:
        raise UserError(
            f"{folder}: no image processor settings ({', '.join(missing)}); expected preprocessor_config.json"
        )
    return {key: settings[key] for key in _KEPT if key in settings} | {"image_processor_type": "CLIPImageProcessor"}


def source_pads(folder: Path) -> bool | None:
    """What a llava-hf folder says about padding to a square: True, False, or None when it says nothing."""
    for name in ("preprocessor_config.json", "processor_config.json"):
        if (folder / name).is_file():
            settings = read_json(folder / name)
            settings = settings.get("image_processor") or settings
            if settings.get("image_processor_type", "").startswith("LlavaImageProcessor"):
                return bool(settings.get("do_pad", False))
    return None
