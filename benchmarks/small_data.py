"""What batch, epochs and learning rate do on few records: one training a row, scored on held-out pictures.

    python benchmarks/small_data.py                                        a tiny random LLaVA, minutes on a CPU
    python benchmarks/small_data.py --model liuhaotian/llava-v1.5-7b       a real one, on a GPU

Pictures are drawn: one of six coloured shapes at a place and size of its own, and the question what it is. The prior is
the share of the commonest answer of the test pictures. A row says records, epochs, batch, steps, rate, loss and score.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

COLOURS = {"red": (210, 40, 40), "green": (40, 170, 60), "blue": (40, 70, 210)}
SHAPES = ("circle", "square")


@dataclass(frozen=True)
class Row:
    """One training: GLOBAL_BATCH `batch`, `epochs`, learning rate and the way it trains."""

    records: int
    batch: int
    epochs: int
    rate: float
    lora: bool = True


def draw(folder: Path, number: int, seed: int, name: str) -> Path:
    """`number` records about pictures of their own, as a records file in `folder`."""
    rng, rows = random.Random(seed), []
    for index in range(number):
        colour, shape = rng.choice(list(COLOURS)), rng.choice(SHAPES)
        picture = Image.new("RGB", (56, 56), (rng.randint(200, 255),) * 3)
        size, x, y = rng.randint(20, 34), rng.randint(2, 18), rng.randint(2, 18)
        pen = ImageDraw.Draw(picture)
        (pen.ellipse if shape == "circle" else pen.rectangle)((x, y, x + size, y + size), fill=COLOURS[colour])
        picture.save(folder / f"{name}-{index}.png")
        turns = [{"from": "human", "value": "<image>\nWhat is this?"}, {"from": "gpt", "value": f"{colour} {shape}"}]
        rows.append({"id": f"{name}-{index}", "image": f"{name}-{index}.png", "conversations": turns})
    path = folder / f"{name}.json"
    path.write_text(json.dumps(rows), encoding="utf-8")
    return path


def measure(row: Row, model: str, folder: Path, test: Path, more: Sequence[str]) -> dict[str, float]:
    """Train one row in `folder` and return its last loss and scores."""
    from llava_finetune.cli import run_command
    from llava_finetune.evaluation.intervals import wilson

    data = draw(folder, row.records, row.records, f"train-{row.records}")
    output = folder / f"run-{row.records}-{row.batch}-{row.epochs}-{row.rate:g}-{row.lora}"
    size = min(4, row.batch)
    words = [
        "--model_name_or_path", model, "--data_path", str(data), "--image_folder", str(folder),
        "--output_dir", str(output), "--eval_data_path", str(test), "--eval_limit", "0", "--eval_max_new_tokens", "6",
        "--eval_strategy", "steps", "--eval_steps", "100000", "--per_device_eval_batch_size", "25",
        "--per_device_train_batch_size", str(size), "--gradient_accumulation_steps", str(row.batch // size),
        "--num_train_epochs", str(row.epochs), "--learning_rate", str(row.rate), "--warmup_steps", "0.03",
        "--lr_scheduler_type", "cosine", "--weight_decay", "0", "--dataloader_num_workers", "0",
        "--save_strategy", "no", "--seed", "42", *more,
    ]  # fmt: skip
    words += ["--lora_enable", "True", "--lora_r", "128", "--lora_alpha", "256"] if row.lora else []
    with (folder / "said.txt").open("a", encoding="utf-8") as said, contextlib.redirect_stdout(said):
        code = run_command("llava_finetune.training.train", words)
    if code:
        raise SystemExit(f"{output}: training ended with {code}")
    rows = [json.loads(line) for line in (output / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    losses = [one["loss"] for one in rows if "loss" in one]
    scores = [one["eval_exact_match"] for one in rows if "eval_exact_match" in one]
    number = len(json.loads(test.read_text(encoding="utf-8")))
    low, high = wilson(round(scores[-1] * number), number)
    tail = losses[-min(5, len(losses)) :]
    return {
        "steps": len(losses), "first_loss": losses[0], "last_loss": sum(tail) / len(tail),
        "before": scores[0], "after": scores[-1], "low": low, "high": high,
    }  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Print a line of the table for each training."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a LLaVA, folder or hub id; default: a tiny random one")
    parser.add_argument("--records", type=int, nargs="+", default=[50], help="sizes of the training data")
    parser.add_argument("--batches", type=int, nargs="+", default=[4, 16, 128], help="records per step")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--rates", type=float, nargs="+", default=[2e-4, 2e-3], help="learning rates")
    parser.add_argument("--full", action="store_true", help="full fine-tuning instead of LoRA")
    parser.add_argument("--test", type=int, default=100, help="held-out questions")
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        test = draw(folder, options.test, 7, "test")
        model, more = options.model, ["--check_data", "False"]
        if model is None:
            from tests.tiny import make_tiny_llava

            model = str(make_tiny_llava(folder / "model"))
            more += ["--precision", "fp32", "--version", "v1", "--gradient_checkpointing", "False"]
        answers = [one["conversations"][1]["value"] for one in json.loads(test.read_text(encoding="utf-8"))]
        prior = max(answers.count(one) for one in answers) / len(answers)
        print(f"prior {prior:.1%} of {len(answers)} questions\n")
        print("| records | epochs | batch | steps | learning rate | loss first, last five | exact match (95 %) |")
        print("|---|---|---|---|---|---|---|")
        for records in options.records:
            for batch in options.batches:
                for rate in options.rates:
                    row = Row(records, batch, options.epochs, rate, not options.full)
                    found = measure(row, model, folder, test, more)
                    losses = f"{found['first_loss']:.2f}, {found['last_loss']:.2f}"
                    score = f"{found['after']:.1%} ({found['low']:.1%} to {found['high']:.1%})"
                    cells = (records, row.epochs, batch, found["steps"], f"{rate:g}", losses, score)
                    print(f"| {' | '.join(map(str, cells))} |", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
