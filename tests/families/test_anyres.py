"""1.6 pictures: views as upstream cuts them, and lengths that are counted without the model as the model makes them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from data_prep.records.record import open_image
from llava_finetune.config.training_flags import ModelArguments
from llava_finetune.data.collator import Collator
from llava_finetune.data.dataset import Encoder, RecordDataset, num_image_tokens, process_image
from llava_finetune.errors import UserError
from llava_finetune.model.building import load_config, load_tokenizer, resolve
from llava_finetune.model.loading import load

LOADED: dict[str, Any] = {}


@pytest.fixture(scope="module", autouse=True)
def _loaded(models: dict[str, Path]) -> None:
    for family in ("1.6-vicuna", "1.6-mistral", "llava-1.5"):
        LOADED[family] = load(str(models[family]), dtype="fp32", device="cpu")


def spliced_length(model: Any, size: tuple[int, int], processor: Any) -> int:
    """How many positions upstream's splice gives one picture of this size."""
    pixels = process_image(Image.new("RGB", size, (90, 120, 200)), processor, model.config)
    ids = torch.tensor([[1, -200, 5]])
    with torch.no_grad():
        out = model.prepare_inputs_labels_for_multimodal(ids, None, None, None, None, pixels[None], [size])
    return int(out[4].shape[1]) - 2


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 900), st.integers(2, 900), st.sampled_from(["spatial_unpad", "spatial", "flat"]))
def test_counted_tokens_are_the_spliced_length(width: int, height: int, merge: str) -> None:
    loaded = LOADED["1.6-vicuna"]
    model = loaded.model
    before = model.config.mm_patch_merge_type
    try:
        model.config.mm_patch_merge_type = merge
        counted = num_image_tokens(model.config, model.get_vision_tower(), (width, height))
        assert counted == spliced_length(model, (width, height), loaded.image_processor)
    finally:
        model.config.mm_patch_merge_type = before


@pytest.mark.parametrize("size", [(56, 56), (300, 20), (7, 500)])
def test_a_square_picture_takes_its_patches_whatever_its_size(size: tuple[int, int]) -> None:
    loaded = LOADED["llava-1.5"]
    counted = num_image_tokens(loaded.model.config, loaded.model.get_vision_tower(), size)
    assert counted == 16 == spliced_length(loaded.model, size, loaded.image_processor)


@pytest.mark.parametrize("size", [(56, 56), (130, 60), (60, 130), (200, 190)])
def test_views_are_upstreams(size: tuple[int, int], tmp_path: Path) -> None:
    from llava.mm_utils import process_anyres_image

    loaded = LOADED["1.6-mistral"]
    config = loaded.model.config
    Image.effect_noise(size, 80).convert("RGB").save(tmp_path / "noise.png")
    image = open_image(tmp_path / "noise.png")
    made = process_image(image, loaded.image_processor, config)
    expected = process_anyres_image(image, loaded.image_processor, config.image_grid_pinpoints)
    assert made.ndim == 4 and made.shape[0] in (3, 5) and torch.equal(made, expected)


@pytest.mark.parametrize("family", ["1.6-vicuna", "1.6-mistral", "llava-1.5"])
def test_a_records_length_is_the_models(family: str, data: Path) -> None:
    """Mixed records, one batch each: the length that batches are grouped and counted by is the real one."""
    loaded = LOADED[family]
    model, tower = loaded.model, loaded.model.get_vision_tower()
    encoder = Encoder(loaded.tokenizer, "v1", loaded.image_processor, model.config, data, tower, 2048)
    dataset = RecordDataset(json.loads((data / "mixed.json").read_text())[:12], encoder)
    collate = Collator(0, torch.zeros(3, 56, 56), 2048)
    for example in (dataset[index] for index in range(len(dataset))):
        batch = collate([example])
        with torch.no_grad():
            out = model.prepare_inputs_labels_for_multimodal(
                batch["input_ids"], None, batch["attention_mask"], None, batch["labels"], batch["images"],
                batch["image_sizes"],
            )  # fmt: skip
        assert out[4].shape[1] == example.length, example.id


def test_anyres_without_pinpoints_is_refused(models: dict[str, Path]) -> None:
    config = load_config(str(models["llava-1.5"]))
    arguments = ModelArguments(model_name_or_path="base", override_config=True)
    with pytest.raises(UserError, match=r"no image_grid_pinpoints in its config: anyres is trained from a 1\.6"):
        resolve(arguments, "anyres", config)


def test_a_flag_against_the_base_names_both_values(models: dict[str, Path]) -> None:
    config = load_config(str(models["1.6-vicuna"]))
    arguments = ModelArguments(model_name_or_path="base", mm_patch_merge_type="flat")
    with pytest.raises(UserError, match=r"--mm_patch_merge_type flat contradicts the base's .* 'spatial_unpad'"):
        resolve(arguments, None, config)


def test_the_pad_token_is_set_for_every_tokenizer(models: dict[str, Path]) -> None:
    for family in ("llava-1.5", "1.6-yi", "language-smollm2"):
        assert load_tokenizer(str(models[family]), None, 2048).pad_token_id is not None
