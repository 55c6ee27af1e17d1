"""What each patch of upstream's trainer is for, asked of `train()` itself with a stand-in for the Trainer.

Each test is named by one patch (`proven_by`) and fails without it: `python -m patches prove NAME`.
"""

import importlib
import inspect
import json
import runpy
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from PIL import Image

from llava_finetune.errors import UserError

Keywords = dict[str, Any]


class Reached(Exception):
    """Raised by a stand-in where a test needs no more of upstream's function."""


@pytest.fixture
def records(tmp_path: Path) -> Path:
    """records.json: one record with a picture that is there, one whose picture is not, in the first place."""
    Image.new("RGB", (60, 50), "red").save(tmp_path / "there.png")
    turns = [{"from": "human", "value": "<image>\nWhat color?"}, {"from": "gpt", "value": "red"}]
    rows = [{"id": name, "image": f"{name}.png", "conversations": turns} for name in ("lost", "there")]
    (tmp_path / "records.json").write_text(json.dumps(rows))
    return tmp_path


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Any:
    """`llava.train.train`, whose saves do nothing and whose Trainer is a stand-in that keeps what it is given."""
    module = importlib.import_module("llava.train.train")
    monkeypatch.setattr(module, "safe_save_model_for_hf_trainer", lambda **_: None)
    return module


@pytest.fixture
def train(module: Any, tiny: Path, records: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Keywords]:
    """Run `train()` with some flags; what the Trainer was made of. `during`: done in place of the training."""

    def run(*flags: object, base: Path = tiny / "llava-1.5", during: Callable[[Any], None] | None = None) -> Keywords:
        given: Keywords = {}

        class StandIn:
            deepspeed = None

            def __init__(self, **keywords: Any) -> None:
                given.update(keywords)

            def train(self) -> None:
                if during is not None:
                    during(given["model"])

            def save_state(self) -> None:
                return None

        monkeypatch.setattr(module, "LLaVATrainer", StandIn)
        words: list[object] = [
            *("--model_name_or_path", base, "--vision_tower", tiny / "llava-1.5/clip", "--version", "v1"),
            *("--data_path", records / "records.json", "--image_folder", records, "--output_dir", records / "out"),
            *("--mm_vision_select_layer", "-2", "--mm_use_im_patch_token", "False", "--use_cpu", "True"),
            *("--report_to", "none", *flags),
        ]
        monkeypatch.setattr(sys, "argv", ["train.py", *map(str, words)])
        module.train()
        return given

    return run


@pytest.fixture
def load_keywords(module: Any, monkeypatch: pytest.MonkeyPatch) -> Keywords:
    """What `train()` asks `from_pretrained` for; the run ends there."""
    seen: Keywords = {}

    def keep(*_: Any, **keywords: Any) -> None:
        seen.update(keywords)
        raise Reached

    monkeypatch.setattr(module.LlavaLlamaForCausalLM, "from_pretrained", keep)
    return seen


def test_the_flags_of_published_scripts_are_understood(train: Callable[..., Keywords]) -> None:
    given = train("--evaluation_strategy", "no", "--warmup_ratio", "0.03", "--tf32", "True")
    assert given["args"].warmup_steps == 0.03


def test_the_module_of_the_trainer_imports() -> None:
    assert importlib.import_module("llava.train.llava_trainer").ALL_LAYERNORM_LAYERS


def test_the_trainer_gets_arguments_that_it_takes(train: Callable[..., Keywords]) -> None:
    given = train()
    inspect.signature(transformers.Trainer.__init__).bind(None, **given)
    assert given["processing_class"].pad_token


def bare_trainer(**arguments: Any) -> Any:
    """A LLaVATrainer that was not built."""
    trainer = object.__new__(importlib.import_module("llava.train.llava_trainer").LLaVATrainer)
    trainer.args = SimpleNamespace(**arguments)
    return trainer


