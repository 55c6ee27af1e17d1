"""Every launcher and recipe is run at tiny size through its real command line, with DeepSpeed, on the CPU.

One of them starts DeepSpeed's own launcher; the others, which start it by the same words, have their ranks forked.
"""

import json
import math
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.fixtures.environments import no_rank
from tests.fixtures.forked_deepspeed import run_script
from tests.tiny import IMAGE_SIZE, make_tiny_clip, make_tiny_language_model, make_tiny_llava
from tests.tiny_families import BUILDERS, make_tiny_family
from tests.tiny_languages import ABOUT, make_tiny_language
from tests.tiny_towers import make_tiny_tower

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Run:
    """A script, the tiny model that stands in for its own, and the flags that make it tiny."""

    script: str
    model: str
    flags: tuple[str, ...] = ()
    variables: dict[str, str] = field(default_factory=dict)
    result: str = "adapter_config.json"


TOWER = ("--vision_tower", "{clip}")
STAGE_1 = {"CAPTIONS": "captions.json", "CAPTION_IMAGES": "."}
RUNS = [
    Run("finetune_lora.sh", "llava-1.5"),
    Run("finetune_qlora.sh", "llava-1.5"),
    Run("finetune_full.sh", "llava-1.5", result="model.safetensors"),
    Run("finetune_dpo.sh", "llava-1.5"),
    Run("recipes/llava15_7b_qlora_instruct_mix.sh", "llava-1.5"),
    Run("recipes/small_llava_qlora_instruct_mix.sh", "llava-1.5"),
    Run("recipes/llama2_7b_lora_okvqa.sh", "language-model", TOWER),
    Run("recipes/llama2_7b_lora_okvqa.sh", "llava-llama-2", (), {"PROJECTOR": ""}),
    Run("recipes/llava16_mistral_7b_lora_captions.sh", "1.6-mistral"),
    Run("recipes/llava16_34b_lora_captions.sh", "1.6-yi"),
    Run("recipes/llava15_7b_lora_665k.sh", "language-model", TOWER),
    Run("recipes/llava15_7b_full_665k.sh", "language-model", TOWER, result="model.safetensors"),
    Run("recipes/llava_qwen3_pretrain_and_lora.sh", "qwen3", (), {**STAGE_1, "TOWER": "siglip"}),
    Run("recipes/smolvlm_lora_captions.sh", "smolvlm"),
    Run("recipes/llava_onevision_05b_lora.sh", "llava_onevision"),
    Run("recipes/idefics_9b_qlora_captions.sh", "idefics"),
]


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures, records and, as they are asked for, tiny models."""
    folder = tmp_path_factory.mktemp("recipes")
    colors = ["red", "green", "blue", "white", "black"]
    for color in colors:
        Image.new("RGB", (IMAGE_SIZE, IMAGE_SIZE + 20), color).save(folder / f"{color}.png")
    rows: list[dict[str, Any]] = [
        {
            "id": str(index),
            "image": f"{colors[index % 4]}.png",
            "conversations": [
                {"from": "human", "value": "<image>\nWhat color is it?"},
                {"from": "gpt", "value": colors[index % 4]},
            ],
            "rejected": colors[(index + 1) % 4],  # read by DPO alone
        }
        for index in range(16)
    ]
    (folder / "records.json").write_text(json.dumps(rows))
    # Training refuses a picture that is in its evaluation set too.
    held_out = [{**row, "id": f"held-out-{row['id']}", "image": "black.png"} for row in rows[:2]]
    (folder / "held_out.json").write_text(json.dumps(held_out))
    caption = {"from": "human", "value": "<image>"}
    captions = [{**row, "conversations": [caption, row["conversations"][1]]} for row in rows]
    (folder / "captions.json").write_text(json.dumps(captions))
    make_tiny_clip(folder / "clip")
    make_tiny_tower(folder / "siglip", "siglip")
    return folder


def tiny(shop: Path, model: str) -> Path:
    """The tiny model that stands in for a recipe's own."""
    folder = shop / model
    if not folder.exists() and model in ABOUT:
        make_tiny_language(model, folder)
    if not folder.exists() and model in BUILDERS:
        make_tiny_family(folder, model)
    if not folder.exists():
        make_tiny_language_model(folder) if model == "language-model" else make_tiny_llava(folder, model)
    return folder


def launch(shop: Path, script: str, output: Path, flags: tuple[str, ...], **variables: str) -> list[dict[str, float]]:
    """Run a launcher for two steps and return its log; the run must end with 0."""
    environment = {
        **no_rank(),
        "DATA": str(shop / "records.json"),
        "IMAGES": str(shop),
        "OUTPUT": str(output),
        "NUM_GPUS": "1",
        "GLOBAL_BATCH": "4",
        "PER_GPU_BATCH": "2",
        **variables,
    }
    small = ("--max_steps", "2", "--learning_rate", "1e-2", "--dataloader_num_workers", "0")
    command = ["bash", str(ROOT / "scripts" / script), *small, *flags]
    if script == "pretrain.sh":
        result = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=shop, timeout=300)
    else:
        result = run_script(command, environment, shop)
    assert result.returncode == 0, f"{result.stdout[-3000:]}\n{result.stderr[-3000:]}"
    rows = [json.loads(line) for line in (output / "log.jsonl").read_text().splitlines()]
    evaluated = [row["step"] for row in rows if "eval_loss" in row]
    assert bool(evaluated) == ("okvqa" in script), "evaluated where the recipe says so"
    return [row for row in rows if "loss" in row]


@pytest.fixture(scope="module")
def projector(shop: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The projector that scripts/pretrain.sh makes over the plain language model."""
    output = tmp_path_factory.mktemp("pretrain") / "run"
    flags = ("--vision_tower", str(shop / "clip"))
    model = str(tiny(shop, "language-model"))
    rows = launch(shop, "pretrain.sh", output, flags, MODEL=model, DATA=str(shop / "captions.json"))
    assert len(rows) == 2 and all(0 < row["loss"] < 20 for row in rows)
    return output / "mm_projector.bin"


@pytest.mark.slow
def test_the_pretrain_launcher_leaves_a_projector(projector: Path) -> None:
    import torch

    state = torch.load(projector, weights_only=True)
    assert any("mm_projector" in name for name in state)


@pytest.mark.slow
@pytest.mark.parametrize("run", RUNS, ids=lambda run: f"{Path(run.script).stem} {run.model}")
def test_a_recipe_trains(run: Run, shop: Path, projector: Path, tmp_path: Path, ready_to_fork: None) -> None:
    flags = tuple(flag.format(clip=shop / "clip") for flag in run.flags)
    variables = {
        "MODEL": str(tiny(shop, run.model)),
        "EVAL_DATA": str(shop / "held_out.json"),
        "PROJECTOR": str(projector),
        **run.variables,
    }
    rows = launch(shop, run.script, tmp_path / "run", flags, **variables)
    assert len(rows) == 2
    assert all(math.isfinite(row["loss"]) and row["loss"] > 0 and row["grad_norm"] > 0 for row in rows)
    assert (tmp_path / "run" / run.result).is_file()
    if "TOWER" in run.variables:
        tower = json.loads((tmp_path / "run/config.json").read_text())["mm_vision_tower"]
        assert tower == str(shop / run.variables["TOWER"])


def test_every_recipe_is_run() -> None:
    scripts = {str(path.relative_to(ROOT / "scripts")) for path in (ROOT / "scripts" / "recipes").glob("*.sh")}
    assert scripts == {run.script for run in RUNS if run.script.startswith("recipes/")}
