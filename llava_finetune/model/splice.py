"""Batches without padding, in the model: features put in their places, and the layers run on real tokens only.

Where everything goes is worked out before the step (llava_finetune/data/layout.py); upstream's function is the oracle.

    hidden = run_layers(model, embed(model, layout, images, sizes), layout)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from llava_finetune.data.feature_cache import FeatureCache
from llava_finetune.data.layout import Layout
from llava_finetune.errors import UserError
from llava_finetune.kernels.unpadded_attention import Samples


def tower_features(
    model: Any, layout: Layout, images: Any, sizes: Sequence[Any], cache: FeatureCache | None
) -> list[torch.Tensor]:
    """What the vision tower says of each picture (views x patches x channels): encoded now, then what was known."""
    views = [image[None] if image.ndim == 3 else image for image in images]
    encoded: list[torch.Tensor] = []
    if views:
        tower = model.get_vision_tower()
        features = tower(torch.cat(views))
        encoded = list(features.split([len(view) for view in views]))
        if cache is not None:
            cache.keep(layout.keys, [one.to(tower.dtype) for one in encoded], sizes[: len(layout.keys)])
    return [*encoded, *layout.features]


def picture_features(
    model: Any, layout: Layout, images: Any, sizes: Sequence[Any], cache: FeatureCache | None = None
) -> torch.Tensor:
    """Features of all pictures one after another, F x H, merged as upstream merges views."""
    parts = tower_features(model, layout, images, sizes, cache)
    features = model.get_model().mm_projector(torch.cat(parts))
    if getattr(model.config, "mm_patch_merge_type", "flat") == "flat":
        return features.flatten(0, 1)  # type: ignore[no-any-return]
    split = features.split([len(part) for part in parts])
    return torch.cat([merge_views(part, size, model) for part, size in zip(split, sizes, strict=True)])


def merge_views(views: torch.Tensor, size: tuple[int, int], model: Any) -> torch.Tensor:
    """One picture's views (V x P x H, the overview first) as upstream's 1.6 lays them out. `size`: width, height."""
    from llava.mm_utils import get_anyres_image_grid_shape
    from llava.model.llava_arch import unpad_image

    base, tiles = views[0], views[1:]
    unpad = "unpad" in model.config.mm_patch_merge_type
    newline = model.get_model().image_newline.to(base.device) if unpad else None
    if not len(tiles):
        return base if newline is None else torch.cat([base, newline[None]])
    tower = model.get_vision_tower()
    side = tower.num_patches_per_side
    columns, rows = get_anyres_image_grid_shape(size, model.config.image_grid_pinpoints, tower.config.image_size)
    canvas = tiles.view(rows, columns, side, side, -1).permute(4, 0, 2, 1, 3).flatten(1, 2).flatten(2, 3)
    if newline is not None:
        canvas = unpad_image(canvas, size)
        column = newline[:, None, None].expand(*canvas.shape[:-1], 1)
        canvas = torch.cat([canvas, column], dim=-1)
    return torch.cat([base, canvas.flatten(1).T])


def embed(
    model: Any,
    layout: Layout,
    images: Any,
    sizes: Sequence[tuple[int, int]],
    cache: FeatureCache | None = None,
) -> torch.Tensor:
    """Input embeddings of a laid-out batch, 1 x N x H. No value is read back from the device."""
    text = model.get_model().embed_tokens(layout.ids)
    features = picture_features(model, layout, images, sizes, cache)
    # A batch of text alone carries one blank picture, so that every rank runs the same modules.
    if layout.num_features not in (0, features.shape[0]):
        raise UserError(
            f"the pictures of a batch gave {features.shape[0]} features where {layout.num_features} were laid out; "
            "the model's config and its vision tower disagree (run llava-finetune doctor), or pass --unpadded False"
        )
    return torch.cat([text, features]).index_select(0, layout.rows)[None]


def run_layers(model: Any, embeddings: torch.Tensor, layout: Layout) -> torch.Tensor:
    """Hidden states, N x H, of the language model without its head."""
    # A mask of four dimensions is passed through as it is; laid-out attention needs none.
    unused = torch.empty(1, 1, 1, 1, device=embeddings.device, dtype=embeddings.dtype)
    out = model.get_model()(
        inputs_embeds=embeddings,
        attention_mask=unused,
        position_ids=layout.positions,
        use_cache=False,
        samples=Samples(layout.spans, layout.query_bounds, layout.key_bounds),
    )
    return out.last_hidden_state.squeeze(0)  # type: ignore[no-any-return]
