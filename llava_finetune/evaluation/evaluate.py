"""Answer the questions of a records file with a model and score the answers; or score predictions from anywhere.

    llava-finetune evaluate --model runs/mine --data test.json --images pictures --output runs/mine --name final
    llava-finetune evaluate --model runs/mine --data test.json --images pictures --blind blank
    llava-finetune evaluate --model runs/mine --data probes.json --images pictures --name hallucination --before
    llava-finetune evaluate --predictions answers.jsonl --data test.json

Writes predictions-NAME.jsonl and scores-NAME.json. `--train_data` adds the text-only prior of the training file.
"""

from __future__ import annotations

import argparse
import difflib
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data_prep.files import sha256_of
from data_prep.numbers import whole
from data_prep.picture_folder import add_images_option
from data_prep.records.pixels import add_pixel_option, allow_pixels
from llava_finetune.errors import UsageError, UserError
from llava_finetune.flags import add_loading_flags, command_parser

LONGEST_NAME = 200
"""Bytes of --name, that `predictions-NAME.jsonl` is a name that every file system takes."""


def parser() -> argparse.ArgumentParser:
    """The command line of `llava-finetune evaluate`."""
    out = command_parser("evaluate", __doc__)
    out.add_argument("--model", help="model, adapter or projector folder, or a hub id")
    add_loading_flags(out)
    out.add_argument("--predictions", type=Path, help="score this file instead of a model")
    out.add_argument("--data", type=Path, help="records with the questions and references")
    add_images_option(out)
    out.add_argument("--train_data", type=Path, help="training records: adds the text-only prior")
    out.add_argument("--output", type=Path, help="folder for predictions and scores; default: the model's")
    out.add_argument("--name", default=None, help="final by default, blind or shuffled with --blind")
    out.add_argument(
        "--before",
        nargs="?",
        const="",
        metavar="MODEL",
        help="answer with this model too (default: the adapter's base), and say what changed",
    )
    out.add_argument("--blind", choices=("blank", "shuffled"), help="hide the pictures, or exchange them")
    out.add_argument("--limit", type=whole(0), default=0, help="answer so many questions at most (default: all)")
    out.add_argument("--sample", type=whole(0), default=0, help="draw so many questions, each time the same ones")
    out.add_argument("--max_images", type=whole(0), default=0, help="take so many records at most (default: all)")
    out.add_argument("--batch_size", type=whole(1), default=32, help="questions at a time (default: 32)")
    out.add_argument("--max_new_tokens", type=whole(1), default=64, help="tokens of an answer (default: 64)")
    out.add_argument("--losses", action="store_true", help="also write each record's loss, for the report")
    out.add_argument("--num_processes", type=whole(1, 1024), default=1, help="answer with this many processes")
    out.add_argument("--partial", action="store_true", help="with --predictions: some questions may be unanswered")
    out.add_argument("--upload", type=Path, help="also write the official VQA results file")
    out.add_argument("--json", action="store_true", help="print the scores as JSON")
    add_pixel_option(out)
    out.add_argument("--shard", help=argparse.SUPPRESS)
    out.add_argument("--kept", type=Path, help=argparse.SUPPRESS)
    return out


def main(argv: Sequence[str] | None = None) -> int:
    """Evaluate. Exit codes: 0 done, 1 failed, 2 wrong use."""
    given = list(sys.argv[1:] if argv is None else argv)
    arguments = parser().parse_args(given)
    allow_pixels(arguments.max_pixels)
    if (arguments.model is None) == (arguments.predictions is None):
        raise UsageError("give either --model to answer the questions, or --predictions to score answers")
    if arguments.train_data and not arguments.train_data.is_file():
        raise UserError(f"--train_data {arguments.train_data}: no such file; give the records that training used")
    _require_places(arguments)
    if arguments.predictions:
        return _score_file(arguments)
    if not arguments.data:
        raise UsageError("--model needs the questions: give them with --data RECORDS")
    if arguments.output is None and not Path(arguments.model).is_dir():
        require_run(arguments.model)
        # A folder of a hub id's name would from then on be taken for the model.
        raise UsageError(f"--model {arguments.model} is no folder here: say with --output where the results go")
    if arguments.shard:
        return _shard(arguments)
    from llava_finetune.evaluation.before import changes, label_of
    from llava_finetune.evaluation.kept_answers import forget

    name = arguments.name or {"blank": "blind", "shuffled": "shuffled", None: "final"}[arguments.blind]
    before = _before(arguments, given, name) if arguments.before is not None else None
    predictions = _answered(arguments, given, name)
    if before is not None and not arguments.json:
        for line in changes(before, predictions):
            print(line)
    forget(_output(arguments), [name] if before is None else [name, label_of(name)])
    return 0


