"""Upstream's own trainer, with the whole series, from its published flags to a model that loads as asked."""

import json
import math
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

from tests.patches.conftest import run_module


@pytest.fixture
def records(tmp_path: Path) -> Path:
    """Eight two-round records with a picture each, and one without."""
    lines = []
    for number in range(8):
        color = ("red", "green", "blue", "gray")[number % 4]
        Image.new("RGB", (60, 50 + number), color).save(tmp_path / f"{number}.png")
        turns = [("human", "<image>\nWhat color?"), ("gpt", color), ("human", "Sure?"), ("gpt", "Yes.")]
        conversations = [{"from": role, "value": text} for role, text in turns]
        lines.append({"id": str(number), "image": f"{number}.png", "conversations": conversations})
    lines.append({"id": "text", "conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "No."}]})
    (tmp_path / "records.json").write_text(json.dumps(lines))
    return tmp_path


def flags(records: Path, base: Path, output: Path) -> list[object]:
    """finetune_qlora.sh's flags that matter, under their published names; the base's mm_* values are left out."""
    return [
        *("--model_name_or_path", base, "--version", "v1", "--vision_tower", base / "clip"),
        *("--data_path", records / "records.json", "--image_folder", records, "--output_dir", output),
        *("--lora_enable", "True", "--bits", 4, "--bf16", "True", "--tf32", "True", "--evaluation_strategy", "no"),
        *("--mm_use_im_patch_token", "False", "--model_max_length", 512, "--max_steps", 3, "--logging_steps", 1),
        *("--per_device_train_batch_size", 3, "--learning_rate", "1e-3", "--warmup_ratio", 0.03, "--save_steps", 100),
        *("--lr_scheduler_type", "cosine", "--report_to", "none", "--lora_r", 8, "--use_cpu", "True"),
    ]


def test_train_mem_trains_qlora_from_published_flags_and_its_output_loads_in_16_bit(records: Path, tiny: Path) -> None:
    from llava.model.builder import load_pretrained_model

    # A name with "mpt" in it, and a generation config that cannot be saved: both ended such runs.
    base, output = records / "prompt-tuned", records / "out"
    shutil.copytree(tiny / "llava-1.5", base)
    (base / "generation_config.json").write_text(json.dumps({"temperature": 0.9, "top_p": 0.6}))
    done = run_module("llava.train.train_mem", *flags(records, base, output))
    assert done.returncode == 0, done.stderr[-3000:]
    assert "--warmup_ratio is now --warmup_steps" in done.stderr
    history = json.loads((output / "trainer_state.json").read_text())["log_history"]
    losses = [row["loss"] for row in history if "loss" in row]
    assert len(losses) == 3
    assert all(math.isfinite(loss) and loss > 0 for loss in losses)
    config = json.loads((output / "config.json").read_text())
    assert "quantization_config" not in config
    assert (config["mm_projector_type"], config["mm_vision_select_layer"]) == ("mlp2x_gelu", -2)
    assert config["image_aspect_ratio"] == "pad"
    _, model, _, _ = load_pretrained_model(str(output), str(base), "any", dtype="bfloat16")
    assert all(value.is_floating_point() for value in model.parameters())


@pytest.mark.slow
@pytest.mark.parametrize("driver", ["upstream", "ours"])
def test_a_pretrained_projector_loads_into_parameters_that_zero3_has_split(
    records: Path, tiny: Path, root: Path, driver: str
) -> None:
    """Over a LLaVA base with two ranks: at a learning rate of next to nothing, what is saved is what was given."""
    from tests.oracle.runs import Job, run_jobs

    base, given = tiny / "llava-1.5", records / "mm_projector.bin"
    shapes = {"0.weight": (64, 64), "0.bias": (64,), "2.weight": (64, 64), "2.bias": (64,)}
    torch.manual_seed(3)
    state = {f"model.mm_projector.{name}": torch.randn(shape) for name, shape in shapes.items()}
    torch.save(state, given)
    words = [
        *("--model_name_or_path", base, "--version", "v1", "--vision_tower", base / "clip", "--use_cpu", "True"),
        *("--mm_projector_type", "mlp2x_gelu", "--mm_vision_select_layer", "-2", "--mm_use_im_patch_token", "False"),
        *("--pretrain_mm_mlp_adapter", given, "--tune_mm_mlp_adapter", "True", "--image_aspect_ratio", "pad"),
        *(
            "--data_path",
            records / "records.json",
            "--image_folder",
            records,
            "--max_steps",
            1,
            "--save_strategy",
            "no",
        ),
        *("--per_device_train_batch_size", 2, "--learning_rate", "1e-30", "--lr_scheduler_type", "constant"),
        *("--report_to", "none", "--deepspeed", root / "deepspeed_configs/zero3.json", "--model_max_length", 512),
        *(("--precision", "fp32", "--check_data", "False") if driver == "ours" else ()),
    ]
    output = records / "out"
    run_jobs(driver, [Job("zero3", words, output, ranks=2)], records / "jobs")["zero3"].require()
    saved = torch.load(output / "mm_projector.bin", weights_only=True)
    assert saved.keys() == state.keys()
    assert all(torch.equal(saved[name].float(), value) for name, value in state.items())


def test_a_flag_against_the_base_ends_the_run_before_it_starts(records: Path, tiny: Path) -> None:
    arguments = flags(records, tiny / "llava-1.5", records / "out")
    done = run_module("llava.train.train", *arguments, "--mm_projector_type", "mlp3x_gelu")
    assert done.returncode != 0
    assert "--mm_projector_type mlp3x_gelu contradicts the base's mm_projector_type 'mlp2x_gelu'" in done.stderr
    assert not (records / "out/adapter_model.safetensors").exists()
