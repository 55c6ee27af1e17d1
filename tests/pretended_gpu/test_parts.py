"""The pretended GPU's own parts, without a training: allocator, lengths of records, folders, what it asks for."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from llava_finetune.errors import UsageError, UserError
from llava_finetune.planning.from_config import KNOWN_MODELS, read_shape
from llava_finetune.planning.setting import Setting
from llava_finetune.pretended_gpu import guard
from llava_finetune.pretended_gpu.allocator import MIB, replay
from llava_finetune.pretended_gpu.model_folder import make_folder
from llava_finetune.pretended_gpu.records import conversation, picture_size
from llava_finetune.saved.supported import FAMILIES

SEVEN = "liuhaotian/llava-v1.5-7b"
KNOWN = json.loads(KNOWN_MODELS.read_text())
MODELS = [
    name
    for name, config in KNOWN["models"].items()
    if name.startswith(("liuhaotian", "llava-hf")) and config["model_type"] not in FAMILIES
]


def test_a_freed_block_is_used_again_and_its_rest_stays_free() -> None:
    held = replay([(0, 30 * MIB), (0, -30 * MIB), (1, 20 * MIB), (2, 9 * MIB)])
    assert (held.peak_reserved, held.peak_used) == (30 * MIB, 30 * MIB)


def test_what_does_not_fit_a_hole_takes_a_new_segment() -> None:
    held = replay([(0, 20 * MIB), (1, 20 * MIB), (0, -20 * MIB), (2, 22 * MIB)])
    assert held.peak_reserved == 62 * MIB and held.used == 42 * MIB


def test_free_neighbours_are_joined() -> None:
    """Two blocks of 6 MiB from one segment of 20: freed in any order, a block of 16 fits where they were."""
    for order in ([0, 1], [1, 0]):
        held = replay([(0, 6 * MIB), (1, 6 * MIB), *((number, -6 * MIB) for number in order), (2, 16 * MIB)])
        assert held.peak_reserved == 20 * MIB


def test_small_blocks_share_segments_of_two_mebibytes() -> None:
    assert replay([(number, 512) for number in range(4096)]).peak_reserved == 2 * MIB
    assert replay([(number, 512) for number in range(4097)]).peak_reserved == 4 * MIB


@pytest.mark.parametrize("model", MODELS)
def test_a_published_model_can_be_built_and_goes_without_padding(model: str, tmp_path: Path) -> None:
    """Its tower has as many heads as divide its width, and no window is guessed: with one, batches would be padded."""
    import torch
    import transformers

    from llava_finetune.kernels.unpadded_attention import can_unpad
    from llava_finetune.model.building import load_config

    folder = make_folder(tmp_path, read_shape(model), layers=1)
    with torch.device("meta"):
        transformers.CLIPVisionModel(transformers.CLIPVisionConfig.from_pretrained(folder / "clip"))
    config = load_config(str(folder))
    config._attn_implementation = "sdpa"
    assert can_unpad(config)
    assert not config.mm_use_im_patch_token, "a token would be added, and the vocabulary cut to the tokenizer's"


def test_every_built_in_tower_says_its_heads() -> None:
    towers = KNOWN["towers"]
    assert all(
        tower["hidden_size"] == 64 * tower["num_attention_heads"]
        for tower in towers.values()
        if "model_type" not in tower  # a CLIP
    )
    assert all(tower["num_attention_heads"] for tower in towers.values())


@pytest.mark.parametrize(("text", "taught", "images"), [(256, 64, 1), (44, 8, 0), (900, 700, 2)])
def test_records_are_as_long_as_wanted(text: int, taught: int, images: int, tmp_path: Path) -> None:
    from llava_finetune.data.masking import encode
    from llava_finetune.model.building import load_tokenizer
    from llava_finetune.pretended_gpu.records import TEMPLATE

    folder = make_folder(tmp_path, read_shape(SEVEN), layers=1)
    turns = conversation(folder, Setting("lora", text_tokens=text, supervised_tokens=taught, images=images))
    encoded = encode(turns, TEMPLATE, load_tokenizer(str(folder), None, 4096), None)
    assert (len(encoded.input_ids) - images, encoded.num_supervised) == (text, taught)


def test_a_picture_takes_the_most_tokens() -> None:
    assert picture_size(read_shape(SEVEN)) == (336, 336)
    assert picture_size(read_shape("liuhaotian/llava-v1.6-34b")) == (672, 672)


def test_without_a_compiler_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(UserError, match=r"needs a C\+\+ compiler once, and none of c\+\+, g\+\+, clang\+\+ is on the"):
        guard._compiled(guard._torch_folder())
    assert list(tmp_path.iterdir()) == []


def test_a_compiler_that_fails_is_quoted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    monkeypatch.setenv("CXX", "false")
    with pytest.raises(UserError, match=r"false could not compile .*guard.cpp: no message"):
        guard._compiled(guard._torch_folder())
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_key_of_a_job_is_named() -> None:
    from llava_finetune.pretended_gpu.training import job_from

    with pytest.raises(UsageError, match=r"a pretended training knows no bach; it takes .*accumulation, .*batch, "):
        job_from({"model": SEVEN, "mode": "lora", "bach": 4})


@pytest.mark.slow
def test_the_module_answers_in_one_line_of_json(root: Path) -> None:
    job = {"model": SEVEN, "mode": "pretrain", "layers": 1, "batch": 1}
    command = [sys.executable, "-m", "llava_finetune.pretended_gpu", json.dumps(job)]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout.splitlines()[-1])
    assert 0 < sum(facts["parts"].values()) == facts["peak"] < facts["reserved"]