def _before(arguments: argparse.Namespace, given: list[str], name: str) -> list[dict[str, Any]]:
    """The answers of the model before training, written beside those after it: `baseline`, or `NAME-baseline`."""
    from llava_finetune.evaluation.before import label_of, model_before

    model = model_before(arguments.model, arguments.before, arguments.base)
    earlier = argparse.Namespace(**{**vars(arguments), "model": model, "base": None, "output": _output(arguments)})
    return _answered(earlier, [*given, "--model", model, "--output", str(earlier.output)], label_of(name))


def _require_places(arguments: argparse.Namespace) -> None:
    """Raise UserError where the results could not be written: before the questions are answered, not hours after."""
    from llava_finetune.saved.new_folder import require_file_place, require_place

    name = "final" if arguments.name is None else arguments.name
    if not 0 < len(os.fsencode(name)) <= LONGEST_NAME or name.startswith(".") or {"/", "\0"} & {*name}:
        raise UsageError(
            f"--name {name[:40]!r} becomes a part of a file's name: expected 1 to {LONGEST_NAME} bytes, no / and no "
            "dot at its start"
        )
    if arguments.output or (arguments.model and Path(arguments.model).is_dir()):
        require_place(arguments.output or Path(arguments.model))
    if arguments.upload:
        require_file_place(arguments.upload)


def require_run(model: str) -> None:
    """Raise UserError for a run that is not there: its parent is a folder, so it is no hub id; near names are told."""
    folder = Path(model)
    if not folder.parent.is_dir() or str(folder.parent) == "." or folder.exists():
        return
    there = [entry.name for entry in folder.parent.iterdir() if entry.is_dir()]
    near = difflib.get_close_matches(folder.name, there, 1, 0.5)
    known = (
        f"did you mean {folder.parent / near[0]}?" if near else f"there are {', '.join(sorted(there)[:8]) or 'none'}"
    )
    raise UserError(f"--model {model}: no such run in {folder.parent}; {known}")


def _score_file(arguments: argparse.Namespace) -> int:
    from llava_finetune.evaluation.scoring import score_file, show, write_upload

    predictions, scores = score_file(arguments.predictions, arguments.data, partial=arguments.partial)
    scores["predictions_sha256"] = sha256_of(arguments.predictions)
    scores["data_sha256"] = sha256_of(arguments.data) if arguments.data else None
    if arguments.upload:
        write_upload(arguments.upload, predictions)
    if arguments.output:
        _write(arguments.output, arguments.name or "final", predictions, scores)
    if arguments.train_data:
        _prior(arguments, predictions, arguments.output)
    show(scores, arguments.json, arguments.name or "final")
    return 0


def _prior(arguments: argparse.Namespace, predictions: list[dict[str, Any]], folder: Path | None) -> None:
    """Show what the training file's commonest answers reach, and keep it where there is a folder."""
    from data_prep.records.record import read_records
    from llava_finetune.evaluation import metrics
    from llava_finetune.evaluation.scoring import show

    try:
        prior = metrics.text_prior(read_records(arguments.train_data), predictions)
    except ValueError as error:
        raise UserError(f"--train_data {arguments.train_data}: {error}") from error
    scores = metrics.score(prior)
    if folder:
        _write(folder, "text_prior", prior, scores)
    show(scores, arguments.json, "text_prior")


def _questions(arguments: argparse.Namespace) -> list[Any]:
    from llava_finetune.evaluation.generate_answers import held_out_questions, with_others_pictures

    choice = (arguments.max_images, arguments.limit, arguments.sample)
    where = (f"--data {arguments.data}", arguments.image_folder, "--images")
    questions = held_out_questions(arguments.data, *where, *choice)
    return with_others_pictures(questions) if arguments.blind == "shuffled" else questions


def _answered(arguments: argparse.Namespace, words: list[str], name: str) -> list[dict[str, Any]]:
    """The answers of the command line `words`, by this process or the several that it asks for; they are written.

    What an earlier call of the same command had answered when it was ended is taken over.
    """
    from llava_finetune.evaluation.kept_answers import KeptAnswers, made_with, place_of, told
    from llava_finetune.evaluation.processes import spread

    start, questions, folder = time.monotonic(), _questions(arguments), _output(arguments)
    kept = KeptAnswers(place_of(folder, name, made_with(arguments)), arguments.image_folder)
    if found := kept.found(questions):
        said = f"{len(found)} of {len(questions)} answers are taken from {kept.path}"
        print(f"{said}: left by an earlier call of this command", flush=True)
    with told(kept, questions):
        if len(found) == len(questions) and not arguments.losses:
            predictions = [found[index] for index in range(len(questions))]
        elif arguments.num_processes == 1:
            predictions = _answer(arguments, questions, kept, found)
        else:
            words = [*words, "--kept", str(kept.path)]
            predictions = spread(words, len(questions), arguments.num_processes, folder)
    _finish(arguments, predictions, name, time.monotonic() - start, len(found))
    return predictions


