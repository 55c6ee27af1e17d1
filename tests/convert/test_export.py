"""Export: what transformers' own LLaVA and LLaVA-NeXT make of the folder is what the trained model answers."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from llava_finetune.convert.export import export, main
from llava_finetune.convert.importing import import_model
from llava_finetune.errors import UsageError, UserError
from llava_finetune.saved.manifest import read_manifest

FAMILIES = ("llava-1.5", "1.6-vicuna", "1.6-mistral", "1.6-yi")
Make = Callable[[str], Path]


@pytest.mark.parametrize("name", FAMILIES)
def test_greedy_answers_and_logits_equal_transformers_own(
    name: str, family: Make, exported: Make, kit: SimpleNamespace
) -> None:
    from llava_finetune.model.loading import load

    kit.assert_same_answers(load(str(family(name)), dtype="fp32"), *kit.transformers_own(exported(name)))


@pytest.mark.parametrize("name", FAMILIES)
def test_bf16_logits_agree_within_its_noise(name: str, family: Make, tmp_path: Path) -> None:
    result = export(str(family(name)), tmp_path / "out", dtype="bf16")
    stated = re.search(r"logits by at most ([\d.e+-]+) \(bfloat16, allowed ([\d.e+-]+)\)", result.verified)
    assert stated and 0 < float(stated[1]) <= float(stated[2])
    assert json.loads((tmp_path / "out" / "llava_finetune.json").read_text())["verified"] == result.verified


@pytest.mark.parametrize("name", FAMILIES)
def test_a_round_trip_gives_the_same_bytes_per_tensor(
    name: str, family: Make, exported: Make, kit: SimpleNamespace, tmp_path: Path
) -> None:
    import_model(str(exported(name)), tmp_path / "back")
    export(str(tmp_path / "back"), tmp_path / "again")
    first, again = kit.tensors(exported(name)), kit.tensors(tmp_path / "again")
    assert first.keys() == again.keys()
    assert all(torch.equal(first[key], again[key]) and first[key].dtype == again[key].dtype for key in first)
    source, back = kit.tensors(family(name)), kit.tensors(tmp_path / "back")
    assert back.keys() == {key for key in source if "vision_tower" not in key}
    assert all(torch.equal(source[key], back[key]) for key in back)
    one, two = (json.loads((folder / "config.json").read_text()) for folder in (exported(name), tmp_path / "again"))
    assert one == two
    for file in ("chat_template.jinja", "preprocessor_config.json", "processor_config.json"):
        assert (exported(name) / file).read_text() == (tmp_path / "again" / file).read_text()


@pytest.mark.parametrize("name", FAMILIES)
def test_the_template_marks_exactly_what_training_supervises(name: str, family: Make, exported: Make) -> None:
    from llava_finetune.convert.probes import probes
    from llava_finetune.convert.tokenizer_files import load_tokenizer
    from llava_finetune.data.masking import encode
    from llava_finetune.model.loading import load

    loaded = load(str(family(name)), dtype="fp32")
    tokenizer = load_tokenizer(exported(name))
    template = (exported(name) / "chat_template.jinja").read_text()
    for probe in probes(56):
        if probe.is_open:
            continue
        encoded = encode(probe.turns, loaded.template, loaded.tokenizer)
        out = tokenizer.apply_chat_template(
            probe.messages, chat_template=template, return_dict=True, return_assistant_tokens_mask=True
        )
        expected = [label != -100 for label in encoded.labels]
        assert [bool(mark) for mark in out["assistant_masks"]] == expected


def test_the_template_writes_bos_system_prompt_turns_and_end(exported: Make, kit: SimpleNamespace) -> None:
    processor, _ = kit.transformers_own(exported("llava-1.5"))
    messages = [
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What?"}]},
        {"role": "assistant", "content": "A cat."},
        {"role": "user", "content": "Sure?"},
    ]
    text = processor.apply_chat_template(messages, add_generation_prompt=True)
    assert text.startswith("<s> A chat between a curious user")
    assert text.endswith("USER: <image> \nWhat? ASSISTANT: A cat.</s>USER: Sure? ASSISTANT:")


def test_a_system_message_replaces_the_prompt_of_training(exported: Make, kit: SimpleNamespace) -> None:
    processor, _ = kit.transformers_own(exported("1.6-yi"))
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    text = processor.apply_chat_template(messages, add_generation_prompt=True)
    assert text == "<|im_start|>system\nBe brief.<|im_end|><|im_start|>user\nHi<|im_end|><|im_start|>assistant\n"


def test_pictures_are_padded_where_training_padded(exported: Make, kit: SimpleNamespace) -> None:
    processor, _ = kit.transformers_own(exported("llava-1.5"))
    assert processor.image_processor.do_pad is True
    picture = kit.noise(200, 40)
    pixels = processor.image_processor(picture, return_tensors="pt")["pixel_values"][0]
    assert bool((pixels[:, 0, :].std(-1) < 1e-3).all()), "the upper border must be the padding's one colour"


def test_a_model_that_was_trained_on_crops_is_exported_with_crops(family: Make, tmp_path: Path) -> None:
    source = tmp_path / "square"
    shutil.copytree(family("llava-1.5"), source)
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps({**config, "image_aspect_ratio": "square"}))
    export(str(source), tmp_path / "out")
    assert json.loads((tmp_path / "out" / "preprocessor_config.json").read_text())["do_pad"] is False


def test_generation_ends_at_the_end_token_of_the_template(exported: Make, kit: SimpleNamespace) -> None:
    config = json.loads((exported("1.6-yi") / "generation_config.json").read_text())
    processor, _ = kit.transformers_own(exported("1.6-yi"))
    assert processor.tokenizer.convert_tokens_to_ids("<|im_end|>") in config["eos_token_id"]


def test_an_engine_that_samples_unless_told_is_greedy(exported: Make, kit: SimpleNamespace, tmp_path: Path) -> None:
    """vLLM takes `top_k` from generation_config.json where a request sends nothing; transformers must go on saving."""
    config = json.loads((exported("llava-1.5") / "generation_config.json").read_text())
    assert config["top_k"] == 1
    processor, model = kit.transformers_own(exported("llava-1.5"))
    messages = [{"role": "user", "content": [{"type": "text", "text": "What is that?"}]}]
    inputs = processor.apply_chat_template(
        messages, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    greedy = model.generate(**inputs, max_new_tokens=12, do_sample=False)
    assert model.generate(**inputs, max_new_tokens=12).tolist() == greedy.tolist()
    model.save_pretrained(tmp_path / "saved")


def test_several_texts_in_a_message_are_joined_as_our_own_server_joins_them(
    family: Make, exported: Make, kit: SimpleNamespace
) -> None:
    from llava_finetune.model.loading import load
    from llava_finetune.serve.pictures import Limits
    from llava_finetune.serve.prompts import build_prompt
    from llava_finetune.serve.protocol import ChatRequest

    picture = kit.noise(56, 56)
    texts = [{"type": "text", "text": text} for text in (" First. ", "Second?\n")]
    image = {"type": "image_url", "image_url": {"url": kit.data_url(picture)}}
    request = ChatRequest(model="tiny", messages=[{"role": "user", "content": [texts[0], image, texts[1]]}])
    loaded = load(str(family("llava-1.5")), dtype="fp32")
    ours = build_prompt(loaded, request.to_messages(Limits())).input_ids
    processor, _ = kit.transformers_own(exported("llava-1.5"))
    content = [texts[0], {"type": "image", "image": picture}, texts[1]]
    theirs = processor.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=True, return_dict=True
    )["input_ids"][0]
    image_token = processor.tokenizer.convert_tokens_to_ids("<image>")
    assert [token for token in theirs if token != image_token] == [token for token in ours if token != -200]


def test_a_frozen_tower_is_written_in_the_models_dtype(family: Make, kit: SimpleNamespace, tmp_path: Path) -> None:
    """An engine would convert it, with a warning for each tensor; the check allows for it in a wider dtype too."""
    from safetensors.torch import save_file

    source = tmp_path / "source"
    shutil.copytree(family("llava-1.5"), source)
    state = {name: value.to(torch.bfloat16) for name, value in kit.tensors(source).items()}
    save_file(state, source / "model.safetensors", metadata={"format": "pt"})
    for dtype in ("auto", "float32"):
        export(str(source), tmp_path / dtype, dtype=dtype)
        assert {value.dtype for value in kit.tensors(tmp_path / dtype).values()} == {torch.bfloat16}


def test_the_pipeline_in_the_docs_answers_as_upstreams_code(
    root: Path,
    family: Make,
    exported: Make,
    kit: SimpleNamespace,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from PIL import Image

    from llava_finetune.model.loading import load
    from llava_finetune.serve.prompts import Message, build_prompt

    (code,) = re.findall(r"```python\n(.*?)```", (root / "docs/deploy.md").read_text(), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    Path("exported").symlink_to(exported("llava-1.5"))
    kit.noise(90, 50).save("dog.jpg")
    exec(compile(code, "docs/deploy.md", "exec"), {})
    loaded = load(str(family("llava-1.5")), dtype="fp32")
    prompt = build_prompt(loaded, [Message("user", "What is this?", (Image.open("dog.jpg"),))])
    ids = loaded.model.generate(
        torch.tensor([prompt.input_ids]), images=torch.stack(prompt.pixel_values), do_sample=False, max_new_tokens=64
    )
    expected = loaded.tokenizer.decode(ids[0], skip_special_tokens=True)
    assert capsys.readouterr().out.strip() == expected.strip() != ""


def test_a_legacy_tokenizer_keeps_its_space_after_an_end_token(
    family: Make, kit: SimpleNamespace, tmp_path: Path
) -> None:
    source = tmp_path / "legacy"
    shutil.copytree(family("llava-1.5"), source)
    config = json.loads((source / "tokenizer_config.json").read_text())
    (source / "tokenizer_config.json").write_text(json.dumps({**config, "legacy": True}))
    assert "token ids equal" in export(str(source), tmp_path / "out").verified


def test_a_wrong_weight_is_noticed_and_nothing_is_written(
    family: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from llava_finetune.saved import tensor_names

    honest = tensor_names.to_llava_hf
    swap = {"linear_1": "linear_2", "linear_2": "linear_1"}

    def swapped(name: tensor_names.Name) -> str:
        text = honest(name)
        for layer, other in swap.items():
            if f".{layer}." in text:
                return text.replace(layer, other)
        return text

    monkeypatch.setattr(tensor_names, "to_llava_hf", swapped)
    with pytest.raises(UserError, match=r"logits differ by .* the folder would answer differently"):
        export(str(family("llava-1.5")), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert list(tmp_path.iterdir()) == []


def test_a_processor_that_crops_is_noticed(family: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from llava_finetune.convert import processor_files

    honest = processor_files.write_processor
    monkeypatch.setattr(processor_files, "write_processor", lambda *a, pad, **k: honest(*a, pad=False, **k))
    with pytest.raises(UserError, match=r"pixel values differ by .*: the picture is cut or scaled otherwise"):
        export(str(family("llava-1.5")), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_torchvisions_resize_is_told_and_pillows_is_what_is_checked(
    family: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torchvision is stood in for by a processor that is a little off unless Pillow's is asked for."""
    from transformers import AutoProcessor
    from transformers.utils import import_utils

    honest = AutoProcessor.from_pretrained

    def resized_otherwise(folder: str, backend: str | None = None, **more: Any) -> Any:
        processor = honest(folder, **more)
        if backend != "pil":
            processor.image_processor.image_mean = [value + 0.01 for value in processor.image_processor.image_mean]
        return processor

    monkeypatch.setattr(AutoProcessor, "from_pretrained", resized_otherwise)
    with pytest.raises(UserError, match="pixel values differ by"):
        export(str(family("1.6-mistral")), tmp_path / "refused")
    monkeypatch.setattr(import_utils, "is_torchvision_available", lambda: True)
    verified = export(str(family("1.6-mistral")), tmp_path / "out").verified
    told = re.search(r'; Pillow resizes \(backend="pil"\), torchvision would differ by ([\d.e+-]+)$', verified)
    assert told and 0.01 < float(told[1]) < 0.1


