"""Eight pictures and questions, made once for all tests here."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

SIZES = [(56, 56), (80, 40), (40, 80), (30, 30), (64, 56), (56, 64), (90, 90), (50, 70)]


@pytest.fixture(scope="session")
def questions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """records.json with one, two or no picture per record, beside its pictures."""
    folder = tmp_path_factory.mktemp("questions")
    records = []
    for index, size in enumerate(SIZES):
        Image.new("RGB", size, (index * 30, 255 - index * 30, 128)).save(folder / f"{index}.png")
        turns = [
            {"from": "human", "value": f"<image>\nhow many {'very ' * index}green things?"},
            {"from": "gpt", "value": str(index)},
            {"from": "human", "value": "is it night?"},
            {"from": "gpt", "value": "no"},
        ]
        records.append({"id": f"q-{index}", "image": f"{index}.png", "conversations": turns})
    pair = [{"from": "human", "value": "<image>\n<image>\nthe same?"}, {"from": "gpt", "value": "no"}]
    records.append({"id": "pair", "image": ["0.png", "1.png"], "conversations": pair})
    text = [{"from": "human", "value": "two and two?"}, {"from": "gpt", "value": "four"}]
    records.append({"id": "text", "conversations": text})
    (folder / "records.json").write_text(json.dumps(records))
    return folder
