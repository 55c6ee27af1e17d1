"""What a model folder may hold instead of a model: refused before anything of it is made, in one line."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from llava_finetune.errors import UserError
from llava_finetune.saved.pickles import load_pickle
from llava_finetune.saved.sound import blamed_on, require_sound

CONFIG: dict[str, Any] = {"model_type": "llama", "vocab_size": 8, "hidden_size": 4, "num_hidden_layers": 2}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A language model of two layers, as far as config and headers tell."""
    tensors = {"model.embed_tokens.weight": torch.zeros(8, 4), "lm_head.weight": torch.zeros(8, 4)}
    tensors |= {f"model.layers.{layer}.mlp.up_proj.weight": torch.zeros(6, 4) for layer in range(2)}
    tensors |= {f"model.layers.{layer}.self_attn.q_proj.weight": torch.zeros(4, 4) for layer in range(2)}
    save_file(tensors, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    require_sound(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("config.json", "[" * 100_000, "line 1, column 101: nested more than 100 deep"),
        ("config.json", '{"a": ' + "1" * 5000 + "}", "line 1: an integer of 5,000 digits, at most 300"),
        ("config.json", "[]", "expected an object, found a list"),
        ("config.json", '"\\ud800"', "a text holds half of a surrogate pair"),
        (
            "tokenizer_config.json",
            '{"model_max_length": 1' + "0" * 30 + ', "a": ["\\ud800"]}',
            "half of a surrogate pair",
        ),
        ("tokenizer.json", '{"model": {"merges": [["\\ud800", "a"]]}}', "a text holds half of a surrogate pair"),
        ("tokenizer_config.json", '{"tokenizer_class": 5}', "tokenizer_class: expected a string, found 5"),
        ("preprocessor_config.json", "[]", "expected an object, found a list"),
        ("preprocessor_config.json", '{"crop_size": 1000000}', "crop_size: expected a whole number of at most 8192"),
        ("llava_finetune.json", "5", "expected an object, found 5"),
        ("llava_finetune.json", '{"conversation": ["x"]}', "conversation: expected a string, found a list"),
        ("checkpoint.json", '{"files": []}', "files: expected an object, found a list"),
        ("adapter_config.json", '{"peft_type": "NOPE"}', 'peft_type: found a string "NOPE", which is none'),
        ("model.safetensors.index.json", '{"weight_map": []}', "weight_map: expected an object, found a list"),
        ("model.safetensors.index.json", '{"weight_map": {"a": "../b"}}', "names '../b', which is not inside"),
        ("model.safetensors.index.json", '{"weight_map": {"a": "/b"}}', "names '/b', which is not inside"),
    ],
)
def test_a_document_of_another_kind_is_named_with_its_place(folder: Path, name: str, text: str, said: str) -> None:
    (folder / name).write_text(text)
    with pytest.raises(UserError) as refused:
        require_sound(folder)
    assert str(refused.value).startswith(f"{folder / name}: ") and said in str(refused.value)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"num_hidden_layers": 10**9}, "num_hidden_layers: expected a whole number of at most 4096, found 1000000000"),
        ({"num_hidden_layers": 3}, "num_hidden_layers: 3 are promised, the weights hold 2"),
        ({"vocab_size": 10**12}, "vocab_size: expected a whole number of at most"),
        ({"vocab_size": 9}, "vocab_size: 9 is promised, the weights hold 8"),
        ({"hidden_size": "64"}, 'hidden_size: expected a whole number, found a string "64"'),
        ({"intermediate_size": 7}, "intermediate_size: 7 is promised, the weights hold 6"),
        ({"num_attention_heads": 2**20, "head_dim": 2**20}, "num_attention_heads x head_dim: 1,099,511,627,776 is"),
        ({"eos_token_id": 8}, "eos_token_id: expected an id below vocab_size 8, found 8"),
        ({"mm_projector_type": "mlp999999999x_gelu"}, "expected linear, identity, or mlpNx_gelu"),
        ({"image_aspect_ratio": "anyres"}, "there are no image_grid_pinpoints"),
    ],
)
def test_a_config_that_promises_what_the_weights_do_not_hold_is_refused(
    folder: Path, values: dict[str, Any], said: str
) -> None:
    (folder / "config.json").write_text(json.dumps(CONFIG | values))
    with pytest.raises(UserError, match=r"config\.json") as refused:
        require_sound(folder)
    assert said in str(refused.value)


def test_quantised_weights_have_shapes_of_their_own(folder: Path) -> None:
    values = {"quantization_config": {"quant_method": "bitsandbytes"}, "intermediate_size": 12}
    (folder / "config.json").write_text(json.dumps(CONFIG | values))
    require_sound(folder)


