"""What batch, epochs, learning rate and rank do on few records: one training a row, scored on held-out pictures.

    python benchmarks/small_data.py                                        a tiny random LLaVA, minutes on a CPU
    python benchmarks/small_data.py --quickstart runs/quickstart           its base, on questions of easy-VQA
    python benchmarks/small_data.py --model liuhaotian/llava-v1.5-7b       a real one, on a GPU

The first row of each number of records is what the launchers take; every further row changes one thing of it. With
--quickstart a record is one question about a picture of its own, drawn from the training split, and the test is
questions of the test split; else pictures are drawn: one of six coloured shapes, and the question what it is. The prior
is what always giving the training's commonest answer to a question reaches, and blind the same model shown blank
pictures.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.quickstart_parts import base_flags, easy_vqa_pictures, language_model, read_scores, with_interval  # noqa: E402

COLOURS = {"red": (210, 40, 40), "green": (40, 170, 60), "blue": (40, 70, 210)}
SHAPES = ("circle", "square")
SEED = 7


@dataclass(frozen=True)
class Row:
    """One training: records per step, epochs, learning rate and LoRA's rank (None: all weights are trained)."""

    records: int
    batch: int
    epochs: int
    rate: float
    rank: int | None

    def cells(self) -> tuple[str, ...]:
        return (f"{self.records:,}", f"{self.epochs}", f"{self.batch}", f"{self.rate:g}", f"{self.rank or 'full'}")


@dataclass(frozen=True)
class Source:
    """Where records and pictures come from, and how the model is named."""

    folder: Path
    pictures: Path
    train: list[dict[str, Any]] | None
    test: Path
    words: tuple[str, ...]

    def records(self, number: int) -> Path:
        """A records file with this many, the same ones each time."""
        path = self.folder / f"train-{number}.json"
        if self.train is None:
            return draw(self.folder, number, number, f"train-{number}")
        path.write_text(json.dumps(self.train[:number]), encoding="utf-8")
        return path


def draw(folder: Path, number: int, seed: int, name: str) -> Path:
    """`number` records about drawn pictures of their own, as a records file in `folder`."""
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


