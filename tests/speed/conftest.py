"""Tiny models and batches of mixed records for the tests of equal losses."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image

from tests.tiny import make_tiny_llava

SIZES = [(56, 56), (80, 40), (40, 80), (30, 30), (112, 60)]


def seven_records() -> list[dict[str, Any]]:
    """Seven records: pictures shared and not, two in one record, none, several turns, different lengths."""
    out = []
    for index in range(len(SIZES)):
        turns = [
            {"from": "human", "value": f"<image>\nhow many {'very ' * index}green things?"},
            {"from": "gpt", "value": str(index)},
            {"from": "human", "value": "is it night?"},
            {"from": "gpt", "value": "no"},
        ]
        out.append({"id": f"q-{index}", "image": f"{index % 3 if index == 4 else index}.png", "conversations": turns})
    pair = [{"from": "human", "value": "<image>\n<image>\nthe same?"}, {"from": "gpt", "value": "no"}]
    out.append({"id": "pair", "image": ["0.png", "1.png"], "conversations": pair})
    text = [{"from": "human", "value": "two and two?"}, {"from": "gpt", "value": "four"}]
    out.append({"id": "text", "conversations": text})
    return out


@pytest.fixture
def records() -> list[dict[str, Any]]:
    """The seven records, fresh for each test."""
    return seven_records()


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of pictures of every shape, with records.json beside them."""
    folder = tmp_path_factory.mktemp("pictures")
    for index, size in enumerate(SIZES):
        Image.effect_noise(size, 60 + index).convert("RGB").save(folder / f"{index}.png")
    (folder / "records.json").write_text(json.dumps(seven_records()))
    return folder


@pytest.fixture(scope="session")
def make_model(tmp_path_factory: pytest.TempPathFactory, pictures: Path) -> Callable[..., Any]:
    """make_model(family, attention) -> model, and batch(records, unpadded=..., max_length=...)."""
    from llava_finetune.data.collator import Collator
    from llava_finetune.data.dataset import Encoder, RecordDataset
    from llava_finetune.model.building import load_tokenizer
    from llava_finetune.model.modeling import model_class

    folders: dict[str, Path] = {}

    def make(family: str = "llava-1.5", attention: str = "eager") -> Any:
        if family not in folders:
            folders[family] = make_tiny_llava(tmp_path_factory.mktemp("tiny") / "model", family)
        tokenizer = load_tokenizer(str(folders[family]), None, 2048)
        model_type = json.loads((folders[family] / "config.json").read_text())["model_type"]
        cls = model_class(model_type)
        model = cls.from_pretrained(folders[family], attn_implementation=attention, dtype=torch.float32)
        tower = model.get_vision_tower()
        if not tower.is_loaded:
            tower.load_model()
        template = "chatml_direct" if "yi" in family else "v1"
        encoder = Encoder(tokenizer, template, tower.image_processor, model.config, pictures, tower)

        def batch(items: Sequence[Any], unpadded: bool, max_length: int | None = None) -> dict[str, Any]:
            dataset = RecordDataset(items, encoder)
            side = tower.config.image_size
            collator = Collator(tokenizer.pad_token_id, torch.zeros(3, side, side), max_length, unpadded)
            made = collator([dataset[index] for index in range(len(items))])
            return {
                name: value
                for name, value in made.items()
                if name not in ("record_ids", "record_indices", "num_tokens")
            }

        return SimpleNamespace(model=model, batch=batch, encoder=encoder)

    return make
