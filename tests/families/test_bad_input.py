"""What cannot be trained is refused before a step is made, by the training command, with what to do about it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from llava_finetune.cli import run_command
from llava_finetune.config.arguments import parse
from llava_finetune.config.translation import translate
from llava_finetune.data.dataset import paths_below
from llava_finetune.errors import UsageError, UserError
from llava_finetune.machine import GB
from llava_finetune.planning.from_config import read_shape
from llava_finetune.planning.proposals import MODES, too_small
from llava_finetune.planning.setting import Setting
from llava_finetune.training.beginning import read_enough

LORA = ("--lora_enable", "True", "--lora_r", "8")


def refused(
    capsys: pytest.CaptureFixture[str], base: Path, data: Path, output: Path, *flags: str, records: str = "mixed.json"
) -> str:
    """Try to train; the one line that it says against it."""
    words = [
        "--model_name_or_path", base, "--data_path", data / records, "--image_folder", data, "--output_dir", output,
        "--max_steps", "1", "--precision", "fp32", "--check_data", "False",
    ]  # fmt: skip
    code = run_command("llava_finetune.training.train", [*map(str, words), *flags])
    _, _, said = capsys.readouterr().err.rpartition("error: ")  # behind transformers' progress bars
    assert code in (1, 2), said
    return said.strip()


@pytest.fixture
def base(models: dict[str, Path], tmp_path: Path) -> Path:
    """A copy of the tiny LLaVA-1.5 that may be damaged."""
    return Path(shutil.copytree(models["llava-1.5"], tmp_path / "base"))


def change(file: Path, **values: object) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


def test_another_family_is_refused_with_what_is_supported(
    base: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change(base / "config.json", model_type="gpt2", architectures=["GPT2LMHeadModel"])
    said = refused(capsys, base, data, tmp_path / "run", "--vision_tower", str(base / "clip"), "--version", "v1")
    assert said.startswith(f"{base}: a model of another family (model_type ")
    assert "liuhaotian/llava-v1.5-7b" in said and "give one of them as MODEL" in said


def test_a_missing_shard_names_the_folder_and_the_file(
    base: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (base / "model.safetensors").rename(base / "model-00001-of-00002.safetensors")
    weights = {"model.embed_tokens.weight": "model-00001-of-00002.safetensors"}
    weights["lm_head.weight"] = "model-00002-of-00002.safetensors"
    (base / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weights}))
    said = refused(capsys, base, data, tmp_path / "run", *LORA)
    assert said.startswith(f"{base}: the weights cannot be loaded: ")
    assert "model-00002-of-00002.safetensors" in said and "download the folder again" in said


def test_a_folder_without_weights_is_named(
    base: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (base / "model.safetensors").unlink()
    said = refused(capsys, base, data, tmp_path / "run", *LORA)
    assert said.startswith(f"{base}: the weights cannot be loaded: ") and "model.safetensors" in said


def test_a_tensor_that_is_in_no_file_is_named(
    base: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = load_file(base / "model.safetensors")
    del state["model.mm_projector.2.bias"]
    save_file(state, base / "model.safetensors", {"format": "pt"})
    said = refused(capsys, base, data, tmp_path / "run", *LORA)
    assert said.startswith(f"{base}: model.mm_projector.2.bias is missing from the weights; download the folder again")


def test_a_missing_projector_is_named(
    models: dict[str, Path], data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tower = ("--vision_tower", str(models["clip"]), "--mm_projector_type", "mlp2x_gelu", "--version", "v1")
    missing = tmp_path / "mm_projector.bin"
    flags = (*LORA, *tower, "--pretrain_mm_mlp_adapter", str(missing))
    said = refused(capsys, models["language-smollm2"], data, tmp_path / "run", *flags)
    assert said == f"--pretrain_mm_mlp_adapter {missing}: no such file; stage 1 (scripts/pretrain.sh) writes it"


def test_a_template_that_the_tokenizer_splits_is_refused(
    base: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = refused(capsys, base, data, tmp_path / "run", *LORA, "--version", "chatml_direct")
    assert said.startswith("the conversation template \"chatml_direct\" ends answers with '<|im_end|>', which this")
    assert said.endswith("choose a template that fits it with --version")


def test_noise_on_embeddings_is_refused_before_anything_is_loaded(
    base: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (base / "model.safetensors").unlink()
    said = refused(capsys, base, data, tmp_path / "run", *LORA, "--neftune_noise_alpha", "5")
    assert (
        said.startswith("--neftune_noise_alpha 5.0: its noise is measured by a padded row") and "leave it out" in said
    )


def test_pictures_without_their_folder_name_the_houses_flag() -> None:
    record = {"id": "a", "image": "a.jpg", "conversations": []}
    with pytest.raises(UserError, match="record 'a' has a picture, and no --images is given"):
        paths_below(None, record)


def test_data_without_a_record_is_refused(
    base: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (data / "none.json").write_text("[]")
    said = refused(capsys, base, data, tmp_path / "run", *LORA, records="none.json")
    assert said == f"{data / 'none.json'}: no records; nothing to train on"


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--data_path", "mixt.json"), "mixt.json: no such .json or .jsonl file"),
        (("--replay", "gone.json:0.1"), "gone.json: no such .json or .jsonl file"),
    ],
)
def test_a_missing_file_of_records_is_named(
    flags: tuple[str, ...], said: str, base: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert refused(capsys, base, data, tmp_path / "run", *LORA, *flags).startswith(said)


def test_more_ranks_than_records_are_refused(data: Path) -> None:
    path = data / "two.json"
    path.write_text(json.dumps(json.loads((data / "mixed.json").read_text())[:2]))
    assert len(read_enough(path, 2)) == 2
    with pytest.raises(UserError, match=r"two\.json: 2 record\(s\) for 8 ranks; start at most 2 \(NUM_GPUS\)"):
        read_enough(path, 8)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--lora_enable", "True", "--tune_mm_mlp_adapter", "True"), "--lora_enable True contradicts --tune_mm_mlp"),
        (
            ("--freeze_mm_mlp_adapter", "True", "--tune_mm_mlp_adapter", "True"),
            "contradicts --tune_mm_mlp_adapter True",
        ),
        (("--precision", "fp32", "--bf16", "True"), "--precision fp32 contradicts --bf16 True"),
        (("--bits", "4"), "--bits 4 without --lora_enable True"),
        (("--bits", "5", "--lora_enable", "True"), "--bits 5: expected 16, 8 or 4"),
        (("--vision_tower_lr", "1e-6"), "--vision_tower_lr 1e-06 contradicts a frozen tower"),
        (
            ("--freeze_mm_mlp_adapter", "True", "--lora_enable", "True", "--lora_targets", "projector"),
            "--freeze_mm_mlp_adapter True contradicts --lora_targets projector",
        ),
        (("--lora_bias", "some"), "--lora_bias some: expected none, all or lora_only"),
        (("--quant_type", "int4"), "--quant_type int4: expected nf4 or fp4"),
        (("--torch_compile_backend", "x"), "--torch_compile_backend x: no backend of torch; there are "),
        (("--use_dora", "True"), "--use_dora True without --lora_enable True"),
        (("--init_lora", "runs/a"), "--init_lora runs/a without --lora_enable True"),
    ],
)
def test_contradictory_flags_name_both_values(flags: tuple[str, ...], said: str, tmp_path: Path) -> None:
    needed = ["--model_name_or_path", "m", "--data_path", "d.json", "--output_dir", str(tmp_path / "run")]
    with pytest.raises(UsageError) as caught:
        parse([*needed, *flags])
    assert said in str(caught.value)


@pytest.mark.parametrize(("flag", "given", "kept"), [("--lora_r", "16", "8"), ("--use_dora", "True", "False")])
def test_a_flag_against_the_adapter_that_is_continued_names_both_values(
    flag: str, given: str, kept: str, base: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    adapter = tmp_path / "earlier"
    adapter.mkdir()
    saved = {"r": 8, "lora_alpha": 16, "use_dora": False, "use_rslora": False}
    (adapter / "adapter_config.json").write_text(json.dumps(saved))
    flags = ("--lora_enable", "True", "--init_lora", str(adapter), flag, given)
    said = refused(capsys, base, data, tmp_path / "run", *flags)
    assert f"{flag} {given} contradicts the adapter's" in said and f" {kept} ({adapter}); give {flag} {kept}" in said


def test_a_gpu_too_small_for_any_mode_says_by_how_much() -> None:
    shape = read_shape("liuhaotian/llava-v1.6-34b")
    for mode in MODES:
        said = too_small(shape, Setting(mode, max_length=4096), 4 * GB)
        assert f"{mode} needs at least " in said and " GB too little; use a smaller model" in said


def test_an_unfit_resume_and_an_unread_config_are_told(
    base: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (base / "config.json").write_text("{")
    assert refused(capsys, base, data, tmp_path / "run", *LORA).startswith(
        f"{base}/config.json: line 1, column 2: broken JSON"
    )


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (("--bf16", "True", "--bf16", "False", "--precision", "fp32"), "fp32"),
        (("--precision", "bf16", "--precision=fp32"), "fp32"),
        (("--fp16", "False", "--fp16", "True"), "fp16"),
    ],
)
def test_of_two_equal_flags_the_later_wins(words: tuple[str, ...], name: str) -> None:
    _, precision, _ = translate([*words, "--warmup_ratio", "0.1", "--warmup_ratio", "0.2"])
    assert precision.name == name
    flags, _, _ = translate(["--warmup_ratio", "0.1", "--warmup_ratio", "0.2", "--precision", "fp32"])
    assert flags[flags.index("--warmup_steps") + 1] == "0.2"
