"""Dtype, device and attention of a loaded model, chosen once and said aloud.

dtype, device, device_map = place("auto", "auto", "auto", None)
"""

from __future__ import annotations

import importlib.util
import logging
from typing import Any

import torch

from llava_finetune.config.precision import choose_precision
from llava_finetune.errors import UserError

logger = logging.getLogger(__name__)

NAMES = {
    "bfloat16": torch.bfloat16,
    "bf16": torch.bfloat16,
    "float16": torch.float16,
    "fp16": torch.float16,
    "half": torch.float16,
    "float32": torch.float32,
    "fp32": torch.float32,
}


def choose_device(device: str) -> str:
    """`auto` is CUDA where there is one, else the CPU. Raises UserError for a CUDA that is not there."""
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise UserError(f"device {device}: torch sees no CUDA device here; use --device cpu or --device auto")
    return device


def choose_device_map(device: str, device_map: Any) -> Any:
    """The asked map on CUDA, one device elsewhere. `device` is what choose_device returned."""
    return device_map if device == "cuda" else {"": device}


def choose_dtype(dtype: Any, device: str, trained_in: str | None = None) -> torch.dtype:
    """`dtype`: a torch dtype, its name, or auto: that of training where the hardware has it, else the hardware's."""
    if isinstance(dtype, torch.dtype):
        return dtype
    name = str(dtype).removeprefix("torch.")
    if name != "auto":
        if name not in NAMES:
            raise UserError(f"dtype {dtype}: expected auto or one of {', '.join(NAMES)}")
        return NAMES[name]
    choice = choose_precision("auto", device.split(":")[0])
    trained = NAMES.get(trained_in or "")
    if trained is not None and not (trained is torch.bfloat16 and device.startswith("cuda") and choice.name != "bf16"):
        logger.info("dtype %s: the model was trained in it", trained)
        return trained
    logger.info("dtype %s: %s", choice.dtype, choice.reason)
    return choice.dtype


def choose_attention(use_flash_attn: bool, device: str) -> str:
    """SDPA; flash attention when asked for, importable, and on a GPU of compute capability 8 or more."""
    if not use_flash_attn:
        return "sdpa"
    reason = flash_problem(device)
    if reason is None:
        return "flash_attention_2"
    logger.warning("flash attention was asked for, SDPA is used: %s", reason)
    return "sdpa"


def flash_problem(device: str) -> str | None:
    """Why flash attention cannot run here, or None."""
    if not device.startswith("cuda") or not torch.cuda.is_available():
        return "it needs a CUDA device"
    if torch.cuda.get_device_capability()[0] < 8:
        return "it needs compute capability 8.0 (Ampere) or newer"
    if importlib.util.find_spec("flash_attn") is None:
        return "flash_attn is not installed (pip install --no-build-isolation flash-attn)"
    return None


def place_vision_tower(model: Any, dtype: torch.dtype) -> Any:
    """Load the tower when it is not, and put it on the projector's device in the model's dtype. Returns the tower."""
    tower = model.get_vision_tower()
    if not tower.is_loaded:
        tower.load_model()
    projector = list(model.get_model().mm_projector.parameters())
    device = projector[0].device if projector else model.device
    tower.to(device=device, dtype=dtype)
    return tower


def images_for(model: Any, images: Any) -> Any:
    """Pixel tensors, stacked or a list of different sizes, on the model's device and in its dtype."""
    if isinstance(images, list):
        return [image.to(model.device, dtype=model.dtype) for image in images]
    return images.to(model.device, dtype=model.dtype)
