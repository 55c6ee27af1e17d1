"""What evaluation costs beside a bare batched generate loop, on the same questions and model.

The bare loop is what one writes in an afternoon: batches in the order of the file, upstream's `generate`, every picture
prepared and encoded as often as it is asked about. Ours is all that `evaluate` does once a model is loaded: questions
checked, answered, scored with intervals, predictions written. First check: the same answers (ties of bf16 aside,
counted). The time inside `generate` says what of ours is not generation.

    python benchmarks/evaluate.py --model runs/quickstart/merged --records runs/quickstart/data/test.json
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # before this folder, whose data_prep.py is not the package
# What evaluation may cost, 1 being the bare loop.
MOST = 1.1


def main(argv: Sequence[str] | None = None) -> int:
    """Measure. Exit codes: 0 done, 1 more than 2 % of the answers differ or ours costs over 10 % more, 2 wrong use."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="a model in upstream's layout")
    parser.add_argument("--records", type=Path, required=True)
    parser.add_argument("--images", type=Path, help="default: easy-VQA's, from its package")
    parser.add_argument("--questions", type=int, default=64)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--max_new_tokens", type=int, default=12)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--output", type=Path, default=ROOT / "build/benchmarks/evaluate.json")
    options = parser.parse_args(argv)
    if options.images is None:
        import easy_vqa

        options.images = Path(easy_vqa.__file__).parent / "data"
    from llava_finetune.model.loading import load

    loaded = load(str(options.model))
    generating: list[float] = []
    loaded.model.generate = timed(loaded.model.generate, generating)
    ways: dict[str, Callable[[], list[str]]] = {
        "ours": lambda: ours(loaded, options),
        "bare loop": lambda: bare(loaded, options),
    }
    clock: dict[str, list[float]] = {name: [] for name in [*ways, "ours, in generate"]}
    busy: dict[str, list[float]] = {name: [] for name in ways}
    answers: dict[str, list[str]] = {}
    for _ in range(options.repetitions):
        for name, way in ways.items():
            generating.clear()
            begin = (time.perf_counter(), time.process_time())
            answers[name] = way()
            clock[name].append(time.perf_counter() - begin[0])
            busy[name].append(time.process_time() - begin[1])
            if name == "ours":
                clock["ours, in generate"].append(sum(generating))
    differing = sum(a.strip() != b.strip() for a, b in zip(*answers.values(), strict=True))
    cost = report(clock, busy, differing, options)
    return int(differing > 0.02 * options.questions or cost > MOST)


def timed(function: Callable[..., Any], seconds: list[float]) -> Callable[..., Any]:
    """The function, which notes how long each call took."""

    def call(*arguments: Any, **keywords: Any) -> Any:
        begin = time.perf_counter()
        result = function(*arguments, **keywords)
        seconds.append(time.perf_counter() - begin)
        return result

    return call


def ours(loaded: Any, options: argparse.Namespace) -> list[str]:
    """What `llava-finetune evaluate` does with a loaded model."""
    from llava_finetune.evaluation import metrics
    from llava_finetune.evaluation.generate_answers import answer, held_out_questions
    from llava_finetune.evaluation.scoring import write_predictions

    questions = held_out_questions(options.records, "--records", options.images, "--images", limit=options.questions)
    rows = answer(loaded, questions, options.images, batch_size=options.batch, max_new_tokens=options.max_new_tokens)
    metrics.score(rows)
    write_predictions(options.output.with_name("predictions.jsonl"), rows)
    return [row["answer"] for row in rows]


def bare(loaded: Any, options: argparse.Namespace) -> list[str]:
    """The plain loop: left padding, greedy, one picture per question."""
    import torch

    from data_prep.records.record import open_image, read_records
    from llava_finetune.data.dataset import process_image
    from llava_finetune.data.masking import IMAGE_TOKEN, prompt_ids
    from llava_finetune.evaluation.generate_answers import questions_from, stop_ids

    questions = questions_from(read_records(options.records), limit=options.questions)
    model, tokenizer = loaded.model, loaded.tokenizer
    model.config.tokenizer_padding_side = "left"
    out: list[str] = []
    for start in range(0, len(questions), options.batch):
        chosen = questions[start : start + options.batch]
        texts = [q.text if IMAGE_TOKEN in q.text else f"{IMAGE_TOKEN}\n{q.text}" for q in chosen]
        rows = [prompt_ids([{"from": "human", "value": text}], loaded.template, tokenizer) for text in texts]
        longest = max(map(len, rows))
        ids = torch.tensor([[tokenizer.pad_token_id] * (longest - len(row)) + row for row in rows])
        mask = torch.tensor([[False] * (longest - len(row)) + [True] * len(row) for row in rows])
        files = [open_image(options.images / q.images[0]) for q in chosen]
        images = torch.stack([process_image(file, loaded.image_processor, model.config) for file in files])
        with torch.inference_mode():
            made = model.generate(
                ids.to(loaded.device),
                attention_mask=mask.to(loaded.device),
                images=images.to(loaded.device, loaded.dtype),
                do_sample=False,
                max_new_tokens=options.max_new_tokens,
                eos_token_id=stop_ids(loaded),
                pad_token_id=tokenizer.pad_token_id,
            )
        out += tokenizer.batch_decode(made, skip_special_tokens=True)
    return out


def report(
    clock: dict[str, list[float]], busy: dict[str, list[float]], differing: int, options: argparse.Namespace
) -> float:
    """Print the table and write the JSON; return what ours costs in CPU seconds, 1 being the bare loop's."""
    number = options.questions
    seconds = {name: statistics.median(values) for name, values in clock.items()}
    cpu = {name: statistics.median(values) for name, values in busy.items()}
    print("| way | answers/s | answers per CPU second |\n|---|---|---|")
    for name in busy:
        print(f"| {name} | {number / seconds[name]:.2f} | {number / cpu[name]:.2f} |")
    cost = cpu["ours"] / cpu["bare loop"]
    print(
        f"ours costs {cost:.2f} of the bare loop in CPU seconds, {seconds['ours'] / seconds['bare loop']:.2f} by the "
        f"clock (at most {MOST:.2f} is asked); {seconds['ours, in generate'] / seconds['ours']:.1%} of its time is "
        f"generate; {differing} of {number} answers differ; load {os.getloadavg()[0]:.1f}"
    )
    options.output.parent.mkdir(parents=True, exist_ok=True)
    facts = {
        "clock": clock,
        "cpu": busy,
        "differing": differing,
        "questions": number,
        "date": time.strftime("%Y-%m-%d"),
    }
    temporary = options.output.with_suffix(".tmp")
    temporary.write_text(json.dumps(facts, indent=1) + "\n")
    temporary.replace(options.output)
    return cost


if __name__ == "__main__":
    raise SystemExit(main())
