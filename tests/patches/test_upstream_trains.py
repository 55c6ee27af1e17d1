"""Upstream's own trainer, with the whole series, from its published flags to a model that loads as asked."""

import json
import math
import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from PIL import Image

from llava_finetune.data.unreadable_pictures import LIMIT, Losses, PictureLost, WithSubstitutes
from llava_finetune.errors import UserError
from tests.oracle.runs import Done, Job, run_jobs, weights
from tests.tiny import make_tiny_language_model
from tests.warm import run_module


def write_records(folder: Path) -> Path:
    """records.json: eight two-round records with a picture each, and one without; captions.json: the pictures alone."""
    records, captions = [], []
    for number in range(8):
        color = ("red", "green", "blue", "gray")[number % 4]
        Image.new("RGB", (60, 50 + number), color).save(folder / f"{number}.png")
        turns = [("human", "<image>\nWhat color?"), ("gpt", color), ("human", "Sure?"), ("gpt", "Yes.")]
        conversations = [{"from": role, "value": text} for role, text in turns]
        records.append({"id": str(number), "image": f"{number}.png", "conversations": conversations})
        captions.append({**records[-1], "conversations": conversations[:2]})
    records.append({"id": "text", "conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "No."}]})
    for name, content in (("records", records), ("captions", captions)):
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


@pytest.fixture
def records(tmp_path: Path) -> Path:
    return write_records(tmp_path)


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


MODES: Mapping[str, tuple[str, ...]] = {
    "pretrain": ("--tune_mm_mlp_adapter", "True", "--version", "plain", "--mm_projector_type", "mlp2x_gelu"),
    "full": ("--version", "v1"),
    "LoRA": ("--version", "v1", "--lora_enable", "True", "--lora_r", "8", "--bf16", "True"),
    "LoRA, Llama-2": ("--version", "llava_llama_2", "--lora_enable", "True", "--lora_r", "8"),
}
BASES = {"pretrain": "language", "LoRA, Llama-2": "llava-llama-2"}


@pytest.fixture(scope="module")
def trained(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Done]:
    """Upstream's `train.py` under the whole series in every mode; the flags are the published ones, none for mm_*."""
    folder = write_records(tmp_path_factory.mktemp("trained"))
    jobs = []
    for mode, extra in MODES.items():
        base = BASES.get(mode, "llava-1.5")
        words = [
            *("--model_name_or_path", tiny / base, "--vision_tower", tiny / "llava-1.5/clip"),
            *("--data_path", folder / ("captions.json" if mode == "pretrain" else "records.json")),
            *("--image_folder", folder, "--max_steps", 3, "--logging_steps", 1, "--save_strategy", "no"),
            *("--per_device_train_batch_size", 3, "--learning_rate", "1e-3", "--report_to", "none"),
            *("--mm_vision_select_layer", "-2", "--mm_use_im_patch_token", "False", "--use_cpu", "True"),
            *("--model_max_length", 512, *extra),
        ]
        jobs.append(Job(mode, words, folder / mode.replace(", ", "-")))
    chatml = make_tiny_language_model(folder / "chatml", tokenizer="chatml")
    words = [str(word).replace(str(tiny / "language"), str(chatml)) for word in jobs[0].flags]
    jobs.append(Job("masked", [*words, "--version", "chatml_direct"], folder / "masked"))
    return run_jobs("upstream", jobs, folder / "jobs")


def test_a_run_that_would_learn_nothing_ends_with_the_reason(trained: dict[str, Done]) -> None:
    """Upstream masks every label of a ChatML tokenizer, shows the loss as 0.0 and ends with exit code 0."""
    assert trained["masked"].code == 1
    assert "a batch of 3 records teaches nothing: every label is masked" in trained["masked"].log


@pytest.mark.parametrize("mode", MODES)
def test_train_trains_every_mode_and_its_output_loads(mode: str, tiny: Path, trained: dict[str, Done]) -> None:
    from llava.model.builder import load_pretrained_model

    done = trained[mode].require()
    assert len(done.losses) == 3
    assert all(math.isfinite(loss) and loss > 0 for loss in done.losses)
    base = str(tiny / BASES.get(mode, "llava-1.5"))
    _, model, _, _ = load_pretrained_model(str(done.output), None if mode == "full" else base, "any", dtype="float32")
    loaded = model.state_dict()
    saved = {name.removeprefix("base_model.model."): value for name, value in weights(done.output).items()}
    checked = [name for name in saved if name in loaded]
    assert checked and all((loaded[name] - saved[name]).abs().max() < 1e-6 for name in checked)
    assert any("mm_projector" in name for name in checked)
    config = json.loads((done.output / "config.json").read_text())
    kind, aspect = ("linear", "square") if "Llama-2" in mode else ("mlp2x_gelu", "square" if "pre" in mode else "pad")
    assert (config["mm_projector_type"], config["image_aspect_ratio"]) == (kind, aspect)


def test_a_run_in_fp32_has_a_tower_in_fp32(trained: dict[str, Done]) -> None:
    """The frozen tower is saved with a whole model: upstream's was in fp16, whatever the rest had."""
    from safetensors.torch import load_file

    saved = load_file(trained["full"].require().output / "model.safetensors")
    assert any("vision_tower" in name for name in saved)
    assert {value.dtype for value in saved.values()} == {torch.float32}


@pytest.mark.slow
@pytest.mark.parametrize("driver", ["upstream", "ours"])
def test_a_pretrained_projector_loads_into_parameters_that_zero3_has_split(
    records: Path, tiny: Path, root: Path, driver: str
) -> None:
    """Over a LLaVA base with two ranks: at a learning rate of next to nothing, what is saved is what was given.

    Ours refuses a run in which nothing moves: there a step moves each value by about its rate of 1e-6.
    """
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
        *(
            "--per_device_train_batch_size",
            2,
            "--learning_rate",
            "1e-6" if driver == "ours" else "1e-30",
            "--lr_scheduler_type",
            "constant",
        ),
        *("--report_to", "none", "--deepspeed", root / "deepspeed_configs/zero3.json", "--model_max_length", 512),
        *(("--precision", "fp32", "--check_data", "False") if driver == "ours" else ()),
    ]
    output = records / "out"
    run_jobs(driver, [Job("zero3", words, output, ranks=2)], records / "jobs")["zero3"].require()
    saved = torch.load(output / "mm_projector.bin", weights_only=True)
    assert saved.keys() == state.keys()
    allowed = 1e-5 if driver == "ours" else 0.0
    assert all((saved[name].float() - value).abs().max() <= allowed for name, value in state.items())


@pytest.mark.slow
@pytest.mark.parametrize("driver", ["upstream", "ours"])
def test_a_picture_lost_during_a_run_ends_no_rank(records: Path, tiny: Path, driver: str) -> None:
    """Two ranks, a cut-off picture and a missing one: the next record is taught in their place, and that is said."""
    whole = (records / "3.png").read_bytes()
    (records / "3.png").write_bytes(whole[: len(whole) // 2])
    (records / "6.png").unlink()
    words = [
        *("--model_name_or_path", tiny / "llava-1.5", "--version", "v1", "--vision_tower", tiny / "llava-1.5/clip"),
        *("--mm_vision_select_layer", "-2", "--mm_use_im_patch_token", "False", "--use_cpu", "True"),
        *("--data_path", records / "records.json", "--image_folder", records, "--num_train_epochs", 2),
        *("--lora_enable", "True", "--lora_r", 8, "--logging_steps", 1, "--save_strategy", "no"),
        *("--per_device_train_batch_size", 2, "--learning_rate", "1e-3", "--report_to", "none"),
        *(("--precision", "fp32", "--check_data", "False") if driver == "ours" else ()),
    ]
    done = run_jobs(driver, [Job("lost", words, records / "out", ranks=2)], records / "jobs")["lost"].require()
    assert len(done.losses) == 6
    assert all(math.isfinite(loss) and loss > 0 for loss in done.losses)
    for reason in ("3.png: the picture is cut off", "6.png: no such picture"):
        assert reason in done.log, done.log[-2000:]
    assert "; the next record is taught in its place (" in done.log


def test_more_lost_pictures_than_chance_end_the_run(capsys: pytest.CaptureFixture[str]) -> None:
    losses = Losses()
    for number in range(LIMIT):
        losses.note(f"record {number}")
    with pytest.raises(UserError, match=rf"{LIMIT + 1} pictures could not be read .* at last record 100; .* check"):
        losses.note("record 100")
    assert f"record 99; the next record is taught in its place ({LIMIT} so far)" in capsys.readouterr().err


def test_when_every_picture_is_lost_the_last_reason_is_said() -> None:
    class Nothing:
        records = ("a", "b")

        def __len__(self) -> int:
            return 2

        def __getitem__(self, index: int) -> object:
            raise PictureLost(f"record {index}: no such picture")

    data = WithSubstitutes(Nothing())
    assert data.records == ("a", "b")
    with pytest.raises(PictureLost, match="record 0: no such picture"):
        data[1]


def test_a_flag_against_the_base_ends_the_run_before_it_starts(records: Path, tiny: Path) -> None:
    arguments = flags(records, tiny / "llava-1.5", records / "out")
    done = run_module("llava.train.train", *arguments, "--mm_projector_type", "mlp3x_gelu")
    assert done.returncode != 0
    assert "--mm_projector_type mlp3x_gelu contradicts the base's mm_projector_type 'mlp2x_gelu'" in done.stderr
    assert not (records / "out/adapter_model.safetensors").exists()
