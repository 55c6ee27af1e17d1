"""The plan's bytes against measured ones: whole trainings on the CPU, their tensors' peak within a tenth."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from llava_finetune.memory import CONTEXT, Setting, estimate, host_ram
from llava_finetune.shapes import read_shape
from llava_finetune.tiny import make_tiny_llava
from tests.house.allocations import Allocations

SIZES = {
    "hidden_size": 256,
    "intermediate_size": 704,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "head_dim": 64,
    "vocab_size": 1000,
}
FLAGS = {
    "pretrain": ["--tune_mm_mlp_adapter", "True"],
    "full": [],
    "lora": ["--lora_enable", "True", "--lora_r", "16"],
    "qlora": ["--lora_enable", "True", "--lora_r", "16", "--bits", "4"],
}
TOLERANCE = 0.1


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random LLaVA-1.5 of 4 layers with 256 channels: large enough that what is counted outweighs the rest."""
    import llava.model  # noqa: F401  registers the config classes
    import torch
    import transformers

    from llava_finetune.modeling import model_class

    folder = make_tiny_llava(tmp_path_factory.mktemp("memory") / "base")
    config = transformers.AutoConfig.for_model(**{**json.loads((folder / "config.json").read_text()), **SIZES})
    model = model_class("llava_llama")(config).to(torch.bfloat16)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixteen questions about a red picture."""
    folder = tmp_path_factory.mktemp("data")
    Image.new("RGB", (56, 56), "red").save(folder / "a.png")
    turns = [
        {"from": "human", "value": "<image>\n" + "what color is this thing here please say " * 4},
        {"from": "gpt", "value": "it is red and large"},
    ]
    rows = [{"id": str(index), "image": "a.png", "conversations": turns} for index in range(16)]
    (folder / "records.json").write_text(json.dumps(rows))
    return folder / "records.json"


@pytest.mark.slow
@pytest.mark.parametrize("checkpointing", [True, False])
@pytest.mark.parametrize("mode", FLAGS)
def test_the_estimate_is_within_a_tenth_of_a_measured_training(
    mode: str, checkpointing: bool, base: Path, records: Path, tmp_path: Path
) -> None:
    from llava_finetune.arguments import parse
    from llava_finetune.train import train

    flags = {
        "--model_name_or_path": base,
        "--data_path": records,
        "--image_folder": records.parent,
        "--output_dir": tmp_path / "run",
        "--max_steps": 2,
        "--per_device_train_batch_size": 4,
        "--gradient_accumulation_steps": 2,
        "--precision": "bf16",
        "--attn_implementation": "sdpa",
        "--gradient_checkpointing": checkpointing,
        "--save_strategy": "no",
        "--learning_rate": 1e-3,
    }
    argv = [str(word) for pair in flags.items() for word in pair] + FLAGS[mode]
    with Allocations() as seen:
        trainer = train(parse(argv))
    batch = next(iter(trainer.get_train_dataloader()))
    setting = Setting(
        mode=mode,
        batch=4,
        checkpointing=checkpointing,
        stage=0,
        rank=16,
        text_tokens=batch["input_ids"].shape[1] - 1,
        supervised_tokens=int((batch["labels"] != -100).sum(1).max()),
        mask_bytes=4,  # dropout on the CPU keeps its mask in the input's type
    )
    expected = estimate(read_shape(str(base)), setting).total - CONTEXT
    print(f"{mode}, checkpointing {checkpointing}: measured {seen.peak:,}, planned {expected:,} bytes")
    assert expected == pytest.approx(seen.peak, rel=TOLERANCE)


def test_freed_memory_is_taken_off() -> None:
    import torch

    with Allocations() as seen:
        for _ in range(3):
            tensor = torch.zeros(1000) + 1
            del tensor
        kept = torch.zeros(10)
    assert seen.peak == 8000 and seen.now == kept.numel() * 4


@pytest.mark.parametrize(
    ("model", "mode", "gigabytes"),
    [
        ("liuhaotian/llava-v1.5-7b", "lora", 24),
        ("liuhaotian/llava-v1.5-7b", "qlora", 16),
        ("liuhaotian/llava-v1.6-34b", "qlora", 48),
    ],
)
def test_what_is_promised_fits_by_plan(model: str, mode: str, gigabytes: int) -> None:
    shape = read_shape(model)
    setting = Setting(mode, batch=1, checkpointing=True, max_length=4096 if shape.anyres else 2048)
    assert estimate(shape, setting).total < gigabytes * 10**9


def test_sharding_divides_what_it_shards() -> None:
    shape = read_shape("liuhaotian/llava-v1.5-7b")
    one, two, three = (estimate(shape, Setting("full", num_gpus=8, stage=stage)) for stage in (0, 2, 3))
    assert two.optimizer * 8 == pytest.approx(12 * 6_759_395_328, rel=1e-6)
    assert two.gradients < one.gradients and two.weights == one.weights
    assert three.weights < two.weights / 7


def test_offload_moves_bytes_to_the_host() -> None:
    shape = read_shape("liuhaotian/llava-v1.5-7b")
    setting = Setting("full", num_gpus=1, stage=2)
    away = replace(setting, offload=True)
    assert estimate(shape, away).optimizer == 0
    assert host_ram(shape, away, on_gpu=True) > host_ram(shape, setting, on_gpu=True) + 90 * 10**9


def test_checkpointing_and_smaller_batches_need_less() -> None:
    shape = read_shape("liuhaotian/llava-v1.5-7b")
    totals = [
        estimate(shape, Setting("lora", batch=size, checkpointing=checkpointing)).total
        for size, checkpointing in ((1, True), (4, True), (4, False))
    ]
    assert totals == sorted(totals) and len(set(totals)) == 3