def test_an_unfit_template_is_refused_with_the_first_difference(family: Make, tmp_path: Path) -> None:
    from llava_finetune.convert import styles
    from llava_finetune.convert.probes import probes

    tokenizer_folder = family("llava-1.5")
    from llava_finetune.convert.tokenizer_files import load_tokenizer

    tokenizer = load_tokenizer(tokenizer_folder)
    wrong = [(probe, [1, 2, 3]) for probe in probes(56)]
    with pytest.raises(UserError, match="no chat template gives this tokenizer the ids of training"):
        styles.choose_style(wrong, tokenizer, "vicuna_v1", 999)


def test_an_architecture_without_a_llava_hf_layout_is_refused(family: Make, tmp_path: Path) -> None:
    with pytest.raises(UserError, match='mm_projector_type "linear"; llava-hf has only the two-layer "mlp2x_gelu"'):
        export(str(family("llava-llama-2")), tmp_path / "out")
    other = tmp_path / "other"
    shutil.copytree(family("llava-1.5"), other)
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, "model_type": "llava_mpt"}))
    with pytest.raises(UserError, match=r'"llava_mpt" has no llava-hf layout; supported: llava, .*llava_llama, '):
        export(str(other), tmp_path / "out")


def test_an_adapter_is_sent_to_merge_first(adapter: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"is an adapter; merge it first: llava-finetune merge "):
        export(str(adapter), tmp_path / "out")


