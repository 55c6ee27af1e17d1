"""Import: llava-hf checkpoints become upstream's layout, answer alike and can be fine-tuned."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from llava_finetune.convert.importing import guess_conversation, import_model, main, own_template_of
from llava_finetune.errors import UsageError, UserError

Make = Callable[[str], Path]
STOCK_TEMPLATE = (
    "{% for message in messages %}{% if message['role'] != 'system' %}{{ message['role'].upper() + ': '}}{% endif %}"
    "{% for content in message['content'] %}{{ '<image>\n' if content['type'] == 'image' else content['text'] + ' ' }}"
    "{% endfor %}{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)


@pytest.fixture(scope="module")
def stock(exported: Make, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as `tiny-llava-v1-hf` has it: hub names, one file, a sparse config, a cropping processor."""
    from safetensors.torch import load_file, save_file

    folder = tmp_path_factory.mktemp("stock") / "tiny-llava-v1-hf"
    shutil.copytree(exported("llava-1.5"), folder)
    state: dict[str, Any] = {}
    for file in sorted(folder.glob("*.safetensors")):
        state |= load_file(file)
        file.unlink()
    (folder / "model.safetensors.index.json").unlink(missing_ok=True)
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    text = config["text_config"]
    for key in ("head_dim", "rope_parameters", "mlp_bias", "attention_dropout", "pretraining_tp"):
        text.pop(key, None)
    for key in ("dtype", "vision_feature_layer", "vision_feature_select_strategy", "multimodal_projector_bias"):
        config.pop(key, None)
    (folder / "config.json").write_text(json.dumps({**config, "ignore_index": -100}))
    processor = json.loads((folder / "preprocessor_config.json").read_text())
    processor.pop("do_pad")
    processor["image_processor_type"] = "CLIPImageProcessor"
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    (folder / "chat_template.jinja").unlink()
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": STOCK_TEMPLATE}))
    (folder / "llava_finetune.json").unlink()
    return folder


def test_a_stock_checkpoint_imports_padded_and_says_why(
    stock: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(stock), str(tmp_path / "out")]) == 0
    out = capsys.readouterr().out
    assert "note: the processor here crops pictures to the middle, upstream trained LLaVA-1.5 on padded ones" in out
    assert "conversation vicuna_v1, pictures pad" in out
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["model_type"] == "llava_llama"
    assert config["image_aspect_ratio"] == "pad"
    assert config["mm_vision_select_layer"] == -2


def test_the_crop_is_kept_when_asked(stock: Path, tmp_path: Path) -> None:
    result = import_model(str(stock), tmp_path / "out", aspect_ratio="square")
    assert result.image_aspect_ratio == "square"
    assert "token ids equal" in result.verified


@pytest.mark.slow
def test_an_imported_checkpoint_can_be_fine_tuned(stock: Path, held_out: Path, tmp_path: Path) -> None:
    from llava_finetune.merge.command import merge
    from llava_finetune.training.train import main as train

    import_model(str(stock), tmp_path / "base")
    command = ["--model_name_or_path", str(tmp_path / "base"), "--data_path", str(held_out / "records.json")]
    command += ["--image_folder", str(held_out), "--output_dir", str(tmp_path / "run"), "--lora_enable", "True"]
    command += ["--lora_r", "8", "--max_steps", "6", "--per_device_train_batch_size", "4", "--learning_rate", "1e-3"]
    command += [
        "--precision",
        "fp32",
        "--save_strategy",
        "no",
        "--logging_steps",
        "1",
        "--gradient_checkpointing",
        "False",
    ]
    assert train(command) == 0
    rows = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    losses = [row["loss"] for row in rows if "loss" in row]
    assert 0 < losses[-1] < losses[0]
    assert merge(str(tmp_path / "run"), tmp_path / "merged").largest_difference < 1e-4


def test_transformers_own_save_imports(exported: Make, tmp_path: Path, kit: SimpleNamespace) -> None:
    from transformers import AutoModelForImageTextToText, AutoProcessor

    source = exported("1.6-mistral")
    AutoModelForImageTextToText.from_pretrained(source, dtype=torch.float32).save_pretrained(tmp_path / "saved")
    AutoProcessor.from_pretrained(source).save_pretrained(tmp_path / "saved")
    result = import_model(str(tmp_path / "saved"), tmp_path / "out")
    assert (result.model_type, result.conversation, result.image_aspect_ratio) == (
        "llava_mistral",
        "mistral_instruct",
        "anyres",
    )
    ours, theirs = kit.tensors(tmp_path / "out"), kit.tensors(source)
    name = "model.layers.0.self_attn.q_proj.weight"
    assert torch.equal(ours[name], theirs[f"language_model.{name}"])


