"""Launchers and recipes: the command each one starts, the arithmetic it prints, and what it refuses."""

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from llava_finetune import machine
from llava_finetune.cli import main
from llava_finetune.errors import UsageError
from llava_finetune.flags import flag
from llava_finetune.launching import launch, preflight
from llava_finetune.launching.batches import FLAGS
from llava_finetune.launching.launch import apply_plan, build
from llava_finetune.launching.launch_request import read_request
from llava_finetune.launching.ssh_environment import forwarded

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = Path(__file__).parent / "golden"
LAUNCHERS = ["pretrain", "finetune_full", "finetune_lora", "finetune_qlora", "finetune_dpo"]
RECIPES = sorted(path.stem for path in (ROOT / "scripts" / "recipes").glob("*.sh"))
SCRIPTS = [f"scripts/{name}.sh" for name in LAUNCHERS] + [f"scripts/recipes/{name}.sh" for name in RECIPES]
RUN = {"MODEL": "liuhaotian/llava-v1.5-7b", "DATA": "train.json", "IMAGES": "images", "OUTPUT": "runs/a"}
Run = Callable[..., "subprocess.CompletedProcess[str]"]


def portable(text: str) -> str:
    """The text without this machine's paths and number of cores."""
    text = re.sub(r"(--dataloader_num_workers) [124](?= )", r"\1 $WORKERS", text)
    return text.replace(str(Path(sys.prefix)), "$VENV").replace(str(ROOT), "$ROOT")


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_dry_run_prints_the_golden_command_and_writes_nothing(
    script: str, run_script: Run, with_gpus: Callable[..., None], golden: Callable[[Path, str], None], tmp_path: Path
) -> None:
    with_gpus(8)
    variables = {} if "recipes" in script else RUN
    result = run_script(script, "--dry-run", **variables)
    assert result.returncode == 0, result.stderr
    golden(GOLDEN / f"{Path(script).stem}.txt", portable(result.stdout))
    assert list((tmp_path / "empty").iterdir()) == []
    assert not (tmp_path / "record").exists()


@pytest.mark.parametrize("script", SCRIPTS)
def test_deepspeed_is_started_with_the_words_that_were_printed(
    script: str, run_script: Run, with_gpus: Callable[..., None], tmp_path: Path
) -> None:
    with_gpus(8)
    inputs = {"DATA": str(tmp_path / "d.json"), "IMAGES": str(tmp_path), "LAUNCH_CHECKS": "off", "MASTER_PORT": "29511"}
    inputs |= {"CAPTIONS": inputs["DATA"], "CAPTION_IMAGES": inputs["IMAGES"]}
    (tmp_path / "d.json").write_text("[]")
    variables = {**RUN, **inputs} if "recipes" not in script else inputs
    result = run_script(script, "--seed", "7", **variables)
    assert result.returncode == 0, result.stderr
    words = (tmp_path / "record").read_text().split("\n")[:-1]
    # A recipe of two stages starts it twice; the record is of the last.
    printed = result.stdout[result.stdout.rindex("\ndeepspeed \\\n") + 1 :].replace("\\\n", " ").split()
    assert words == printed
    assert words[:3] == ["deepspeed", "--no_local_rank", "--master_port"]
    assert words[-2:] == ["--seed", "7"], "flags of the caller come last, so that they win"


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_says_what_it_is_needs_and_takes(recipe: str) -> None:
    header = (ROOT / "scripts" / "recipes" / f"{recipe}.sh").read_text().split("set -euo pipefail")[0]
    for heading in ("What", "Needs", "Time", "Data", "Launch", "Change"):
        assert f"# {heading} " in header, heading
    assert f"bash scripts/recipes/{recipe}.sh" in header