def _answer(
    arguments: argparse.Namespace, questions: list[Any], kept: Any, found: dict[int, dict[str, Any]]
) -> list[dict[str, Any]]:
    """Answer what is not among `found`, the kept predictions by their question's index."""
    from llava_finetune.evaluation.generate_answers import answer
    from llava_finetune.model.costs import loaded_line, rate_text
    from llava_finetune.model.loading import load

    loaded = load(arguments.model, arguments.base, arguments.dtype, arguments.device, arguments.bits)
    print(loaded_line(loaded, arguments.model, arguments.bits), flush=True)
    start = time.monotonic()
    predictions = answer(
        loaded,
        questions,
        arguments.image_folder,
        batch_size=arguments.batch_size,
        max_new_tokens=arguments.max_new_tokens,
        mode="blank" if arguments.blind == "blank" else "seen",
        say=lambda line: print(line, flush=True),
        kept=kept,
        found=found,
    )
    if tokens := sum(one["num_tokens"] for index, one in enumerate(predictions) if index not in found):
        print(f"answered at {rate_text(tokens, time.monotonic() - start)}", flush=True)
    if not arguments.losses:
        return predictions
    from llava_finetune.evaluation.record_losses import with_losses

    return with_losses(loaded, questions, predictions, arguments.image_folder, arguments.batch_size)


def _output(arguments: argparse.Namespace) -> Path:
    folder = arguments.output or Path(arguments.model)
    folder.mkdir(parents=True, exist_ok=True)
    return Path(folder)


def _shard(arguments: argparse.Namespace) -> int:
    from llava_finetune.evaluation.kept_answers import KeptAnswers
    from llava_finetune.evaluation.processes import shard_file
    from llava_finetune.evaluation.scoring import write_predictions

    index, count = map(int, arguments.shard.split("/"))
    kept = KeptAnswers(arguments.kept, arguments.image_folder)
    questions = _questions(arguments)[index::count]
    predictions = _answer(arguments, questions, kept, kept.found(questions))
    write_predictions(shard_file(_output(arguments), arguments.shard), predictions)
    return 0


def _write(folder: Path, name: str, predictions: list[dict[str, Any]], scores: dict[str, Any]) -> None:
    from llava_finetune.evaluation.scoring import write_predictions
    from llava_finetune.saved.manifest import write_json

    folder.mkdir(parents=True, exist_ok=True)
    write_predictions(folder / f"predictions-{name}.jsonl", predictions)
    write_json(folder / f"scores-{name}.json", scores)


def _finish(
    arguments: argparse.Namespace, predictions: list[dict[str, Any]], name: str, seconds: float, num_taken: int
) -> None:
    """Score, write and show; `seconds` is no time of the whole where `num_taken` answers are of an earlier call."""
    from llava_finetune.evaluation import metrics
    from llava_finetune.evaluation.scoring import show, write_upload
    from llava_finetune.saved.manifest import scored_hashes

    folder = _output(arguments)
    truncated = sum(prediction["truncated"] for prediction in predictions)
    tokens = sum(prediction["num_tokens"] for prediction in predictions)
    scores = {**metrics.score(predictions), "truncated": truncated, "model": str(arguments.model)}
    scores |= {} if num_taken else {"seconds": seconds}
    scores["image_folder"] = str(arguments.image_folder) if arguments.image_folder else None
    scores |= {**scored_hashes(arguments.model, arguments.base), "data_sha256": sha256_of(arguments.data)}
    _write(folder, name, predictions, scores)
    if arguments.upload:
        write_upload(arguments.upload, predictions)
    if arguments.train_data:
        _prior(arguments, predictions, folder)
    show(scores, arguments.json, name)
    if not arguments.json:
        taken = f" ({num_taken} of them from an earlier call)" if num_taken else ""
        print(f"{len(predictions)} answers{taken}, {tokens} tokens in {seconds:.0f} s; written to {folder}")
        if truncated:
            print(
                f"{truncated} of {len(predictions)} answers were cut off: --max_new_tokens {arguments.max_new_tokens}",
                file=sys.stderr,
            )


if __name__ == "__main__":
    from llava_finetune.cli import run_command

    raise SystemExit(run_command("llava_finetune.evaluation.evaluate", sys.argv[1:]))
