"""What a picture costs a family of transformers' own classes: tokens, views through the tower, and the connector.

cost = picture_cost(config, Widths(hidden=960, intermediate=2560, tower=768, image_size=512, patch_size=16))
cost.tokens                                     # 1129 of SmolVLM-500M for a large picture in 17 tiles
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

TILES = 16
"""Tiles beside the whole picture that Idefics3 and SmolVLM cut at most: their longest edge is four tiles."""
QUARTERS = 4
"""Crops beside the whole picture that Idefics2 cuts."""
MAX_VIEWS = 9
"""Views whose tokens LLaVA-OneVision keeps at most; more are interpolated down to them."""


@dataclass(frozen=True)
class Widths:
    """Widths of language model and tower, and the tower's picture in pixels."""

    hidden: int
    intermediate: int
    tower: int
    image_size: int
    patch_size: int

    @property
    def num_patches(self) -> int:
        """Patches of one view."""
        return (self.image_size // self.patch_size) ** 2


@dataclass(frozen=True)
class PictureCost:
    """Parameters of the connector, most tokens of one picture, and most views of it that the tower sees.

    `whole`: its tokens where a run may leave it uncut, 0 where it may not choose.
    """

    connector: int
    tokens: int
    views: int
    whole: int = 0


def picture_cost(config: Mapping[str, Any], widths: Widths) -> PictureCost:
    """The cost by config.json. Raises KeyError for a `model_type` that is no family's."""
    return COSTS[str(config["model_type"])](config, widths)


def _shuffled(config: Mapping[str, Any], widths: Widths) -> PictureCost:
    """Idefics3 and SmolVLM: one linear layer after the pixel shuffle; a mark and a name before each tile."""
    scale = int(config.get("scale_factor") or 2)
    tokens = widths.num_patches // scale**2
    return PictureCost(widths.tower * scale**2 * widths.hidden, (TILES + 1) * (tokens + 2) + 7, TILES + 1, tokens + 3)


def _resampled(config: Mapping[str, Any], widths: Widths) -> PictureCost:
    """Idefics2: a gated layer from the tower's width, and the perceiver's own layers."""
    perceiver = config.get("perceiver_config") or {}
    latents, depth = int(perceiver.get("resampler_n_latents") or 64), int(perceiver.get("resampler_depth") or 3)
    heads, size = int(perceiver.get("resampler_n_heads") or 16), int(perceiver.get("resampler_head_dim") or 96)
    kv, h = int(perceiver.get("num_key_value_heads") or 4), widths.hidden
    gated = 2 * widths.tower * widths.intermediate + widths.intermediate * h
    layer = 2 * h * heads * size + 2 * h * kv * size + 3 * h * 4 * h
    views = QUARTERS + 1
    return PictureCost(gated + depth * layer + latents * h, views * (latents + 1) + 1, views, latents + 2)


def _crossed(config: Mapping[str, Any], widths: Widths) -> PictureCost:
    """IDEFICS: the perceiver at the tower's width; a picture is a mark between two others."""
    perceiver = config.get("perceiver_config") or {}
    latents, depth = int(perceiver.get("resampler_n_latents") or 64), int(perceiver.get("resampler_depth") or 6)
    inner = int(perceiver.get("resampler_n_heads") or 16) * int(perceiver.get("resampler_head_dim") or 96)
    h = widths.tower
    return PictureCost(depth * (4 * h * inner + 8 * h * h) + latents * h, 3, 1)


def _unpadded(config: Mapping[str, Any], widths: Widths) -> PictureCost:
    """LLaVA-OneVision: the whole, and at most nine views' worth of tokens with a newline after each row."""
    size, side = widths.image_size, widths.image_size // widths.patch_size
    points = config.get("image_grid_pinpoints")
    points = points if points and not isinstance(points, str) else [[size, size]]
    grids = [(int(height) // size, int(width) // size) for height, width in points]
    most = max(min(rows * columns, MAX_VIEWS) for rows, columns in grids)
    newlines = max(min(rows, MAX_VIEWS) for rows, _ in grids) * side
    connector = widths.tower * widths.hidden + widths.hidden**2 + 3 * widths.hidden
    views = 1 + max(rows * columns for rows, columns in grids)
    return PictureCost(connector, (1 + most) * widths.num_patches + newlines, views)


COSTS = {
    "idefics": _crossed,
    "idefics2": _resampled,
    "idefics3": _shuffled,
    "smolvlm": _shuffled,
    "llava_onevision": _unpadded,
}