def test_the_sampler_takes_the_data_set(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(transformers.Trainer, "_get_train_sampler", lambda _, data: seen.append(data))
    trainer = bare_trainer(group_by_modality_length=False)
    trainer.train_dataset = [1, 2]
    trainer._get_train_sampler([3])
    assert seen == [[3]]


def test_a_checkpoint_is_saved_with_two_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    takes, seen = inspect.signature(transformers.Trainer._save_checkpoint), []
    monkeypatch.setattr(transformers.Trainer, "_save_checkpoint", lambda *given: seen.append(takes.bind(*given)))
    bare_trainer(tune_mm_mlp_adapter=False)._save_checkpoint("model", "trial")
    assert [call.arguments["trial"] for call in seen] == ["trial"]


def test_qlora_keeps_projector_tower_and_head_in_16_bit(
    train: Callable[..., Keywords], load_keywords: Keywords
) -> None:
    with pytest.raises(Reached):
        train("--bits", 4, "--lora_enable", "True")
    assert not {"load_in_4bit", "load_in_8bit"} & load_keywords.keys()
    skipped = load_keywords["quantization_config"].llm_int8_skip_modules
    assert skipped == ["model.mm_projector", "model.vision_tower", "lm_head"]


def test_without_bf16_a_bf16_base_trains_in_fp32(train: Callable[..., Keywords], load_keywords: Keywords) -> None:
    with pytest.raises(Reached):
        train()
    assert load_keywords["torch_dtype"] is torch.float32


def save_with(module: Any, trainer: Any, output: Path) -> None:
    """Upstream's save, as `train()` calls it."""
    output.mkdir(exist_ok=True)
    module.safe_save_model_for_hf_trainer(trainer=trainer, output_dir=str(output))


def test_a_save_under_deepspeed_needs_no_cuda(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fail() -> None:
        raise AssertionError("Torch not compiled with CUDA enabled")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "synchronize", fail)
    saved: list[str] = []
    trainer = SimpleNamespace(args=SimpleNamespace(), deepspeed=object(), save_model=saved.append)
    save_with(importlib.import_module("llava.train.train"), trainer, tmp_path / "out")
    assert saved == [str(tmp_path / "out")]


def test_only_the_first_process_writes(tmp_path: Path) -> None:
    """Under torchrun `local_rank` stays -1 on every rank; the process's own index tells them apart."""
    model = torch.nn.Module()
    model.mm_projector = torch.nn.Linear(2, 2)
    model.config = SimpleNamespace(save_pretrained=lambda _: None)
    for index in (1, 0):
        arguments = SimpleNamespace(tune_mm_mlp_adapter=True, local_rank=-1, local_process_index=index)
        trainer = SimpleNamespace(args=arguments, model=model)
        save_with(importlib.import_module("llava.train.train"), trainer, tmp_path / "out")
        assert (tmp_path / "out/mm_projector.bin").is_file() is (index == 0)


def test_deepspeeds_group_is_there_before_the_model(
    train: Callable[..., Keywords], load_keywords: Keywords, monkeypatch: pytest.MonkeyPatch
) -> None:
    import deepspeed

    started: list[bool] = []
    monkeypatch.setattr(deepspeed, "init_distributed", lambda: started.append(bool(load_keywords)))
    parse = transformers.HfArgumentParser.parse_args_into_dataclasses

    def under_deepspeed(*given: Any, **keywords: Any) -> Any:
        parsed = parse(*given, **keywords)
        parsed[2].deepspeed = "zero3.json"
        monkeypatch.setenv("RANK", "0")
        return parsed

    monkeypatch.setattr(transformers.HfArgumentParser, "parse_args_into_dataclasses", under_deepspeed)
    with pytest.raises(Reached):
        train()
    assert started == [False], "not once, or after the model"


def test_under_zero3_everything_has_the_dtype_of_the_base(
    train: Callable[..., Keywords], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("transformers.integrations.is_deepspeed_zero3_enabled", lambda: True)
    model = train("--bf16", "True", "--lora_enable", "True", "--lora_r", 8)["model"]
    assert {value.dtype for value in model.parameters()} == {torch.bfloat16}


def test_the_process_group_is_left_at_the_end(train: Callable[..., Keywords], monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    def as_a_rank(_: Any) -> None:
        monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
        for name in ("barrier", "destroy_process_group"):
            monkeypatch.setattr(torch.distributed, name, lambda name=name: calls.append(name))

    train(during=as_a_rank)
    assert calls == ["barrier", "destroy_process_group"]


class WithoutLegacy:
    """A tokenizer that has no `legacy`, as the fast ones."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer

    def __call__(self, *given: Any, **keywords: Any) -> Any:
        return self.tokenizer(*given, **keywords)

    def __getattr__(self, name: str) -> Any:
        if name == "legacy":
            raise AttributeError(name)
        return getattr(self.tokenizer, name)


def test_a_tokenizer_without_legacy_is_masked(module: Any, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    template = module.conversation_lib.conv_templates["v1"]
    monkeypatch.setattr(module.conversation_lib, "default_conversation", template)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny / "llava-1.5")
    tokenizer.model_max_length = 512
    words = [("human", "What color?"), ("gpt", "Red."), ("human", "Sure?"), ("gpt", "Yes.")]
    rounds = [[{"from": role, "value": text} for role, text in words]]
    known, unknown = (module.preprocess_v1(rounds, each)["labels"][0] for each in (tokenizer, WithoutLegacy(tokenizer)))
    assert unknown.shape == known.shape


def test_the_values_of_the_base_win(train: Callable[..., Keywords]) -> None:
    config = train()["model"].config
    assert (config.mm_projector_type, config.image_aspect_ratio) == ("mlp2x_gelu", "pad")


def test_a_tokenizer_without_unk_gets_a_pad_token(
    train: Callable[..., Keywords], monkeypatch: pytest.MonkeyPatch
) -> None:
    read, read_tokenizers = transformers.AutoTokenizer.from_pretrained, []

    def without_unk(*given: Any, **keywords: Any) -> Any:
        tokenizer = read(*given, **keywords)
        tokenizer.unk_token = None
        read_tokenizers.append(tokenizer)
        return tokenizer

    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", without_unk)
    train()
    assert read_tokenizers[-1].pad_token == "<unk>"


def test_an_unknown_template_ends_the_run(train: Callable[..., Keywords]) -> None:
    with pytest.raises(UserError, match='unknown conversation template "vicuna"'):
        train("--version", "vicuna")


def test_a_batch_without_a_label_ends_the_run(module: Any) -> None:
    collate = module.DataCollatorForSupervisedDataset(SimpleNamespace(pad_token_id=0, model_max_length=8))
    with pytest.raises(UserError, match="a batch of 1 records teaches nothing"):
        collate([{"input_ids": torch.ones(3, dtype=torch.long), "labels": torch.full((3,), -100)}])


def test_a_generation_config_that_cannot_be_saved_ends_no_run(
    train: Callable[..., Keywords], tiny: Path, tmp_path: Path
) -> None:
    base = Path(shutil.copytree(tiny / "llava-1.5", tmp_path / "base"))
    (base / "generation_config.json").write_text(json.dumps({"temperature": 0.9, "top_p": 0.6}))
    model = train(base=base)["model"]
    model.generation_config.save_pretrained(tmp_path)
    assert model.generation_config.temperature is None


def test_qlora_leaves_no_quantization_in_the_config(train: Callable[..., Keywords], records: Path) -> None:
    def as_qlora_does(model: Any) -> None:
        model.config.quantization_config = {"quant_method": "bitsandbytes", "load_in_4bit": True}

    train("--lora_enable", "True", "--lora_r", 8, during=as_qlora_does)
    assert "quantization_config" not in json.loads((records / "out/config.json").read_text())


def test_a_run_in_fp32_has_its_tower_in_fp32(train: Callable[..., Keywords]) -> None:
    tower = train()["model"].get_vision_tower()
    assert {value.dtype for value in tower.parameters()} == {torch.float32}


def test_the_launchers_entry_point_asks_for_attention_that_runs(module: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(module, "train", lambda attn_implementation: asked.append(attn_implementation))
    runpy.run_module("llava.train.train_mem", run_name="__main__")
    assert asked == ["sdpa"]


def test_a_lost_picture_gives_way_to_the_next_record(train: Callable[..., Keywords]) -> None:
    data = train()["train_dataset"]
    assert torch.equal(data[0]["image"], data[1]["image"])