QLORA = {"--bits": "4", "--quant_type": "nf4", "--double_quant": "True", "--lora_r": "64", "--lora_alpha": "16"}
CAPTIONS = {
    "--bf16": "True", "--lora_targets": "language,vision", "--learning_rate": "1e-4", "--mm_projector_lr": "1e-4",
    "--num_train_epochs": "3", "--freeze_mm_mlp_adapter": None,
}  # fmt: skip
UPSTREAM = {
    "--version": "v1", "--mm_projector_type": "mlp2x_gelu", "--mm_vision_select_layer": "-2",
    "--mm_use_im_start_end": "False", "--mm_use_im_patch_token": "False", "--image_aspect_ratio": "pad",
    "--group_by_modality_length": "True", "--num_train_epochs": "1", "--per_device_train_batch_size": "16",
    "--gradient_accumulation_steps": "1", "--weight_decay": "0", "--warmup_steps": "0.03",
    "--lr_scheduler_type": "cosine", "--tf32": "True", "--model_max_length": "2048", "--gradient_checkpointing": "True",
    "--lazy_preprocess": "True", "--deepspeed": "$ROOT/deepspeed_configs/zero3.json",
}  # fmt: skip
PUBLISHED = {
    "llava15_7b_qlora_instruct_mix": {**QLORA, "--lora_dropout": "0.1", "--lora_targets": "language"},
    "small_llava_qlora_instruct_mix": {**QLORA, "--learning_rate": "2e-5", "--max_steps": "500"},
    "llama2_7b_lora_okvqa": {
        "--lora_r": "128", "--lora_alpha": "256", "--eval_strategy": "epoch", "--version": "llava_llama_2",
        "--deepspeed": "$ROOT/deepspeed_configs/zero2.json",
    },
    "llava16_mistral_7b_lora_captions": {**CAPTIONS, "--version": "mistral_instruct"},
    "llava16_34b_lora_captions": {**CAPTIONS, "--version": "chatml_direct"},
    "llava15_7b_lora_665k": {
        **UPSTREAM, "--lora_r": "128", "--lora_alpha": "256", "--learning_rate": "2e-4", "--mm_projector_lr": "2e-5",
    },
    "smolvlm_lora_captions": {
        "--lora_r": "64", "--lora_alpha": "128", "--lora_targets": "language,vision", "--image_aspect_ratio": "pad",
        "--learning_rate": "1e-4", "--mm_projector_lr": "1e-4", "--num_train_epochs": "3",
    },
    "llava_onevision_05b_lora": {"--lora_r": "64", "--lora_alpha": "128", "--learning_rate": "2e-4"},
    "idefics_9b_qlora_captions": {
        "--bits": "4", "--lora_r": "64", "--lora_targets": "language,projector", "--learning_rate": "1e-4",
    },
    "llava15_7b_full_665k": {**UPSTREAM, "--learning_rate": "2e-5", "--lora_enable": None, "--mm_projector_lr": None},
    "llava_qwen3_pretrain_and_lora": {  # of its second stage, which is printed last
        "--lora_r": "128", "--lora_alpha": "256", "--learning_rate": "2e-4", "--mm_projector_lr": "2e-5",
        "--version": "chat_template",
    },
}  # fmt: skip
BATCHES = {"small_llava_qlora_instruct_mix": 8, "llava16_mistral_7b_lora_captions": 4, "llava16_34b_lora_captions": 4}


def test_every_recipe_is_held_to_its_published_values() -> None:
    assert sorted(PUBLISHED) == RECIPES


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_has_its_published_values(recipe: str) -> None:
    words = (GOLDEN / f"{recipe}.txt").read_text().replace("\\\n", " ").split()
    assert {name: flag(words, name) for name in PUBLISHED[recipe]} == PUBLISHED[recipe]


@pytest.mark.parametrize("recipe", BATCHES)
def test_a_recipe_has_its_published_batch(recipe: str, run_script: Run, with_gpus: Callable[..., None]) -> None:
    with_gpus(1)
    said = run_script(f"scripts/recipes/{recipe}.sh", "--dry-run").stdout
    assert said.startswith(f"# {BATCHES[recipe]} records a step = 1 GPU(s) x ")


