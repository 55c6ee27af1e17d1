"""CLIP's class token where llama.cpp puts it: last, so that positions shift by one and the first patch is lost.

Its issue 25814: the class token is put after the patches, positions are added in that order, and then the first row is
left out as if it were the class token. Nothing in a GGUF file mends that, so it is told which of both an engine does,
by comparing with this model run either way.

    with class_token_last(loaded.model): logits = ...
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def class_token_last(model: Any) -> Iterator[None]:
    """Run the model's CLIP tower with its class token last, inside the block."""
    embeddings = next(each for each in model.get_vision_tower().modules() if hasattr(each, "class_embedding"))

    def forward(pixel_values: torch.Tensor, **_: Any) -> torch.Tensor:
        """(pictures, 3, height, width) to (pictures, patches + 1, channels)."""
        patches = embeddings.patch_embedding(pixel_values.to(embeddings.patch_embedding.weight.dtype))
        patches = patches.flatten(2).transpose(1, 2)
        last = embeddings.class_embedding.expand(len(patches), 1, -1)
        return torch.cat([patches, last], dim=1) + embeddings.position_embedding(embeddings.position_ids)

    embeddings.forward = forward
    try:
        yield
    finally:
        del embeddings.forward
