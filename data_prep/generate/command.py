"""Captions and boxes to conversations, descriptions and reasoning, written by a language model behind an endpoint.

    python -m data_prep generate --captions captions.json --boxes instances.json --images coco \\
        --endpoint http://localhost:8000/v1 --model my-model --output generated.json --yes

Without --yes it prints the estimate and sends nothing. Answers go to OUTPUT's journal the moment they come; the same
command goes on where a killed one stopped, and asks nothing twice.
"""

from __future__ import annotations

import argparse
import asyncio
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from data_prep.converters.options import (
    add_output_options,
    converter_parser,
    picture_problem,
    require_folder,
    write_and_check,
)
from data_prep.errors import DataError, UsageError
from data_prep.generate.asking import Asking, Limits, Spending, Task
from data_prep.generate.endpoint import Endpoint
from data_prep.generate.journal import Journal, key_of
from data_prep.generate.prompts import STYLES, Prompts, write_prompts
from data_prep.generate.scenes import read_scenes
from data_prep.numbers import real, seed, whole
from data_prep.progress import Progress
from data_prep.records.output import Converted, Drop, Origin, Reason
from data_prep.records.pixels import add_pixel_option, allow_pixels
from data_prep.records.record import conversation

EXAMPLES = """  python -m data_prep generate --write-prompts prompts
  python -m data_prep generate --captions c.csv --images photos --model M --output g.json   (the estimate only)
  python -m data_prep generate --captions captions.json --boxes instances.json --images coco \\
      --endpoint http://localhost:8000/v1 --model M --output generated.json --yes"""