def single_questions(path: Path) -> list[dict[str, Any]]:
    """A records file as records of one question each, drawn from each picture's, in a shuffled order."""
    rng, rows = random.Random(SEED), []
    for record in json.loads(path.read_text(encoding="utf-8")):
        turns = record["conversations"]
        at = 2 * rng.randrange(len(turns) // 2)
        question = turns[at]["value"].replace("<image>", "").strip()
        asked = [{"from": "human", "value": f"<image>\n{question}"}, turns[at + 1]]
        rows.append({"id": record["id"], "image": record["image"], "conversations": asked})
    rng.shuffle(rows)
    return rows


def from_quickstart(run: Path, folder: Path, number: int) -> Source:
    """The data and the base of a quickstart's run: its language model, tower and projector of stage 1."""
    test = folder / "test.json"
    test.write_text(json.dumps(single_questions(run / "data/test.json")[:number]), encoding="utf-8")
    words = ("--model_name_or_path", language_model(run), *base_flags(run))
    return Source(folder, easy_vqa_pictures(), single_questions(run / "data/train.json"), test, words)


def drawn(model: str | None, folder: Path, number: int) -> Source:
    """Drawn pictures for a model, by default a tiny random one."""
    test = draw(folder, number, SEED, "test")
    words: tuple[str, ...] = ("--check_data", "False")
    if model is None:
        from tests.tiny import make_tiny_llava

        model = str(make_tiny_llava(folder / "model"))
        words += ("--precision", "fp32", "--version", "v1")
    return Source(folder, folder, None, test, ("--model_name_or_path", model, *words))


def rows(options: argparse.Namespace) -> Iterator[Row]:
    """For each number of records what the launchers take, then every change of one thing."""
    from llava_finetune.planning.steps import batch_for, epochs_for

    for records in options.records:
        epochs = epochs_for(records, "lora")
        usual = Row(records, batch_for(records, epochs, "lora"), epochs, options.rate, None if options.full else 128)
        yield usual
        changes = [{"batch": value} for value in options.batches] + [{"epochs": value} for value in options.epochs]
        changes += [{"rate": value} for value in options.rates] + [{"rank": value} for value in options.ranks]
        yield from (row for change in changes if (row := replace(usual, **change)) != usual)


def command(module: str, words: Sequence[str], folder: Path) -> None:
    """A command of ours in this process, its lines into said.txt."""
    from llava_finetune.cli import run_command

    with (folder / "said.txt").open("a", encoding="utf-8") as said, contextlib.redirect_stdout(said):
        code = run_command(module, list(words))
    if code:
        raise SystemExit(f"{module} ended with {code}; see {folder / 'said.txt'}")


def measure(row: Row, source: Source) -> tuple[str, ...]:
    """Train one row and return the cells of its line: steps, losses, exact match, blind and prior."""
    output = source.folder / ("run-" + "-".join(row.cells()).replace(",", ""))
    size, data = min(4, row.batch), source.records(row.records)
    words = [
        *source.words, "--data_path", str(data), "--image_folder", str(source.pictures), "--output_dir", str(output),
        "--per_device_train_batch_size", str(size), "--gradient_accumulation_steps", str(row.batch // size),
        "--num_train_epochs", str(row.epochs), "--learning_rate", str(row.rate), "--warmup_steps", "0.03",
        "--lr_scheduler_type", "cosine", "--weight_decay", "0", "--dataloader_num_workers", "0", "--seed", "42",
        "--save_strategy", "no", "--gradient_checkpointing", "False",
    ]  # fmt: skip
    if row.rank:
        words += ["--lora_enable", "True", "--lora_r", str(row.rank), "--lora_alpha", str(2 * row.rank)]
    command("llava_finetune.training.train", words, source.folder)
    asked = ["--model", str(output), "--data", str(source.test), "--images", str(source.pictures)]
    asked += ["--batch_size", "25", "--max_new_tokens", "6", "--json"]
    command("llava_finetune.evaluation.evaluate", [*asked, "--train_data", str(data)], source.folder)
    command("llava_finetune.evaluation.evaluate", [*asked, "--blind", "blank"], source.folder)
    logged = [json.loads(line) for line in (output / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    losses = [one["loss"] for one in logged if "loss" in one]
    tail = losses[-min(5, len(losses)) :]
    final, blind, prior = (read_scores(output, name) for name in ("final", "blind", "text_prior"))
    return (
        str(len(losses)), f"{losses[0]:.2f}, {sum(tail) / len(tail):.2f}",
        with_interval(final["exact_match"], final["interval"]),
        f"{blind['exact_match']:.1%}", f"{prior['exact_match']:.1%}",
    )  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Print a line of the table for each training."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a LLaVA, folder or hub id; default: a tiny random one")
    parser.add_argument("--quickstart", type=Path, help="folder of a quickstart's run: its base and its questions")
    parser.add_argument("--records", type=int, nargs="+", default=[50], help="sizes of the training data")
    parser.add_argument("--rate", type=float, default=2e-4, help="learning rate of the first row")
    parser.add_argument("--batches", type=int, nargs="*", default=[16, 128], help="other records per step")
    parser.add_argument("--epochs", type=int, nargs="*", default=[10], help="other numbers of epochs")
    parser.add_argument("--rates", type=float, nargs="*", default=[2e-3], help="other learning rates")
    parser.add_argument("--ranks", type=int, nargs="*", default=[16], help="other ranks of LoRA")
    parser.add_argument("--full", action="store_true", help="full fine-tuning instead of LoRA")
    parser.add_argument("--test", type=int, default=100, help="held-out questions")
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as name:
        if options.quickstart:
            source = from_quickstart(options.quickstart, Path(name), options.test)
        else:
            source = drawn(options.model, Path(name), options.test)
        print(f"{options.test} held-out questions\n")
        head = "records, epochs, batch, learning rate, rank, steps, loss of the first step and the last five"
        heads = [*head.split(", "), "exact match (95 %)", "blind", "prior"]
        print(f"| {' | '.join(heads)} |\n|{'---|' * len(heads)}")
        for row in rows(options):
            print(f"| {' | '.join((*row.cells(), *measure(row, source)))} |", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
