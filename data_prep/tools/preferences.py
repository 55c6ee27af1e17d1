"""Pairs of answers for DPO: from a run's own wrong answers, or from preference data of others.

    python -m data_prep preferences runs/mine/predictions-train.jsonl --images pictures --output pairs.json
    python -m data_prep preferences RLAIF-V.parquet --images rlaif-v --output pairs.json

What a row is, is known from its fields:

    question, answer, reference                    a run's predictions, the gauge's too: the reference, and what it said
    question, chosen, rejected, image              RLAIF-V, POVID and their like
    question, chosen, reject, image_id             HA-DPO; its descriptions are lists of chosen and rejected by picture
    prompt, chosen, rejected, images               TRL: texts or turns, the prompt apart or in both
    conversations, chosen, rejected, images        LLaMA-Factory and ours, with image or images; `chosen` may be the
                                                   last turn instead
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from data_prep.converters.drops import add_drops_option, loss_status, say_drops
from data_prep.converters.finish import add_check_option, finish
from data_prep.converters.options import converter_parser, require_place
from data_prep.errors import DataError, quoted
from data_prep.hf.pictures import PictureStore
from data_prep.hf.rows import Asked, open_rows
from data_prep.picture_folder import add_images_option
from data_prep.records.json_text import read_json
from data_prep.records.marks import IMAGE_TOKEN
from data_prep.records.names import same_name
from data_prep.records.output import Converted, Drop, Origin, Reason, write_output
from data_prep.records.record import Record, images_of, read_records
from data_prep.tools.answers import Answers, NoPair, answers_in
from data_prep.tools.one_sided import Sides, balanced

EXAMPLES = """  python -m data_prep preferences predictions.jsonl --images pictures --test test.json --output pairs.json
  python -m data_prep preferences predictions-gauge.jsonl --images pictures --output pairs.json --false-yes
  python -m data_prep preferences pope_data.json --images VG --image-name '{}.jpg' --output pairs.json"""
DESCRIBE = "Describe this image in detail."
"""Asked for HA-DPO's descriptions, which come without a question."""


def rows_of(source: str) -> Iterator[Mapping[str, Any]]:
    """Yield the rows of a source; HA-DPO's descriptions, an object by picture, as a row for each two answers."""
    path = Path(source)
    if path.suffix == ".json" and path.is_file() and isinstance(value := read_json(path), dict):
        for picture, answers in value.items():
            both: list[Any] = []
            if isinstance(answers, dict):
                both = [answers.get(name) for name in ("chosen", "rejected")]
            if not both or not all(isinstance(one, list) for one in both):
                raise DataError(
                    path, f"{quoted(picture, 40)}: expected an object with lists of chosen and rejected answers"
                )
            for number, (chosen, rejected) in enumerate(itertools.zip_longest(*both)):
                yield {
                    "id": f"{picture}-{number}",
                    "image_id": picture,
                    "question": DESCRIBE,
                    "chosen": chosen,
                    "rejected": rejected,
                }
    else:
        yield from open_rows(source, Asked()).rows


def convert(rows: Iterator[Mapping[str, Any]], args: argparse.Namespace) -> Iterator[Converted | Drop]:
    """Yield a record with two answers for each row, or why there is none."""
    store = PictureStore(args.image_folder, args.source) if args.image_folder else None
    tested = (
        {same_name(name) for record in read_records(args.test) for name in images_of(record)} if args.test else set()
    )
    stem = Path(args.source).stem
    for number, row in enumerate(rows, 1):
        given = row.get("id")
        where = f"{args.source} row {number}" + (f" ({given})" if isinstance(given, str | int) else "")
        try:
            found = answers_in(row, args.image_name, args.false_yes)
            names = [_named(store, cell) for cell in found.pictures]
        except NoPair as reason:
            yield Drop(reason.why, f"{where}{f': {reason}' if str(reason) else ''}")
            continue
        if any(same_name(name) in tested for name in names):
            yield Drop(Reason.TESTED_ON, f"{where}: {names[0]}")
            continue
        record = _record(found, names)
        turn = row.get("turn") if isinstance(row.get("turn"), int) else 0
        name = f"{stem}-{given if isinstance(given, str | int) else number}-{turn}"
        yield Converted({"id": name, **record}) if record else Drop(Reason.BAD_TURNS, f"{where}: <image> and pictures")


def _named(store: PictureStore | None, cell: Any) -> str:
    if store is None:
        if isinstance(cell, str):
            return cell
        raise DataError("--images", "the pictures lie in the data itself; say which folder they are to be written to")
    picture = store.picture(cell)
    if picture.problem:
        raise NoPair(picture.problem, picture.name)
    return picture.name


def _record(found: Answers, names: Sequence[str]) -> Record | None:
    """The record, `<image>` put before the first question where nobody marked the picture's place."""
    turns = [{"from": side, "value": text} for side, text in found.turns]
    marks = sum(text.count(IMAGE_TOKEN) for _, text in found.turns)
    if not marks:
        turns[0]["value"] = "\n".join([*[IMAGE_TOKEN] * len(names), turns[0]["value"]])
    elif marks != len(names):
        return None
    picture = {"image": names[0] if len(names) == 1 else list(names)} if names else {}
    answered = [*turns, {"from": "gpt", "value": found.chosen}]
    return {**picture, "conversations": answered, "chosen": found.chosen, "rejected": found.rejected}


def main(argv: Sequence[str] | None = None) -> int:
    """Write the pairs and say what gave none."""
    parser = converter_parser("preferences", "Pairs of a better and a worse answer, for DPO.", EXAMPLES)
    text = "a run's predictions-*.jsonl, or preference data: a file, a folder, OWNER/NAME of the hub"
    parser.add_argument("source", help=text)
    parser.add_argument("--output", type=Path, required=True, help="records to write, .json or .jsonl")
    add_images_option(parser, "the pictures' folder; those that lie in the data are written there")
    parser.add_argument(
        "--image-name", default="{}.jpg", help="name of a picture that has a number only; default {}.jpg"
    )
    parser.add_argument("--test", type=Path, help="held-out records: pairs on their pictures are left out")
    parser.add_argument(
        "--false-yes", action="store_true", help="of predictions only yes/no questions, answered yes where no is right"
    )
    parser.add_argument(
        "--balance",
        action="store_true",
        help="as many pairs that prefer yes to no as no to yes, and so for any two answers",
    )
    add_drops_option(parser)
    add_check_option(parser)
    args = parser.parse_args(argv)
    require_place(args.image_name)
    rows = rows_of(args.source)
    first = next(rows, None)
    if first is None:
        raise DataError(args.source, "no rows")
    predicted = {"answer", "reference"} <= first.keys()
    sources = [Path(args.source)] if Path(args.source).is_file() else []
    choices = {"false_yes": args.false_yes, "balance": args.balance}
    made = convert(itertools.chain([first], rows), args)
    sides = Sides()
    origin = Origin("preferences", sources, args.image_folder, choices)
    counts = write_output(args.output, sides.counted(balanced(made) if args.balance else made), origin)
    print(f"{args.output}: {counts}")
    say_drops(counts, args.output)
    if one_sided := sides.said():
        print(f"  {one_sided}")
    if predicted and not args.test:
        print(
            "  without --test nothing says whether these pictures are held out: train on no answers about test pictures"
        )
    status = finish(args.output, args.image_folder, args.check)
    return max(status, loss_status(counts, args.output, args.allow_drops))
