"""Preferences on the quickstart's model: tuned too little, so that it errs, then DPO on pairs of its own errors.

    python benchmarks/dpo_walk.py --quickstart runs/quickstart --output runs/dpo-walk --seeds 1 2 3

For each seed: LoRA on the quickstart's records for a third of its steps, merged; its answers to questions and yes/no
probes about training pictures become pairs (`data_prep preferences`), on which scripts/finetune_dpo.sh trains. Probes
and questions about held-out pictures are asked before and after. Prints the table of docs/hallucination.md: false yes
and exact match with 95 % intervals, and McNemar's exact test over the same questions.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.quickstart_parts import (  # noqa: E402
    ask,
    base_flags,
    easy_vqa_pictures,
    language_model,
    run,
    with_interval,
)

PREPARE = (sys.executable, "-m", "data_prep")


def train(quickstart: Path, folder: Path, seed: int, steps: int) -> None:
    """The quickstart's fine-tuning, shorter and with a seed of its own, merged."""
    run(
        "bash", "scripts/finetune_lora.sh", *base_flags(quickstart), "--gradient_checkpointing", "False",
        "--dataloader_num_workers", "0", "--train_sampling_strategy", "sequential", "--max_steps", str(steps),
        "--warmup_steps", "10", "--learning_rate", "7e-4", "--mm_projector_lr", "1.4e-3", "--seed", str(seed),
        MODEL=language_model(quickstart), DATA=str(quickstart / "data/train.json"), IMAGES=str(easy_vqa_pictures()),
        OUTPUT=str(folder / "tuned"), GLOBAL_BATCH="8", PER_GPU_BATCH="4", NUM_GPUS="2",
    )  # fmt: skip
    run("llava-finetune", "merge", str(folder / "tuned"), str(folder / "merged"))


def make_pairs(quickstart: Path, folder: Path, probes: Path, sample: int, *flags: str) -> Path:
    """Pairs of what the merged model got wrong about training pictures: its probes' answers and its other ones."""
    rows = []
    for name, data in (("probes", probes), ("questions", quickstart / "data/train.json")):
        ask(folder / "merged", data, folder, f"train-{name}", sample)
        made = folder / f"pairs-{name}.json"
        run(
            *PREPARE, "preferences", str(folder / f"predictions-train-{name}.jsonl"), "--images",
            str(easy_vqa_pictures()), "--test", str(quickstart / "data/test.json"), "--output", str(made),
            "--allow-drops", "1", *flags,
        )  # fmt: skip
        rows += json.loads(made.read_text(encoding="utf-8"))
    pairs = folder / "pairs.json"
    pairs.write_text(json.dumps([{**row, "id": f"pair-{number}"} for number, row in enumerate(rows)]), encoding="utf-8")
    return pairs


def prefer(folder: Path, pairs: Path, seed: int, flags: Sequence[str]) -> None:
    """DPO on the merged model."""
    run(
        "bash", "scripts/finetune_dpo.sh", "--gradient_checkpointing", "False", "--dataloader_num_workers", "0",
        "--version", "chatml_direct", "--seed", str(seed), *flags,
        MODEL=str(folder / "merged"), DATA=str(pairs), IMAGES=str(easy_vqa_pictures()),
        OUTPUT=str(folder / "preferred"), NUM_GPUS="2",
    )  # fmt: skip


def change(folder: Path) -> str:
    """The change of false yes over the same questions, in words."""
    from llava_finetune.evaluation.yes_no import compared

    before, after = (
        [json.loads(line) for line in (folder / f"predictions-probes-{when}.jsonl").read_text("utf-8").splitlines()]
        for when in ("before", "after")
    )
    tested = compared(before, after)
    return tested.in_words() if tested else "no question has no for an answer"


def main(argv: Sequence[str] | None = None) -> int:
    """Print a line of the table for each seed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quickstart", type=Path, default=Path("runs/quickstart"), help="folder of its run")
    parser.add_argument("--output", type=Path, required=True, help="a folder; what is there already is kept")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--steps", type=int, default=36, help="of the first training; the quickstart takes 110")
    parser.add_argument("--sample", type=int, default=1000, help="questions asked of each kind")
    parser.add_argument("--balance", action="store_true", help="as many pairs of yes above no as of no above yes")
    parser.add_argument("flags", nargs="*", help="of the DPO, behind --: -- --learning_rate 5e-5")
    options = parser.parse_args(argv)
    data, held = options.quickstart / "data", options.output / "probes-test.json"
    options.output.mkdir(parents=True, exist_ok=True)
    learned = options.output / "probes-train.json"
    run(*PREPARE, "probes", str(data / "test.json"), "--train", str(data / "train.json"), "--output", str(held))
    run(*PREPARE, "probes", str(data / "train.json"), "--output", str(learned))
    print("| seed | false yes before | after | exact match before | after | change of false yes |")
    print("|---|---|---|---|---|---|")
    for seed in options.seeds:
        folder = options.output / f"seed-{seed}"
        train(options.quickstart, folder, seed, options.steps)
        balance = ["--balance"] if options.balance else []
        pairs = make_pairs(options.quickstart, folder, learned, options.sample, *balance)
        prefer(folder, pairs, seed, options.flags)
        cells = {}
        for when, model in (("before", folder / "merged"), ("after", folder / "preferred")):
            probes = ask(model, held, folder, f"probes-{when}", options.sample)
            test = ask(model, data / "test.json", folder, f"test-{when}", options.sample)
            cells[when] = (
                with_interval(probes["false_yes"], probes["false_yes_interval"]),
                with_interval(test["exact_match"], test["interval"]),
            )
        both = (cells[when][part] for part in (0, 1) for when in ("before", "after"))
        print(f"| {seed} | {' | '.join(both)} | {change(folder)} |", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
