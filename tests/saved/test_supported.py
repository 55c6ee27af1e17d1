"""A base that upstream has no class for: one message that says what is supported and what to do."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llava_finetune.errors import UserError
from llava_finetune.model.building import load_config, load_tokenizer
from llava_finetune.saved.folders import describe
from llava_finetune.saved.supported import FAMILIES, require_language, require_sentences, require_tower

OTHERS = {
    "gemma": {"model_type": "gemma", "architectures": ["GemmaForCausalLM"]},
    "phi": {"model_type": "phi", "architectures": ["PhiForCausalLM"]},
    "falcon": {"model_type": "falcon", "architectures": ["FalconForCausalLM"]},
    "qwen-vl": {"model_type": "qwen2_vl", "architectures": ["Qwen2VLForConditionalGeneration"]},
    "llava-next on qwen": {"model_type": "llava_qwen", "architectures": ["LlavaQwenForCausalLM"]},
    "unheard of": {"model_type": "tomorrows"},
    "nothing said": {"architectures": ["SomeModel"]},
}


def folder_of(path: Path, config: dict[str, object]) -> Path:
    path.mkdir()
    (path / "config.json").write_text(json.dumps(config))
    return path


@pytest.mark.parametrize("name", OTHERS)
def test_a_base_of_another_family_says_what_is_supported(name: str, tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "base", OTHERS[name])
    with pytest.raises(UserError) as caught:
        load_config(str(folder))
    text = str(caught.value)
    assert text.startswith(f"{folder}: a model of another family (model_type ") and "\n" not in text
    assert "Supported are LLaVA-1.5 and 1.6 on Llama, Vicuna, Yi or Mistral (liuhaotian/llava-v1.5-7b" in text
    assert "llava-finetune import" not in text, "import would not convert it"


@pytest.mark.parametrize("kind", FAMILIES)
def test_a_family_of_transformers_is_told_what_takes_it(kind: str) -> None:
    with pytest.raises(UserError, match=f"transformers' own class .{kind}., which this command does not take; train,"):
        require_language("base", {"model_type": kind})


@pytest.mark.parametrize("kind", ["clip", "siglip_vision_model"])
def test_a_tower_as_the_base_is_told(kind: str) -> None:
    with pytest.raises(UserError, match=r"a vision tower \(\w+\), not a language model; name it with --vision_tower"):
        require_language("tower", {"model_type": kind})


@pytest.mark.parametrize("kind", ["vit", "siglip2", ""])
def test_a_tower_of_no_known_kind_is_told(kind: str, tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "tower", {"model_type": kind})
    said = (
        "a SigLIP-2 NaFlex" if kind == "siglip2" else r"no vision tower of a known kind \(model_type .*openai/clip-vit"
    )
    with pytest.raises(UserError, match=rf"--vision_tower .*tower: {said}"):
        require_tower(str(folder))
    for known in ("clip", "siglip", "dinov2"):
        require_tower(str(folder_of(tmp_path / known, {"model_type": known})))


def test_a_base_without_a_tokenizer_is_told(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "base", {"model_type": "llama"})
    with pytest.raises(
        UserError, match=r"base: no tokenizer there \(none of tokenizer\.model, .*Copy tokenizer\.model"
    ):
        load_tokenizer(str(folder), None, 2048)
    (folder / "tokenizer.json").write_text("{}")
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "LlamaTokenizer"}')
    with pytest.raises(UserError, match=r"base: its tokenizer cannot be read.*copy tokenizer\.model"):
        load_tokenizer(str(folder), None, 2048)


def test_a_path_that_is_not_there_is_no_hub_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"runs/quickstart/base/tower: no such folder below .*give its path from here"):
        require_tower("runs/quickstart/base/tower")
    with pytest.raises(UserError, match=r"\./model: no such folder below"):
        describe("./model")


def test_a_tokenizer_model_of_another_kind_is_left_alone_beside_a_tokenizer_json(tmp_path: Path) -> None:
    """Llama-3's is tiktoken's; transformers reads tokenizer.json there."""
    (tmp_path / "tokenizer.model").write_bytes(b"IQ== 0\n")
    with pytest.raises(UserError, match=r"tokenizer.model: is no SentencePiece model"):
        require_sentences(str(tmp_path))
    (tmp_path / "tokenizer.json").write_text("{}")
    require_sentences(str(tmp_path))
