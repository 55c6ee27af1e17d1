"""The whole chain at tiny size through its real command lines: stage 1, LoRA under ZeRO-2 with two processes,
evaluation before and after, blind, merge. The loss is finite, above zero and falls, and the answers are learned.
"""

from __future__ import annotations

import json
import math
import subprocess
from pathlib import Path

import pytest
from PIL import Image, ImageDraw
from safetensors.torch import load_file, save_file

from tests.fixtures.environments import no_rank
from tests.fixtures.forked_deepspeed import run_script
from tests.tiny import make_tiny_clip, make_tiny_language_model
from tests.warm import run_module

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 30), "blue": (30, 30, 220), "white": (240, 240, 240)}
NUM_TRAIN, NUM_TEST = 48, 16


def launch(root: Path, script: str, *flags: str, **variables: str) -> None:
    """A launcher, whose two ranks are forked from this process; its output is shown when it fails."""
    variables |= {"NUM_GPUS": "2", "PER_GPU_BATCH": "8", "GLOBAL_BATCH": "16"}
    require(run_script(["bash", f"scripts/{script}", *flags], no_rank(**variables), root))


def require(done: subprocess.CompletedProcess[str]) -> None:
    assert done.returncode == 0, f"{done.args}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"


def picture(path: Path, colour: tuple[int, int, int], seed: int) -> None:
    """A coloured square whose place, size and background vary with the seed."""
    image = Image.new("RGB", (56, 56), (40 + seed * 7 % 50,) * 3)
    left, top, side = seed * 5 % 14, seed * 11 % 14, 34 + seed % 9
    ImageDraw.Draw(image).rectangle((left, top, left + side, top + side), fill=colour)
    image.save(path)


def records(folder: Path, split: str, count: int) -> None:
    (folder / split).mkdir(parents=True)
    questions, captions = [], []
    for index in range(count):
        name = list(COLOURS)[index % len(COLOURS)]
        file = f"{split}/{index}.png"
        picture(folder / file, COLOURS[name], index + (1000 if split == "test" else 0))
        turns = [{"from": "human", "value": "<image>\nwhat colour?"}, {"from": "gpt", "value": name}]
        questions.append({"id": f"{split}-{index}", "image": file, "conversations": turns})
        caption = [{"from": "human", "value": "<image>"}, {"from": "gpt", "value": f"a {name} square"}]
        captions.append({"id": f"{split}-caption-{index}", "image": file, "conversations": caption})
    (folder / f"{split}.json").write_text(json.dumps(questions))
    (folder / f"captions_{split}.json").write_text(json.dumps(captions))


def sharpen_head(folder: Path) -> None:
    """A random head of 64 channels can only write flat distributions, whatever it is fed; ten times larger it can."""
    weights = load_file(folder / "model.safetensors")
    weights["lm_head.weight"] *= 10
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def losses(run_folder: Path) -> list[float]:
    rows = [json.loads(line) for line in (run_folder / "log.jsonl").read_text().splitlines()]
    return [row["loss"] for row in rows if "loss" in row]


@pytest.mark.slow(seconds=60)
def test_the_chain_learns_on_two_zero2_processes_and_says_so(root: Path, tmp_path: Path, operators: None) -> None:
    records(tmp_path, "train", NUM_TRAIN)
    records(tmp_path, "test", NUM_TEST)
    language = make_tiny_language_model(tmp_path / "language-model", tokenizer="chatml")
    sharpen_head(language)
    tower = make_tiny_clip(tmp_path / "clip")
    shared = {"IMAGES": str(tmp_path), "MODEL": str(language)}
    flags = ["--vision_tower", str(tower), "--mm_vision_select_layer", "-1", "--gradient_checkpointing", "False"]
    flags += ["--dataloader_num_workers", "0", "--precision", "fp32", "--save_strategy", "no"]

    launch(
        root, "pretrain.sh", *flags, "--max_steps", "20", "--learning_rate", "5e-3",
        **shared, DATA=str(tmp_path / "captions_train.json"), OUTPUT=str(tmp_path / "pretrain"),
    )  # fmt: skip
    launch(
        root, "finetune_lora.sh", *flags, "--mm_projector_type", "mlp2x_gelu", "--mm_use_im_patch_token", "False",
        "--pretrain_mm_mlp_adapter", str(tmp_path / "pretrain" / "mm_projector.bin"), "--version", "chatml_direct",
        "--max_steps", "60", "--learning_rate", "3e-3", "--mm_projector_lr", "3e-3", "--lora_dropout", "0",
        **shared, DATA=str(tmp_path / "train.json"), OUTPUT=str(tmp_path / "lora"),
    )  # fmt: skip
    # A frozen random language model leaves the projector of stage 1 little to win; LoRA can learn the answers whole.
    for name, share in (("pretrain", 0.97), ("lora", 0.5)):
        curve = losses(tmp_path / name)
        assert all(math.isfinite(loss) and loss > 0 for loss in curve)
        assert sum(curve[-5:]) < share * sum(curve[:5]), curve

    def evaluate(model: Path, *more: object) -> None:
        question = ("--data", tmp_path / "test.json", "--image_folder", tmp_path, "--max_new_tokens", 8)
        require(run_module("llava_finetune", "evaluate", *question, "--output", tmp_path, "--model", model, *more))

    lora, merged = tmp_path / "lora", tmp_path / "merged"
    evaluate(tmp_path / "pretrain", "--name", "baseline", "--train_data", tmp_path / "train.json")
    evaluate(lora, "--name", "final")
    evaluate(lora, "--blind", "blank")
    scores = {
        name: json.loads((tmp_path / f"scores-{name}.json").read_text())
        for name in ("baseline", "text_prior", "blind", "final")
    }
    assert scores["baseline"]["exact_match"] <= 0.25
    assert scores["text_prior"]["exact_match"] == 0.25
    assert scores["blind"]["exact_match"] <= 0.5
    assert scores["final"]["exact_match"] >= 0.9, scores["final"]
    assert scores["final"]["count"] == scores["final"]["num_images"] == NUM_TEST

    words = ("--records", tmp_path / "test.json", "--images", tmp_path)
    require(run_module("llava_finetune", "merge", lora, merged, *words))
    evaluate(merged, "--name", "merged")
    answers = [
        [json.loads(line)["answer"] for line in (tmp_path / f"predictions-{name}.jsonl").read_text().splitlines()]
        for name in ("final", "merged")
    ]
    assert answers[0] == answers[1]