@pytest.mark.parametrize("name", ["llava-1.5", "1.6-vicuna", "1.6-mistral", "1.6-yi"])
def test_an_imported_model_answers_as_transformers_own(
    name: str, exported: Make, kit: SimpleNamespace, tmp_path: Path
) -> None:
    """The weights are transformers', saved by transformers; nothing of them came from upstream's layout."""
    from llava_finetune.model.loading import load

    processor, model = kit.transformers_own(exported(name))
    torch.manual_seed(7)
    for value in model.parameters():
        value.data *= 1 + 0.2 * torch.randn_like(value)
    model.save_pretrained(tmp_path / "native")
    processor.save_pretrained(tmp_path / "native")
    import_model(str(tmp_path / "native"), tmp_path / "imported")
    kit.assert_same_answers(load(str(tmp_path / "imported"), dtype="fp32"), processor, model)


def test_a_base_in_llava_hf_layout_names_the_import_command(exported: Make) -> None:
    from llava_finetune.model.loading import load

    with pytest.raises(UserError, match="llava-finetune import"):
        load(str(exported("llava-1.5")))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "qwen2_vl"}, 'model_type "qwen2_vl" is not a llava-hf model that upstream can hold'),
        (
            {"text_config": {"model_type": "gpt_neox"}},
            r'text_config\.model_type "gpt_neox"; a LLaVA is made of one of llama, mistral, qwen2',
        ),
        (
            {"text_config": {"model_type": "gemma2"}},
            r'text_config\.model_type "gemma2": Gemma-2 bounds its logits',
        ),
        ({"vision_config": {"model_type": "siglip_vision_model"}}, 'upstream reads only "clip_vision_model"'),
        ({"vision_feature_layer": [-2, -5]}, "vision_feature_layer is a list; upstream reads one layer"),
    ],
)
def test_an_unknown_architecture_is_named(change: dict[str, Any], message: str, stock: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(stock, source)
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(UserError, match=message):
        import_model(str(source), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_missing_tensor_is_named_and_nothing_is_written(stock: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    source = tmp_path / "source"
    shutil.copytree(stock, source)
    state = load_file(source / "model.safetensors")
    state.pop("multi_modal_projector.linear_2.bias")
    save_file(state, source / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"1 missing \(projector\.2\.bias\), 0 unexpected"):
        import_model(str(source), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_without_a_chat_template_asks_for_the_conversation(stock: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(stock, source)
    (source / "chat_template.json").unlink()
    with pytest.raises(UsageError, match="name it: --conversation vicuna_v1"):
        guess_conversation(source, {"text_config": {}})
    assert import_model(str(source), tmp_path / "out", conversation="vicuna_v1").conversation == "vicuna_v1"


@pytest.mark.parametrize("as_list", [True, False])
def test_a_language_model_s_own_template_is_taken_by_name_and_before_upstream_s(as_list: bool, tmp_path: Path) -> None:
    own = "{% for m in messages %}<|im_start|>{{ m.role }}\nBe short.\n{{ m.content }}<|im_end|>\n{% endfor %}"
    named = {"tool_use": "x", "default": own}
    stored = [{"name": name, "template": text} for name, text in named.items()] if as_list else named
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": stored}))
    assert own_template_of(tmp_path) == own
    assert guess_conversation(tmp_path, {"text_config": {"model_type": "qwen2"}}) == "chat_template"
    assert guess_conversation(tmp_path, {"text_config": {"model_type": "llama"}}) == "chatml_direct"
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": {"tool_use": "x"}}))
    with pytest.raises(UserError, match="none of its templates is called default; there are tool_use"):
        own_template_of(tmp_path)


def test_a_name_that_is_no_folder_and_no_hub_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        import_model(str(tmp_path / "nowhere"), tmp_path / "out")
    with pytest.raises(UserError, match="neither a folder here nor a model that the hub gave"):
        import_model("nobody/nothing", tmp_path / "out")
