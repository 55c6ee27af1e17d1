"""One process is enough: no DeepSpeed, bitsandbytes or flash-attn, as on macOS and Windows; what needs them says so."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from llava_finetune.config.precision import choose_precision
from llava_finetune.launching import launch
from tests.fixtures.environments import no_rank

ROOT = Path(__file__).resolve().parents[2]
HIDE = """
import sys
for name in ("deepspeed", "bitsandbytes", "flash_attn"):
    sys.modules[name] = None  # not found, not importable
"""


def run(folder: Path, *command: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """A command of the project where the packages for Linux with a GPU are not installed."""
    (folder / "sitecustomize.py").write_text(HIDE)
    environment = no_rank(PYTHONPATH=str(folder), OUTPUT=str(folder / "run")) | variables
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300, check=False)


def inputs(models: dict[str, Path], data: Path) -> dict[str, str]:
    return {
        "MODEL": str(models["llava-1.5"]),
        "DATA": str(data / "mixed.json"),
        "IMAGES": str(data),
        "GLOBAL_BATCH": "4",
        "PER_GPU_BATCH": "2",
        "NUM_GPUS": "1",
    }


@pytest.mark.slow
def test_a_model_trains_and_is_evaluated_without_them(models: dict[str, Path], data: Path, tmp_path: Path) -> None:
    script = str(ROOT / "scripts" / "finetune_lora.sh")
    flags = ["--max_steps", "2", "--dataloader_num_workers", "0", "--check_data", "False"]
    trained = run(tmp_path, "bash", script, *flags, DEEPSPEED_CONFIG="none", **inputs(models, data))
    assert trained.returncode == 0, trained.stderr[-3000:]
    assert "adapters moved" in trained.stdout
    question = [{"from": "human", "value": "<image>\nwhat is this?"}, {"from": "gpt", "value": "red"}]
    (tmp_path / "asked.json").write_text(json.dumps([{"id": "a", "image": "1.png", "conversations": question}]))
    words = ["--model", str(tmp_path / "run"), "--data", str(tmp_path / "asked.json"), "--image_folder", str(data)]
    evaluated = run(tmp_path, sys.executable, "-m", "llava_finetune", "evaluate", *words)
    assert evaluated.returncode == 0, evaluated.stderr[-3000:]
    assert "exact match" in evaluated.stdout, evaluated.stdout


def test_a_deepspeed_config_without_deepspeed_says_what_to_do(
    models: dict[str, Path], data: Path, tmp_path: Path
) -> None:
    script = str(ROOT / "scripts" / "finetune_lora.sh")
    refused = run(tmp_path, "bash", script, DEEPSPEED_CONFIG="zero2", **inputs(models, data))
    assert refused.returncode == 2
    assert refused.stderr.startswith("error: DEEPSPEED_CONFIG=zero2: DeepSpeed is not installed here (it needs Linux")
    assert "(DEEPSPEED_CONFIG=none)" in refused.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--deepspeed", "zero2.json"), "--deepspeed zero2.json: DeepSpeed is not installed here"),
        (("--bits", "4"), "--bits 4 needs bitsandbytes, which is not installed; run: pip install -e '.[quant]'"),
        (
            ("--attn_implementation", "flash_attention_2"),
            "--attn_implementation flash_attention_2 needs flash-attn, which is not installed",
        ),
    ],
)
def test_a_flag_whose_package_is_missing_says_so(
    flags: tuple[str, ...], said: str, models: dict[str, Path], data: Path, tmp_path: Path
) -> None:
    needed = ["--model_name_or_path", str(models["llava-1.5"]), "--data_path", str(data / "mixed.json")]
    needed += ["--image_folder", str(data), "--output_dir", str(tmp_path / "run"), "--lora_enable", "True"]
    needed += ["--check_data", "False"]
    refused = run(tmp_path, sys.executable, "-m", "llava_finetune", "train", *needed, *flags)
    assert refused.returncode in (1, 2)
    assert f"error: {said}" in refused.stderr, refused.stderr[-2000:]


@pytest.mark.parametrize(("platform", "config"), [("linux", "zero2.json"), ("darwin", None), ("win32", None)])
def test_deepspeed_is_the_default_on_linux_alone(
    platform: str, config: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch.sys, "platform", platform)
    chosen = launch.deepspeed_config(launch.read_request(["lora"], {}))
    assert (chosen.name if chosen else None) == config


def test_mps_trains_in_fp32_and_says_why() -> None:
    chosen = choose_precision("auto", "mps")
    assert chosen.dtype == torch.float32 and chosen.reason.startswith("mps ")
