"""Pictures that are resized before transformers sees them have the pixels that upstream's own function gives."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
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


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 400), st.integers(1, 400), st.integers(0, 255), st.sampled_from([1, 100, 1 << 22]))
def test_a_square_made_by_strips_is_upstreams_square(width: int, height: int, grey: int, block: int) -> None:
    from llava.mm_utils import expand2square

    from llava_finetune.data import padding

    background = (grey, 255 - grey, 104)
    picture = Image.merge("RGB", [Image.effect_noise((width, height), 70 + shift) for shift in range(3)])
    wanted = expand2square(picture, background).resize((56, 56), Image.Resampling.BICUBIC)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(padding, "BLOCK_PIXELS", block)
        made = padding.resized_square(picture, background, 56, Image.Resampling.BICUBIC)
    assert made.tobytes() == wanted.tobytes()


def test_a_panorama_takes_no_square_of_its_length(monkeypatch: pytest.MonkeyPatch) -> None:
    from llava_finetune.data import padding

    sizes: list[tuple[int, int]] = []
    new = Image.new
    monkeypatch.setattr(padding.Image, "new", lambda mode, size, *more: sizes.append(size) or new(mode, size, *more))
    for size in ((30_000, 50), (50, 30_000)):
        padding.resized_square(new("RGB", size), (1, 2, 3), 336, Image.Resampling.BICUBIC)
    assert max(width * height for width, height in sizes) <= 336 * 30_000


def test_a_processor_of_another_kind_is_spared_squares_beyond_the_limit(processor: Any) -> None:
    from data_prep.errors import PictureError

    fast = SimpleNamespace(backend="torchvision", image_mean=processor.image_mean)
    with pytest.raises(PictureError, match="10000 x 10000 pixels, more than the 89,478,485 allowed"):
        process_image(Image.new("RGB", (10_000, 5)), fast, SimpleNamespace(image_aspect_ratio="pad"))


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
