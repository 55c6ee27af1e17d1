"""Pictures that are resized before transformers sees them have the pixels that upstream's own function gives."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image

from llava_finetune.data.dataset import process_image
from tests.tiny import make_tiny_clip


@pytest.fixture(scope="module")
def processor(tmp_path_factory: pytest.TempPathFactory) -> Any:
    from transformers import CLIPImageProcessor

    return CLIPImageProcessor.from_pretrained(make_tiny_clip(tmp_path_factory.mktemp("clip")))


@pytest.mark.parametrize("size", [(56, 56), (57, 55), (300, 200), (31, 90), (1, 7), (640, 480)])
@pytest.mark.parametrize("aspect", ["pad", "square"])
def test_pixels_equal_upstreams_to_the_bit(processor: Any, size: tuple[int, int], aspect: str) -> None:
    from llava.mm_utils import process_images

    config = SimpleNamespace(image_aspect_ratio=aspect)
    bands = [Image.effect_noise(size, 70 + shift) for shift in range(3)]
    picture = Image.merge("RGB", bands)
    wanted = process_images([picture], processor, config)[0]
    assert torch.equal(process_image(picture, processor, config), wanted)


def test_a_padded_picture_comes_to_transformers_in_its_final_size(
    processor: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []
    preprocess = type(processor).preprocess
    monkeypatch.setattr(
        type(processor),
        "preprocess",
        lambda self, image, **how: seen.append(image.size) or preprocess(self, image, **how),
    )
    process_image(Image.new("RGB", (300, 200)), processor, SimpleNamespace(image_aspect_ratio="pad"))
    assert seen == [(56, 56)]