@pytest.mark.parametrize("recipe", RECIPES)
def test_what_a_recipe_needs_is_what_plan_says(recipe: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Every plan in a recipe's header fits, by its exit code, for the card that it names."""
    script = (ROOT / "scripts" / "recipes" / f"{recipe}.sh").read_text()
    header = script.split("set -euo pipefail")[0]
    plans = re.findall(r"llava-finetune (plan [^)\n]+)", header)
    assert plans, "a header names the plan that it was made from"
    model = re.findall(r"MODEL:-([^}]+)", script)[0]
    assert model.startswith("models/") or f"--model {model} " in plans[0], "of the model that it trains"
    for plan in plans:
        assert main(plan.split()) == 0, capsys.readouterr().out


def test_the_data_of_the_instruct_mix_recipes_is_ten_thousand_rows() -> None:
    for recipe in ("llava15_7b_qlora_instruct_mix", "small_llava_qlora_instruct_mix"):
        header = (ROOT / "scripts" / "recipes" / f"{recipe}.sh").read_text()
        assert "data_prep hf HuggingFaceH4/llava-instruct-mix-vsft --limit 10000 " in header


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_launcher_is_short(script: str) -> None:
    assert len((ROOT / script).read_text().splitlines()) <= 40


@pytest.mark.parametrize("path", sorted((ROOT / "deepspeed_configs").glob("*.json")), ids=lambda path: path.stem)
def test_a_deepspeed_config_is_hardware_only(path: Path) -> None:
    values = json.loads(path.read_text())
    assert "optimizer" not in values and "scheduler" not in values
    assert values["zero_optimization"]["stage"] == int(path.stem[4])
    assert ("offload_optimizer" in values["zero_optimization"]) == ("offload" in path.stem)
    for name in ("train_batch_size", "gradient_accumulation_steps", "gradient_clipping"):
        assert values[name] == "auto"


def test_without_a_gpu_processes_run_on_the_cpu(run_script: Run) -> None:
    out = run_script("scripts/finetune_lora.sh", "--dry-run", NUM_GPUS="2", **RUN).stdout
    assert "DS_ACCELERATOR=cpu" in out and "OMP_NUM_THREADS=1" in out and "--num_gpus 2" in out
    assert out.startswith("# 128 records a step = 2 process(s) x 4 x 16 accumulated\n")


def test_one_process_without_deepspeed_is_plain_python(run_script: Run) -> None:
    out = run_script("scripts/finetune_lora.sh", "--dry-run", DEEPSPEED_CONFIG="none", **RUN).stdout
    assert "\npython \\\n  -m llava_finetune train \\\n" in out
    assert "--deepspeed" not in out


def test_several_processes_without_deepspeed_use_torchrun(run_script: Run, with_gpus: Callable[..., None]) -> None:
    with_gpus(2)
    out = run_script("scripts/finetune_lora.sh", "--dry-run", DEEPSPEED_CONFIG="none", **RUN).stdout
    assert "torchrun \\\n  --nproc_per_node 2 \\\n  --master_port 29500 \\\n  -m llava_finetune train" in out


def test_many_nodes_through_torchrun_keep_the_deepspeed_config(run_script: Run, with_gpus: Callable[..., None]) -> None:
    with_gpus(8)
    nodes = {"NNODES": "4", "NODE_RANK": "3", "MASTER_ADDR": "node-0"}
    out = run_script("scripts/finetune_full.sh", "--dry-run", **RUN, **nodes).stdout
    assert "--nnodes 4 \\\n  --node_rank 3 \\\n  --master_addr node-0 \\\n" in out
    assert "deepspeed_configs/zero3.json" in out
    assert out.startswith("# 128 records a step = 32 GPU(s) x 4 x 1 accumulated\n")


def test_nodes_without_an_address_are_refused(run_script: Run, with_gpus: Callable[..., None]) -> None:
    with_gpus(8)
    result = run_script("scripts/finetune_full.sh", "--dry-run", NNODES="2", **RUN)
    assert result.returncode == 2
    assert result.stderr == "error: NNODES=2 needs NODE_RANK and MASTER_ADDR too; see docs/many-nodes.md\n"


def test_a_hostfile_is_counted_and_passed_on(run_script: Run, with_gpus: Callable[..., None], tmp_path: Path) -> None:
    with_gpus(8)
    hostfile = tmp_path / "hosts"
    hostfile.write_text("# ours\nnode-0 slots=8\nnode-1 slots=8\n")
    out = run_script("scripts/finetune_lora.sh", "--dry-run", HOSTFILE=str(hostfile), **RUN).stdout
    assert out.startswith("# 128 records a step = 16 GPU(s) x 4 x 2 accumulated\n")
    assert f"--hostfile {hostfile}" in out and "--num_gpus" not in out


def test_a_flag_survives_the_other_hosts_shell(run_script: Run, with_gpus: Callable[..., None], tmp_path: Path) -> None:
    with_gpus(8)
    (tmp_path / "hosts").write_text("node-0 slots=8\nnode-1 slots=8\n")
    targets = r"model\.layers\.\d+\.(self_attn|mlp)\..*"
    out = run_script(
        "scripts/finetune_lora.sh", "--dry-run", "--lora_targets", targets, HOSTFILE=str(tmp_path / "hosts"), **RUN
    ).stdout
    over_there = " ".join(shlex.split(out[out.index("deepspeed ") :]))
    assert shlex.split(over_there)[-2:] == ["--lora_targets", targets]


def test_what_a_run_needs_goes_along_over_ssh_and_secrets_do_not(tmp_path: Path) -> None:
    (tmp_path / ".deepspeed_env").write_text("NCCL_IB_HCA=mlx5\n")
    given = {
        "HOME": str(tmp_path),
        "HF_HOME": "/shared/hub",
        "HF_TOKEN": "secret",
        "WANDB_API_KEY": "secret",
        "TOKENIZERS_PARALLELISM": "false",
        "LLAVA_FINETUNE_FAILURE": "/shared/failure.json",
        "EDITOR": "vi",
    }
    with forwarded(given) as environment:
        file = Path(environment["DS_ENV_FILE"])
        assert file.read_text().splitlines() == [
            "HF_HOME=/shared/hub",
            "TOKENIZERS_PARALLELISM=false",
            "LLAVA_FINETUNE_FAILURE=/shared/failure.json",
            f"PATH={sys.prefix}/bin:$PATH",
            "NCCL_IB_HCA=mlx5",
        ]
    assert not file.exists()


def test_a_broken_hostfile_line_is_named(run_script: Run, tmp_path: Path) -> None:
    hostfile = tmp_path / "hosts"
    hostfile.write_text("node-0 slots=8\nnode-1 8\n")
    result = run_script("scripts/finetune_lora.sh", "--dry-run", HOSTFILE=str(hostfile), **RUN)
    assert result.returncode == 1
    assert result.stderr == f"error: {hostfile}, line 2: expected `HOST slots=N`, found 'node-1 8'\n"


def test_chosen_gpus_stay_chosen(run_script: Run, with_gpus: Callable[..., None]) -> None:
    with_gpus(8)
    out = run_script("scripts/finetune_lora.sh", "--dry-run", CUDA_VISIBLE_DEVICES="2,5", **RUN).stdout
    assert "--include localhost:2,5" in out and "= 2 GPU(s) x" in out


def test_a_global_batch_that_does_not_divide_is_said(run_script: Run, with_gpus: Callable[..., None]) -> None:
    with_gpus(3)
    out = run_script("scripts/finetune_lora.sh", "--dry-run", **RUN).stdout
    assert out.startswith(
        "# 132 records a step = 3 GPU(s) x 4 x 11 accumulated (GLOBAL_BATCH=128 is no multiple of 12)\n"
    )


def test_batch_flags_of_the_caller_win(run_script: Run, with_gpus: Callable[..., None]) -> None:
    with_gpus(2)
    flags = ["--per_device_train_batch_size", "3", "--gradient_accumulation_steps", "5"]
    out = run_script("scripts/finetune_lora.sh", "--dry-run", *flags, **RUN).stdout
    assert out.startswith("# 30 records a step = 2 GPU(s) x 3 x 5 accumulated\n")
    assert out.count("--per_device_train_batch_size") == 1


def test_auto_takes_the_plan(run_script: Run, with_gpus: Callable[..., None]) -> None:
    with_gpus(2, 24)
    result = run_script("scripts/finetune_full.sh", "--dry-run", "--auto", **RUN)
    assert "# --auto: zero2_offload, batch" in result.stdout, result.stderr
    assert "deepspeed_configs/zero2_offload.json" in result.stdout


def test_auto_says_by_how_much_a_gpu_is_too_small(run_script: Run, with_gpus: Callable[..., None]) -> None:
    with_gpus(1, 4)
    result = run_script(
        "scripts/finetune_qlora.sh", "--dry-run", "--auto", **{**RUN, "MODEL": "liuhaotian/llava-v1.6-34b"}
    )
    assert result.returncode == 1
    assert "liuhaotian/llava-v1.6-34b: qlora needs at least " in result.stderr
    assert " too little; " in result.stderr


@pytest.mark.parametrize("bits", ["4", "8"])
def test_quantised_weights_with_zero3_are_refused(bits: str, run_script: Run) -> None:
    result = run_script("scripts/finetune_qlora.sh", "--dry-run", "--bits", bits, DEEPSPEED_CONFIG="zero3", **RUN)
    assert result.returncode == 2
    assert f"ZeRO-3 cannot partition {bits}-bit weights; use DEEPSPEED_CONFIG=zero2" in result.stderr


@pytest.mark.parametrize("name", ["MODEL", "DATA", "OUTPUT"])
def test_a_missing_variable_is_named(name: str, run_script: Run) -> None:
    result = run_script("scripts/finetune_lora.sh", "--dry-run", **{key: RUN[key] for key in RUN if key != name})
    assert result.returncode == 2
    assert result.stderr.startswith(f"error: {name} is not set; {name}=... bash scripts/")


def test_all_missing_variables_are_named_at_once_and_a_swapped_letter_is_seen(run_script: Run) -> None:
    result = run_script("scripts/finetune_lora.sh", MODLE="m")
    assert result.returncode == 2
    assert "MODEL and DATA and OUTPUT are not set; MODEL=... DATA=... OUTPUT=... bash scripts/" in result.stderr
    assert "; MODLE is not read by this script; MODEL is" in result.stderr


def test_a_folder_or_a_file_of_nearly_the_name_is_named_before_anything_is_printed(
    run_script: Run, tmp_path: Path
) -> None:
    for name in ("merged", "Fotos"):
        (tmp_path / name).mkdir()
    (tmp_path / "train.JSON").write_text("[]")
    good = {**RUN, "MODEL": str(tmp_path / "merged"), "DATA": str(tmp_path / "train.JSON"), "IMAGES": str(tmp_path)}
    for name, wrong, meant in (
        ("MODEL", "mergd", "merged"),
        ("DATA", "train.json", "train.JSON"),
        ("IMAGES", "fotos", "Fotos"),
    ):
        result = run_script("scripts/finetune_lora.sh", **{**good, name: str(tmp_path / wrong)})
        assert result.returncode == 1
        what = "file" if name == "DATA" else "folder"
        meaning = f"did you mean {tmp_path / meant}?"
        assert result.stderr == f"error: {name}={tmp_path / wrong}: no such {what}; {meaning}\n"
        assert result.stdout == "", "the command of a run that cannot begin is not printed"


def test_an_unknown_deepspeed_config_lists_the_known(run_script: Run) -> None:
    result = run_script("scripts/finetune_lora.sh", "--dry-run", DEEPSPEED_CONFIG="zero9", **RUN)
    assert result.returncode == 2
    assert "give zero2, zero2_offload, zero3, zero3_offload, a path ending in .json, or none" in result.stderr


def test_more_gpus_than_there_are_is_refused(run_script: Run, with_gpus: Callable[..., None]) -> None:
    with_gpus(2)
    result = run_script("scripts/finetune_lora.sh", "--dry-run", NUM_GPUS="4", **RUN)
    assert result.returncode == 2
    assert result.stderr == "error: NUM_GPUS=4, but this machine shows 2 GPU(s); set NUM_GPUS=2\n"


def test_missing_data_is_found_before_anything_starts(run_script: Run, tmp_path: Path) -> None:
    result = run_script("scripts/finetune_lora.sh", **RUN)
    assert result.returncode == 1
    assert result.stderr == "error: DATA=train.json: no such file; `python -m data_prep --help` makes one\n"
    assert not (tmp_path / "record").exists()


def test_a_launch_begins_also_where_nobody_reads_its_notes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "d.json").write_text("[]")
    given = {**RUN, "DATA": str(tmp_path / "d.json"), "IMAGES": str(tmp_path), "OUTPUT": str(tmp_path / "out")}
    for name, value in {**given, "DEEPSPEED_CONFIG": "none", "NUM_GPUS": "0", "LAUNCH_CHECKS": "off"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(launch, "run_until_it_fits", lambda *_: 75)
    for name in ("stdout", "stderr"):
        read, write = os.pipe()
        os.close(read)
        monkeypatch.setattr(sys, name, os.fdopen(write, "w"))
    assert launch.main(["lora"]) == 75
    for stream in (sys.stdout, sys.stderr):
        stream.close()  # what it buffers finds an end


def test_help_lists_the_environment(run_script: Run) -> None:
    result = run_script("scripts/finetune_lora.sh", "--help")
    assert result.returncode == 0
    for name in ("MODEL", "HOSTFILE", "DEEPSPEED_CONFIG", "GPU ", "--dry-run", "--auto"):
        assert name in result.stdout


def test_auto_plans_for_cards_that_are_named(run_script: Run) -> None:
    """A plan for the queue's machines, made where there is no GPU."""
    out = run_script("scripts/finetune_lora.sh", "--dry-run", "--auto", GPU="24GB", **RUN).stdout
    assert "# --auto: zero2, batch 4 x 32 accumulated, checkpointing True: about 23.3 GB of 24.0 GB on each GPU" in out


def test_slurm_starts_the_launcher_once_on_each_node(
    run_script: Run, with_gpus: Callable[..., None], programs: Path
) -> None:
    with_gpus(8)
    for name, text in {
        "scontrol": "echo node-7; echo node-8",
        "srun": 'while [[ "$1" == --* ]]; do shift; done; SLURM_NODEID=1 exec "$@"',
    }.items():
        (programs / name).write_text(f"#!/usr/bin/env bash\n{text}\n")
        (programs / name).chmod(0o755)
    slurm = {"SLURM_JOB_NODELIST": "node-[7-8]", "SLURM_JOB_ID": "41", "SLURM_JOB_NUM_NODES": "2"}
    slurm |= {"SLURM_GPUS_ON_NODE": "8", "SLURM_SUBMIT_DIR": str(ROOT)}
    result = run_script("scripts/slurm.sbatch", "scripts/finetune_full.sh", "--dry-run", **slurm, **RUN)
    assert result.returncode == 0, result.stderr
    assert "--nnodes 2 \\\n  --node_rank 1 \\\n  --master_addr node-7 \\\n  --master_port 20041" in result.stdout


ODD_NUMBERS = ["0", "-1", "0.5", "nan", "1e400", "1" * 30, "9" * 5000, "²", "0x10", "many"]
NUMBERED = ["PER_GPU_BATCH", "GLOBAL_BATCH", "NNODES", "MASTER_PORT", "NUM_GPUS", "NODE_RANK"]


@pytest.mark.parametrize("name", NUMBERED)
def test_a_number_of_the_environment_is_refused_with_its_name_and_range(name: str) -> None:
    for value in ODD_NUMBERS:
        if value == "0" and name in ("NUM_GPUS", "NODE_RANK"):
            continue
        with pytest.raises(UsageError, match=rf"^{name}={re.escape(value[:40])}: expected a whole number"):
            build(read_request(["lora"], {**RUN, "NUM_GPUS": "0", "DEEPSPEED_CONFIG": "none", name: value}))


@pytest.mark.parametrize(
    "name", ["--max_steps", "--num_train_epochs", "--warmup_steps", *FLAGS, "--lora_r", "--lora_dropout", "--bits"]
)
def test_a_number_in_a_flag_is_refused_by_the_launcher_as_by_the_run(name: str, tmp_path: Path) -> None:
    (tmp_path / "train.json").write_text("[{}, {}]")
    given = {**RUN, "DATA": str(tmp_path / "train.json"), "NUM_GPUS": "0", "GPU": "24GB"}
    planned = name in ("--lora_r", "--lora_dropout", "--bits")  # read for --auto alone
    for value in ("nan", "-2", "1e400", "9" * 5000, "²", "many"):
        request = read_request(["lora", name, value], given)
        with pytest.raises(UsageError, match=rf"^{name} {re.escape(value[:40])}: expected a (whole )?number"):
            apply_plan(request) if planned else build(request)


def test_a_hidden_gpu_is_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    found = "".join(f"{index}, NVIDIA, 81559\n" for index in range(3))
    done = subprocess.CompletedProcess([], 0, found, "")
    monkeypatch.setattr(machine.subprocess, "run", lambda *_, **__: done)
    for visible, seen in {"-1": [], "0,-1,1": [0], "": [], "2, 1": [1, 2], "GPU-f00": [0]}.items():
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        assert [gpu.index for gpu in machine.gpus()] == seen, visible


def test_a_lock_that_goes_while_it_is_looked_at_is_not_stale(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = tmp_path / "build" / "lock"
    monkeypatch.setattr(Path, "glob", lambda *_: iter([gone]))
    assert preflight.stale_locks(tmp_path) == []
