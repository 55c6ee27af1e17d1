"""Tiny models of every family, and records that mix pictures of many shapes with text alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from tests.tiny import FAMILIES, make_tiny_clip, make_tiny_language_model, make_tiny_llava
from tests.tiny_languages import make_tiny_language


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of all families, and of plain language models in the layouts of small published ones, with a CLIP."""
    folder = tmp_path_factory.mktemp("models")
    made = {family: make_tiny_llava(folder / family, family) for family in FAMILIES}
    _name_as_until_2024(made["llava-llama-2"] / "config.json")
    made["language-qwen3"] = make_tiny_language("qwen3", folder / "language-qwen3")
    made["language-smollm2"] = make_tiny_language_model(
        folder / "language-smollm2", tokenizer="bytes", kv_heads=2, tied=True
    )
    made["clip"] = make_tiny_clip(folder / "clip")
    return made


def _name_as_until_2024(file: Path) -> None:
    """`model_type: llava`, without the keys that upstream added later, as LLaVA on Llama-2 was published."""
    config = json.loads(file.read_text())
    added = ("mm_patch_merge_type", "mm_projector_type", "image_aspect_ratio")
    kept = {name: value for name, value in config.items() if name not in added}
    file.write_text(json.dumps({**kept, "model_type": "llava"}))


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """mixed.json (one, two or no picture per record) and captions.json, beside their pictures."""
    folder = tmp_path_factory.mktemp("data")
    mixed: list[object] = []
    captions = []
    for index in range(48):
        file = f"{index}.png"
        Image.new("RGB", (30 + index * 5 % 90, 110 - index * 7 % 80), (index * 5, 255 - index * 5, 99)).save(
            folder / file
        )
        ask = {"from": "human", "value": f"<image>\nwhat is {'very ' * (index % 4)}this?"}
        captions.append({"id": f"c{index}", "image": file, "conversations": [ask, {"from": "gpt", "value": "red"}]})
        answer = {"from": "gpt", "value": f"it is {index}"}
        match index % 3:
            case 0:
                mixed.append({"id": f"p{index}", "image": file, "conversations": [ask, answer]})
            case 1:
                plain = {"from": "human", "value": "how many are there?"}
                mixed.append({"id": f"t{index}", "conversations": [plain, answer]})
            case _:
                two = {"from": "human", "value": "<image>\n<image>\nthe same?"}
                pair = [file, f"{index - 1}.png"]
                mixed.append({"id": f"s{index}", "image": pair, "conversations": [two, answer]})
    (folder / "mixed.json").write_text(json.dumps(mixed))
    (folder / "captions.json").write_text(json.dumps(captions))
    return folder