@pytest.mark.parametrize("quantised", [True, False])
def test_where_shapes_tell_nothing_the_bytes_of_the_weights_do(folder: Path, quantised: bool) -> None:
    large: dict[str, Any] = {"num_hidden_layers": 4096, "intermediate_size": 2**20, "hidden_size": 2**20}
    if quantised:
        large["quantization_config"] = {"quant_method": "bitsandbytes"}
    else:  # as before PyTorch 1.6, without a header
        (folder / "model.safetensors").unlink()
        torch.save({"a": torch.zeros(4)}, folder / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    (folder / "config.json").write_text(json.dumps(CONFIG | large))
    with pytest.raises(UserError, match=r"9,007,\d{3},\d{3},\d{3},\d{3} parameters and more are promised, the weights"):
        require_sound(folder)


@pytest.mark.parametrize("names", [("adapter_model.safetensors", "non_lora_trainables.bin"), ("mm_projector.bin",)])
def test_what_stands_beside_its_bases_config_need_not_hold_the_base(tmp_path: Path, names: tuple[str, ...]) -> None:
    large = {"num_hidden_layers": 32, "intermediate_size": 11008, "hidden_size": 4096, "vocab_size": 32000}
    (tmp_path / "config.json").write_text(json.dumps(CONFIG | large))
    for name in names:
        save = save_file if name.endswith("safetensors") else torch.save
        save({"a": torch.zeros(4)}, tmp_path / name)
    if "adapter_model.safetensors" in names:
        (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 8}')
    require_sound(tmp_path)


def test_a_tower_has_places_for_its_patches(tmp_path: Path) -> None:
    weights = {"vision_model.embeddings.position_embedding.weight": torch.zeros(17, 4)}
    save_file(weights, tmp_path / "model.safetensors")
    config = {"model_type": "clip_vision_model", "image_size": 56, "patch_size": 14, "hidden_size": 4}
    (tmp_path / "config.json").write_text(json.dumps(config))
    require_sound(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({**config, "image_size": 8192, "patch_size": 1}))
    with pytest.raises(UserError, match="image_size: 8,192 is promised, 67,108,864 patches of 1, the weights"):
        require_sound(tmp_path)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.model", "mm_projector.bin"])
@pytest.mark.parametrize(("make", "said"), [(os.mkfifo, "is a FIFO, expected a regular file"), (os.mkdir, "a folder")])
def test_what_is_no_regular_file_is_refused(folder: Path, name: str, make: Callable[[Path], None], said: str) -> None:
    (folder / name).unlink(missing_ok=True)
    make(folder / name)
    with pytest.raises(UserError, match=said):
        require_sound(folder)


@pytest.mark.parametrize("name", ["model.safetensors", "adapter_model.safetensors"])
@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda raw: raw[:-1], r"[\d,]+ bytes, its header promises [\d,]+"),
        (lambda raw: raw + b"\0", r"[\d,]+ bytes, its header promises [\d,]+"),
        (lambda raw: bytes(len(raw)), r"[\d,]+ bytes, no header"),
        (lambda _: b"", "0 bytes, no header"),
        (lambda _: b"version https://git-lfs.github.com/spec/v1", "42 bytes, no header"),
    ],
)
def test_weights_that_are_not_whole_are_named(
    folder: Path, name: str, spoil: Callable[[bytes], bytes], said: str
) -> None:
    raw = (folder / "model.safetensors").read_bytes()
    (folder / name).write_bytes(spoil(raw))
    with pytest.raises(
        UserError, match=rf"{folder / name}: the shard is not whole \({said}\); download or copy it again"
    ):
        require_sound(folder)


def test_a_link_to_nothing_is_not_taken_for_a_file_that_was_left_out(folder: Path) -> None:
    (folder / "notes.json").symlink_to("gone")
    (folder / "optimizer.pt").symlink_to("gone")
    require_sound(folder)
    for target in ("gone", "tokenizer_config.json"):
        (folder / "tokenizer_config.json").symlink_to(target)
        with pytest.raises(UserError, match=f"tokenizer_config.json: is a link to {target}, where no file is"):
            require_sound(folder)
        (folder / "tokenizer_config.json").unlink()


@pytest.mark.parametrize(("name", "text"), [("tokenizer.json", b'{"a": 1e400}'), ("chat_template.jinja", b"\xff")])
def test_what_a_library_says_of_a_folder_gets_the_name_of_the_file(tmp_path: Path, name: str, text: bytes) -> None:
    (tmp_path / "a.json").write_text("{no file of a loader's")
    (tmp_path / "a.txt").write_bytes(b"\xff")
    (tmp_path / "b.jinja").mkdir()
    (tmp_path / name).write_bytes(text)
    with (
        pytest.raises(UserError, match=f"unusable: {name}: ValueError: line 7; go"),
        blamed_on(tmp_path, "unusable", "go"),
    ):
        raise ValueError("line 7")


class Harmful:
    """Runs a command where a pickle of it is read without care."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("write", [torch.save, lambda value, path: path.write_bytes(pickle.dumps(value))])
def test_a_pickle_that_runs_code_is_refused_and_runs_nothing(tmp_path: Path, write: Callable[..., Any]) -> None:
    mark, path = tmp_path / "ran", tmp_path / "pytorch_model.bin"
    write(Harmful(mark), path)
    with pytest.raises(UserError, match="refused: it is not a plain and whole file of tensors"):
        load_pickle(path)
    assert not mark.exists()
