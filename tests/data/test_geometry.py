"""Boxes go through exactly what happens to the picture: the picture code itself says where a drawn rectangle lies."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from data_prep.boxes.box import Box
from llava_finetune.data.dataset import process_image
from llava_finetune.data.geometry import views_of
from tests.tiny import GRID_PINPOINTS, make_tiny_clip

ASPECTS = {
    "pad": SimpleNamespace(image_aspect_ratio="pad"),
    "square": SimpleNamespace(image_aspect_ratio="square"),
    "anyres": SimpleNamespace(image_aspect_ratio="anyres", image_grid_pinpoints=[list(one) for one in GRID_PINPOINTS]),
}


@pytest.fixture(scope="module")
def processor(tmp_path_factory: pytest.TempPathFactory) -> Any:
    from transformers import CLIPImageProcessor

    return CLIPImageProcessor.from_pretrained(make_tiny_clip(tmp_path_factory.mktemp("clip")))


def found_in(pixels: torch.Tensor, processor: Any) -> Box | None:
    """The bounding box of what is more red than blue in a view, to half a pixel by its soft edges."""
    colours = pixels * torch.tensor(processor.image_std)[:, None, None]
    colours = colours + torch.tensor(processor.image_mean)[:, None, None]
    share = (colours[0] - colours[2]).clamp(0, 1)
    rows, columns = share.max(1).values, share.max(0).values
    if rows.max() < 0.5 or columns.max() < 0.5:
        return None

    def edges(line: torch.Tensor) -> tuple[float, float]:
        inside = (line >= 0.5).nonzero().flatten()
        return float(inside[0]), float(inside[-1]) + 1

    (left, right), (top, bottom) = edges(columns), edges(rows)
    return Box(left, top, right, bottom)


def differ(one: Box, other: Box) -> float:
    return max(abs(a - b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("aspect", ASPECTS)
def test_a_drawn_rectangle_lies_where_the_geometry_says(processor: Any, aspect: str) -> None:
    """Red on blue, through the real preprocessing, and found again within a pixel of every view that shows it."""
    draw, num_found = random.Random(aspect), 0
    for _ in range(60):
        width, height = draw.randint(57, 400), draw.randint(57, 400)
        left, top = draw.randint(0, width // 2), draw.randint(0, height // 2)
        box = Box(left, top, draw.randint(left + width // 4, width), draw.randint(top + height // 4, height))
        picture = Image.new("RGB", (width, height), (0, 0, 255))
        ImageDraw.Draw(picture).rectangle((box.left, box.top, box.right - 1, box.bottom - 1), fill=(255, 0, 0))
        pixels = process_image(picture, processor, ASPECTS[aspect])
        shown = pixels[None] if pixels.ndim == 3 else pixels
        views = views_of((width, height), processor, ASPECTS[aspect])
        assert len(views) == len(shown)
        for view, one in zip(views, shown, strict=True):
            wanted = view.visible(box)
            if wanted is None or min(wanted.right - wanted.left, wanted.bottom - wanted.top) < 2:
                continue
            found = found_in(one, processor)
            assert found is not None and differ(found, wanted) <= 1, (aspect, (width, height), box, view)
            num_found += 1
    assert num_found > 50


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_there_and_back_is_within_a_pixel(data: st.DataObject) -> None:
    """Every aspect, every size: what the views show of a box is, put back together, the box."""
    processor = SimpleNamespace(
        do_resize=True, do_center_crop=True, size={"shortest_edge": 56}, crop_size={"width": 56, "height": 56}
    )
    width, height = (data.draw(st.integers(1, 6000)) for _ in range(2))
    edges = [sorted(data.draw(st.lists(st.integers(0, side), min_size=2, max_size=2))) for side in (width, height)]
    box = Box(edges[0][0], edges[1][0], edges[0][1], edges[1][1])
    for config in ASPECTS.values():
        views = views_of((width, height), processor, config)
        for view in views:
            assert differ(view.in_picture(view.seen(box)), box) < 1e-6 * max(width, height) + 1e-6
        if config.image_aspect_ratio == "square" or box.is_reversed:
            continue
        parts = [view.in_picture(part) for view in views[-4:] if (part := view.visible(box))]
        if parts:
            whole = Box(
                min(p.left for p in parts), min(p.top for p in parts), *(max(p[i] for p in parts) for i in (2, 3))
            )
            assert differ(whole, box) <= 1


def test_another_processors_sizes_are_followed_too() -> None:
    """SigLIP presses the picture into a square and cuts nothing."""
    siglip = SimpleNamespace(do_resize=True, size={"height": 384, "width": 384})
    (view,) = views_of((768, 192), siglip, SimpleNamespace(image_aspect_ratio="square"))
    assert view.seen(Box(0, 0, 768, 192)) == Box(0, 0, 384, 384)