def test_nothing_is_overwritten(family: Make, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("keep")
    with pytest.raises(UsageError, match="exists and is not empty; give a new folder, nothing is overwritten"):
        export(str(family("llava-1.5")), tmp_path / "out")
    assert (tmp_path / "out" / "mine.txt").read_text() == "keep"


def test_the_command_prints_what_it_verified(family: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(family("1.6-mistral")), str(tmp_path / "out"), "--json"]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["family"] == "LlavaNextForConditionalGeneration"
    assert result["conversation"] == "mistral_instruct"
    assert "token ids equal" in result["verified"]
    assert read_manifest(tmp_path / "out")["verified"] == result["verified"]


def test_tied_embeddings_stay_tied(family: Make, kit: SimpleNamespace, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    source = tmp_path / "tied"
    shutil.copytree(family("llava-1.5"), source)
    state = kit.tensors(source)
    state.pop("lm_head.weight")
    save_file(state, source / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": True}))
    assert "token ids equal" in export(str(source), tmp_path / "out").verified
    assert not any("lm_head" in name for name in kit.tensors(tmp_path / "out"))
    import_model(str(tmp_path / "out"), tmp_path / "back")
    assert "lm_head.weight" not in kit.tensors(tmp_path / "back")
    assert json.loads((tmp_path / "back" / "config.json").read_text())["tie_word_embeddings"] is True
