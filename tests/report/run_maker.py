"""Make a run folder as training leaves it: coloured shapes, 40 questions of three types, a log that falls.

make_run(Path("runs/made"), num_images=300)
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from llava_finetune.evaluation import metrics
from llava_finetune.evaluation.scoring import write_predictions

COLOURS = {
    "red": "#d33", "blue": "#36c", "green": "#2a4", "yellow": "#ec2", "black": "#222",
    "teal": "#199", "brown": "#853", "gray": "#888",
}  # fmt: skip
SHAPES = ("circle", "rectangle", "triangle")
COMMAND = [
    "deepspeed", "--num_gpus=2", "llava_finetune/training/train.py", "--deepspeed", "deepspeed_configs/zero2.json",
    "--lora_enable", "True", "--lora_r", "128", "--lora_alpha", "256", "--data_path", "data/easy-vqa/train.json",
    "--output_dir", "runs/made run",
]  # fmt: skip


def make_run(
    folder: Path, *, num_images: int = 12, steps: int = 60, upto: int | None = None, seed: int = 0, skill: float = 0.97
) -> Path:
    """Write a whole run folder with its pictures; `upto` stops the log at that step and leaves out what comes after."""
    pick = random.Random(seed)
    folder.mkdir(parents=True, exist_ok=True)
    images = folder / "images"
    questions = [question for number in range(num_images) for question in _questions(images, number, pick)]
    _log(folder, steps if upto is None else upto, steps, pick)
    evaluations: dict[str, Callable[[dict[str, Any]], str]] = {
        "baseline": lambda one: pick.choice(["The image", "A picture of a", "I cannot see", "yes"]),
        "text_prior": lambda one: {"yes_no": "no", "number": "1"}.get(one["type"], "circle"),
    }
    if upto is None:
        evaluations["blind"] = lambda one: "no" if one["type"] == "yes_no" else pick.choice([*COLOURS, *SHAPES])
        evaluations["shuffled"] = lambda one: _answer(one, 0.3, pick)
        evaluations["final"] = lambda one: _answer(one, skill, pick)
    for name, answer in evaluations.items():
        _evaluate(folder, name, questions, answer)
    for name, probe_skill in (("probe-baseline", 0.6), ("probe-30", 0.58), ("probe-final", 0.5)):
        if upto is None:
            answers = {one["id"]: _answer(one, probe_skill, pick) for one in _probe_questions()}
            _evaluate(folder, name, _probe_questions(), lambda one, said=answers: said[one["id"]])
    (folder / "run.json").write_text(json.dumps(_manifest(images, steps, seed)))
    (folder / "check.json").write_text(json.dumps(_check(num_images)))
    return folder


def _questions(images: Path, number: int, pick: random.Random) -> Iterator[dict[str, Any]]:
    shape, colour = pick.choice(SHAPES), pick.choice(list(COLOURS))
    images.mkdir(exist_ok=True)
    picture = Image.new("RGB", (64, 64), "#efeef2")
    x, y, size = pick.randrange(4, 26), pick.randrange(4, 26), pick.randrange(20, 34)
    draw = ImageDraw.Draw(picture)
    if shape == "circle":
        draw.ellipse((x, y, x + size, y + size), fill=COLOURS[colour])
    elif shape == "rectangle":
        draw.rectangle((x, y, x + size, y + size * 0.7), fill=COLOURS[colour])
    else:
        draw.polygon(((x, y + size), (x + size, y + size), (x + size / 2, y)), fill=COLOURS[colour])
    picture.save(images / f"{number}.png")
    other = pick.choice(SHAPES)
    asked = [
        ("What shape is in the image?", shape), ("What color is the shape?", colour),
        ("How many shapes are there?", "1"),
        (f"Is there a {other}?", "yes" if other == shape else "no"),
        (f"Does the image not contain a {other}?", "no" if other == shape else "yes"),
        (f"Is the shape {colour}?", "yes"),
    ]  # fmt: skip
    for turn, (question, reference) in enumerate(asked):
        named = " ".join(question.split()[:2]).lower()
        yield {
            "id": f"easy-vqa-{number}", "turn": turn, "image": f"{number}.png", "question": question,
            "reference": reference, "answers": None, "type": metrics.question_type(reference), "question_type": named,
            "truncated": False, "num_tokens": 2,
        }  # fmt: skip


def _probe_questions() -> list[dict[str, Any]]:
    return [
        {"id": f"probe-{n}", "turn": 0, "image": None, "question": f"What is {n} plus one?", "reference": str(n + 1),
         "answers": None, "type": "number", "question_type": None, "truncated": False, "num_tokens": 2}
        for n in range(120)
    ]  # fmt: skip


def _answer(one: dict[str, Any], skill: float, pick: random.Random) -> str:
    if pick.random() < (1 - (1 - skill) * 1.6 if one["type"] == "yes_no" else 1 - (1 - skill) * 0.4):
        return str(one["reference"]).capitalize() + pick.choice(["", "."])
    if one["type"] == "yes_no":
        return "no" if one["reference"] == "yes" else "yes"
    return pick.choice(["2", "3"]) if one["type"] == "number" else pick.choice([*COLOURS, *SHAPES])


def _evaluate(
    folder: Path, name: str, questions: list[dict[str, Any]], answer: Callable[[dict[str, Any]], str]
) -> None:
    predictions = [{**one, "answer": answer(one)} for one in questions]
    write_predictions(folder / f"predictions-{name}.jsonl", predictions)
    (folder / f"scores-{name}.json").write_text(json.dumps(metrics.score(predictions)))


def _log(folder: Path, until: int, steps: int, pick: random.Random) -> None:
    rows: list[dict[str, Any]] = []
    for step in range(1, until + 1):
        part = step / steps
        rows.append({
            "step": step, "epoch": round(2 * part, 3),
            "loss": 0.05 + 2.6 * math.exp(-6 * part) * pick.uniform(0.8, 1.2),
            "grad_norm": 0.4 + 6 * math.exp(-5 * part) * pick.uniform(0.5, 1.5),
            "learning_rate": 2e-4 * min(1.0, part / 0.05) * (0.5 + 0.5 * math.cos(math.pi * part)),
            "samples_per_second": pick.uniform(7, 9), "tokens_per_second": pick.uniform(380, 450),
            "memory_gb": 2.6 + 0.3 * min(1.0, 3 * part), "seconds_left": 4.0 * (steps - step),
        })  # fmt: skip
        if step % (steps // 6) == 0:
            rows.append({
                "step": step, "eval_loss": 0.08 + 2.2 * math.exp(-5 * part) + 0.05 * part,
                "eval_exact_match": 0.97 * (1 - math.exp(-4 * part)), "eval_seconds": 9.5,
                "probe_exact_match": 0.6 - 0.1 * part,
            })  # fmt: skip
    (folder / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def _manifest(images: Path, steps: int, seed: int) -> dict[str, Any]:
    return {
        "command": COMMAND, "started": "2026-05-04T09:12:33+00:00", "seed": seed, "total_steps": steps,
        "train_seconds": 431.0, "git_commit": "3f2c9e1", "upstream_commit": "24fa1d065bbeac8a145a796ab7218c6945a2536e",
        "series": "9f0b" * 16, "data_sha256": "ab12" * 16, "base": "build/base/smollm2-llava",
        "image_folder": str(images),
        "versions": {"python": "3.11.9", "torch": "2.13.0", "transformers": "5.23.0", "peft": "0.21.2"},
        "arguments": {"lora_r": 128, "lora_alpha": 256, "learning_rate": 2e-4, "num_train_epochs": 2, "seed": seed},
    }  # fmt: skip


def _check(num_images: int) -> dict[str, Any]:
    """As `python -m data_prep check --json` prints it."""
    answers = {
        "count": 6 * num_images, "distinct": 14,
        "most_common": [["yes", 0.3], ["no", 0.2], ["1", 0.17], ["circle", 0.06], ["triangle", 0.05], ["red", 0.03]],
    }  # fmt: skip
    finding = {
        "kind": "pictures that look alike", "severity": "note", "count": 12, "why": "train and test may share them",
        "remedy": "look at them", "examples": [],
    }  # fmt: skip
    return {
        "ok": True, "path": "data/easy-vqa/train.json", "image_folder": "images", "records": num_images,
        "pictures": num_images, "decoded": True, "seconds": 1.5, "findings": [finding],
        "statistics": {"answers": answers, "turns": {"12": num_images}, "pictures": {"good": num_images}},
    }  # fmt: skip
