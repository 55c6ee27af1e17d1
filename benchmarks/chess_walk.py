"""The chess walk-through of docs/data.md on a CPU: single pieces to train on, other singles and groups to test on.

    python benchmarks/chess_walk.py --quickstart runs/quickstart --output runs/chess

The base is the quickstart's language model and tower with the projector of its stage 1, which have never seen a chess
piece. Pictures are drawn as HEIC and go through the walk-through's own commands; the tests are scored before and after.
Prints docs/data.md's table: exact match with 95 % intervals, before, after and blind, and the prior.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.quickstart_parts import base_flags, language_model, read_scores, run, with_interval  # noqa: E402
from tests.data_prep import chess  # noqa: E402

TESTS = {"singles": "single pieces, other pictures", "groups": "groups of two and three"}
QUESTION = "Which chess pieces are these?"


def draw(phone: Path, each: int, groups: int) -> None:
    """Photographs below train/ (each piece `each` times), singles/ (each three times) and groups/, as HEIC."""
    from pillow_heif import register_heif_opener

    register_heif_opener()
    rng, names = random.Random(64), [f"{colour}-{piece}" for colour in chess.COLOURS for piece in chess.PIECES]
    pictures = {f"train/{name}-{number}": [name] for name in names for number in range(each)}
    pictures |= {f"singles/{name}-{number}": [name] for name in names for number in range(3)}
    while len(pictures) < len(names) * (each + 3) + groups:
        group = rng.sample(names, rng.choice((2, 3)))
        pictures["groups/" + "+".join(group)] = group
    for seed, (name, pieces) in enumerate(pictures.items()):
        path = phone / f"{name}.heic"
        path.parent.mkdir(parents=True, exist_ok=True)
        chess.photograph(pieces, seed).save(path, quality=85)


def records(output: Path) -> None:
    """The walk-through's steps 1 to 3."""
    prepare = (sys.executable, "-m", "data_prep")
    pictures = output / "pictures"
    run(*prepare, "heic", str(output / "phone"), "--output-dir", str(pictures))
    for part in ("train", *TESTS):
        table = output / f"{part}.csv"
        run(*prepare, "captions-template", str(pictures / part), "--train", str(table))
        chess.fill_in(table)
        asked = ("--images", str(pictures / part), "--question", QUESTION)
        run(*prepare, "captions", str(table), *asked, "--output", str(output / f"{part}.json"))


def train(quickstart: Path, output: Path, flags: Sequence[str]) -> None:
    """Step 4: the launcher, with the quickstart's base."""
    run(
        "bash", "scripts/finetune_lora.sh", *base_flags(quickstart), "--gradient_checkpointing", "False",
        "--dataloader_num_workers", "0", *flags,
        MODEL=language_model(quickstart), DATA=str(output / "train.json"), IMAGES=str(output / "pictures/train"),
        OUTPUT=str(output / "run"), GLOBAL_BATCH="4", NUM_GPUS="1",
    )  # fmt: skip


def cell(folder: Path, name: str) -> str:
    scores = read_scores(folder, name)
    return with_interval(scores["exact_match"], scores["interval"])


def scored(quickstart: Path, output: Path, part: str) -> tuple[str, ...]:
    """Before, after, blind and prior on one test."""
    folder = output / part
    asked = ["--data", str(output / f"{part}.json"), "--images", str(output / "pictures" / part)]
    asked += ["--output", str(folder), "--max_new_tokens", "24"]
    evaluate = ("llava-finetune", "evaluate", *asked)
    run(*evaluate, "--model", str(quickstart / "pretrain"), "--name", "before")
    run(*evaluate, "--model", str(output / "run"), "--train_data", str(output / "train.json"))
    run(*evaluate, "--model", str(output / "run"), "--blind", "blank")
    return tuple(cell(folder, name) for name in ("before", "final", "blind", "text_prior"))


def main(argv: Sequence[str] | None = None) -> int:
    """Draw, convert, train, score and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quickstart", type=Path, default=Path("runs/quickstart"), help="folder of its run")
    parser.add_argument("--output", type=Path, required=True, help="a new folder")
    parser.add_argument("--each", type=int, default=4, help="training pictures of each of the twelve pieces")
    parser.add_argument("--groups", type=int, default=36, help="test pictures of groups")
    parser.add_argument("flags", nargs="*", help="of the training, behind --: -- --num_train_epochs 10")
    options = parser.parse_args(argv)
    options.output.mkdir(parents=True)
    draw(options.output / "phone", options.each, options.groups)
    records(options.output)
    train(options.quickstart, options.output, options.flags)
    print("| test | before | after | blind | prior |\n|---|---|---|---|---|")
    for part, words in TESTS.items():
        print(f"| {words} | {' | '.join(scored(options.quickstart, options.output, part))} |", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