OPENAI = "https://api.openai.com/v1"
CHARACTERS_A_TOKEN = 4
USUAL_TOKENS = {"conversation": 300, "detail": 220, "reasoning": 220}
"""Tokens of a usual answer, for the estimate: the lengths that the prompts ask for, at 1.3 tokens a word and JSON."""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of `generate`."""
    parser = converter_parser("generate", "Captions and boxes to instruction data, by a language model.", EXAMPLES)
    parser.add_argument("--write-prompts", type=Path, metavar="FOLDER", help="write our prompts there, to be edited")
    parser.add_argument("--captions", type=Path, help="COCO captions (.json), or a table with image and caption")
    parser.add_argument("--boxes", type=Path, help="COCO instances (.json), or a table: image,label,x,y,width,height")
    add_output_options(parser)
    for action in parser._actions:
        action.required = False  # --write-prompts needs none of them; main asks for those it needs
    styles = "which kinds of data to ask for; default: all three"
    parser.add_argument("--styles", nargs="+", choices=STYLES, default=list(STYLES), help=styles)
    parser.add_argument("--prompts", type=Path, metavar="FOLDER", help="prompts of your own (see --write-prompts)")
    parser.add_argument("--limit", type=whole(1), help="take the first N pictures")
    add_pixel_option(parser)
    parser.add_argument("--seed", type=seed, default=0, help="seed of the phrasings before descriptions")
    parser.add_argument("--endpoint", default=OPENAI, help=f"OpenAI-compatible address; default {OPENAI}")
    parser.add_argument("--model", help="the model's name there")
    key = "the environment variable with the key; default OPENAI_API_KEY"
    parser.add_argument("--key-variable", default="OPENAI_API_KEY", metavar="NAME", help=key)
    parser.add_argument("--temperature", type=real(0, 100), default=0.7, help="default 0.7")
    parser.add_argument("--max-tokens", type=whole(1), default=1024, help="of an answer; default 1024")
    parser.add_argument("--concurrency", type=whole(1, 10_000), default=8, help="requests at one time; default 8")
    parser.add_argument("--requests-per-minute", type=real(0.01), help="start no faster (default: no limit)")
    parser.add_argument("--tokens-per-minute", type=real(1), help="start no faster (default: no limit)")
    parser.add_argument("--retries", type=whole(0), default=5, help="of a request that fails for now; default 5")
    parser.add_argument("--attempts", type=whole(1), default=2, help="for an answer that is valid; default 2")
    parser.add_argument("--timeout", type=real(0, 1e6, above=True), default=120, help="seconds; default 120")
    parser.add_argument("--price-in", type=real(0), default=0.0, help="per million tokens, for estimate and budget")
    parser.add_argument("--price-out", type=real(0), default=0.0, help="per million tokens of answers")
    parser.add_argument("--budget", type=real(0), help="stop when this much is spent, at the prices given")
    parser.add_argument("--again", action="store_true", help="ask again for what had no valid answer in earlier runs")
    parser.add_argument("--yes", action="store_true", help="send the requests; without it only the estimate is printed")
    return parser


def build_tasks(args: argparse.Namespace, prompts: Prompts) -> list[Task | Drop]:
    """Return a task for each picture and style, or why there is none, in the order of the sources."""
    tasks: list[Task | Drop] = []
    for scene in read_scenes(args.captions, args.boxes, args.image_folder)[: args.limit]:
        problem = picture_problem(args.image_folder, scene.image)
        for style in args.styles:
            if problem:
                tasks.append(Drop(problem, f"{scene.image} {style}"))
                continue
            messages = prompts.messages(style, scene)
            question = prompts.question(scene.image, args.seed)
            key = key_of(args.model, args.temperature, args.max_tokens, scene.image, style, messages, question)
            size = sum(len(message["content"]) for message in messages) // CHARACTERS_A_TOKEN
            tokens = size + min(USUAL_TOKENS[style], args.max_tokens)
            tasks.append(Task(key, scene.image, style, messages, question, tokens))
    return tasks


def estimate(tasks: Sequence[Task], limits: Limits, max_tokens: int) -> str:
    """Return the line that says what is about to be spent."""
    tokens_out = sum(min(USUAL_TOKENS[task.style], max_tokens) for task in tasks)
    usual = Spending(sum(task.tokens for task in tasks) - tokens_out, tokens_out)
    most = Spending(usual.tokens_in * limits.attempts, len(tasks) * max_tokens * limits.attempts)
    pictures = len({task.image for task in tasks})
    line = (
        f"estimate: {len(tasks):,} requests about {pictures:,} pictures, about {usual.tokens_in:,} tokens in and "
        f"{usual.tokens_out:,} out (at most {most.tokens_out:,})"
    )
    if limits.price_in or limits.price_out:
        return f"{line}: about {usual.cost(limits):,.2f}, at most {most.cost(limits):,.2f} at your prices"
    return f"{line}; with --price-in and --price-out (per million tokens) also what it costs"


def records_of(tasks: Sequence[Task | Drop], journal: Journal, model: str) -> Iterator[Converted | Drop]:
    """Yield a record for each task with a valid answer in the journal, or why there is none."""
    for task in tasks:
        if isinstance(task, Drop):
            yield task
            continue
        entry = journal.entries.get(task.key)
        where = f"{task.image} {task.style}"
        if entry is None:
            yield Drop(Reason.NOT_ANSWERED, where)
        elif not entry["turns"]:
            yield Drop(Reason.INVALID_ANSWER, f"{where}: {entry['problem']}")
        else:
            yield Converted(
                {
                    "id": f"generated-{Path(task.image).with_suffix('').as_posix()}-{task.style}",
                    "image": task.image,
                    "conversations": conversation([(asked, answer) for asked, answer in entry["turns"]]),
                    "style": task.style,
                    "generated_by": model,
                }
            )


def main(argv: Sequence[str] | None = None) -> int:
    """Estimate, ask, write records, check them."""
    args = build_parser().parse_args(argv)
    allow_pixels(args.max_pixels)
    if args.write_prompts:
        for path in write_prompts(args.write_prompts):
            print(path)
        return 0
    _require(args)
    prompts = Prompts.read(args.prompts)
    limits = Limits(**{name: getattr(args, name) for name in Limits.__dataclass_fields__})
    tasks = build_tasks(args, prompts)
    with Journal(args.output.with_name(f"{args.output.stem}.journal.jsonl")) as journal:
        wanted = [task for task in tasks if isinstance(task, Task) and not _is_done(journal, task, args.again)]
        known = sum(isinstance(task, Task) for task in tasks) - len(wanted)
        print(estimate(wanted, limits, args.max_tokens) + (f"; {known:,} answered already" if known else ""))
        if wanted and not args.yes:
            print("nothing was sent; --yes sends the requests")
            return 0
        if wanted:
            spent = _ask(args, wanted, journal, limits)
            cost = f", {spent.cost(limits):,.2f} at your prices" if limits.price_in or limits.price_out else ""
            print(f"used: {spent.tokens_in:,} tokens in, {spent.tokens_out:,} out{cost}")
        return _finish(args, tasks, journal, prompts)


def _require(args: argparse.Namespace) -> None:
    missing = [f"--{name.replace('_', '-')}" for name in ("output", "image_folder", "model") if not getattr(args, name)]
    missing += [] if args.captions or args.boxes else ["--captions or --boxes"]
    if missing:
        raise UsageError(f"generate: {', '.join(missing)} missing; python -m data_prep generate --help has examples")
    if not args.output.name:
        raise DataError(args.output, "is no name of a file; name the file to be written")
    if args.concurrency < 1 or args.attempts < 1 or args.max_tokens < 1:
        raise UsageError("generate: --concurrency, --attempts and --max-tokens are at least 1")
    if args.budget is not None and not (args.price_in or args.price_out):
        raise UsageError("--budget: needs --price-in and --price-out (per million tokens) to know what is spent")
    require_folder(args.image_folder)


def _is_done(journal: Journal, task: Task, again: bool) -> bool:
    return task.key in journal and not (again and not journal.entries[task.key]["turns"])


def _ask(args: argparse.Namespace, tasks: Sequence[Task], journal: Journal, limits: Limits) -> Spending:
    key = os.environ.get(args.key_variable)
    if not key and args.endpoint == OPENAI:
        raise DataError(args.key_variable, f"the variable is not set; put the key for {OPENAI} there")
    settings: dict[str, Any] = {"max_tokens": args.max_tokens, "temperature": args.temperature}
    endpoint = Endpoint(args.endpoint, args.model, key, args.retries, args.timeout, **settings)
    with Progress("asking", len(tasks), "requests") as progress:
        return asyncio.run(Asking(endpoint, journal, limits, progress).run(tasks))


def _finish(args: argparse.Namespace, tasks: Sequence[Task | Drop], journal: Journal, prompts: Prompts) -> int:
    names = ("model", "endpoint", "styles", "temperature", "max_tokens", "limit", "seed")
    choices = {**{name: getattr(args, name) for name in names}, "prompts": prompts.digests()}
    sources = [path for path in (args.captions, args.boxes) if path]
    status = write_and_check(
        args, records_of(tasks, journal, args.model), Origin("generate", sources, args.image_folder, choices)
    )
    left = sum(isinstance(task, Task) and task.key not in journal for task in tasks)
    if left:
        print(f"{left} requests had no answer; the same command asks them again")
    return 1 if left else status
