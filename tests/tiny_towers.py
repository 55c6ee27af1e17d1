"""Tiny vision towers of every kind in their published layouts, built by script; CLIP's is in tests/tiny.py.

make_tiny_tower(Path("tiny"), "siglip")
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.tiny import HIDDEN, IMAGE_SIZE, PATCH_SIZE

SIZES = {"hidden_size": HIDDEN, "num_hidden_layers": 3, "num_attention_heads": 4, "image_size": IMAGE_SIZE}
SIZES["patch_size"] = PATCH_SIZE
SIGLIP = {
    "do_normalize": True, "do_rescale": True, "do_resize": True, "image_mean": [0.5] * 3, "image_std": [0.5] * 3,
    "image_processor_type": "SiglipImageProcessor", "resample": 3, "rescale_factor": 1 / 255,
    "size": {"height": IMAGE_SIZE, "width": IMAGE_SIZE},
}  # fmt: skip
DINO = {
    **SIGLIP, "image_processor_type": "BitImageProcessor", "do_center_crop": True, "do_convert_rgb": True,
    "image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225],
    "size": {"shortest_edge": 32}, "crop_size": {"height": 28, "width": 28},  # published with another size, as here
}  # fmt: skip
KINDS: Mapping[str, Mapping[str, Any]] = {
    "siglip": SIGLIP, "whole siglip": SIGLIP, "dinov2": DINO, "dinov2 with registers": DINO
}  # fmt: skip


def make_tiny_tower(folder: Path, kind: str, seed: int = 0) -> Path:
    """A tower of one of KINDS with its image processor's file; `whole siglip` has its text half beside it."""
    import torch
    import transformers

    torch.manual_seed(seed + 1)
    if kind == "siglip":
        model: Any = transformers.SiglipVisionModel(transformers.SiglipVisionConfig(intermediate_size=80, **SIZES))
    elif kind == "whole siglip":
        halves = {name: {**SIZES, "intermediate_size": 80} for name in ("text_config", "vision_config")}
        model = transformers.SiglipModel(transformers.SiglipConfig(**halves))
    elif kind == "dinov2":
        model = transformers.Dinov2Model(transformers.Dinov2Config(mlp_ratio=2, **SIZES))
    else:
        config = transformers.Dinov2WithRegistersConfig(mlp_ratio=2, num_register_tokens=3, **SIZES)
        model = transformers.Dinov2WithRegistersModel(config)
    model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(KINDS[kind], indent=2) + "\n", encoding="utf-8")
    return folder
