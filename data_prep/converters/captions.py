"""A folder of pictures and a CSV of captions to records: describe each picture, or name what it shows.

    image,caption
    white-knight-1.jpg,a white knight

    python -m data_prep captions captions.csv --images photos --output records.json

COCO's captions are read, too, and folders with a text beside each picture (`a.jpg`, `a.txt`).
One fixed question goes before every caption, or one of a list (`--questions FILE`, a phrasing a line), drawn by the
picture's name so that the choice stays when rows are added. `--pretrain` writes the bare `<image>` of stage 1.
"""

from __future__ import annotations

import argparse
import itertools
import random
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from data_prep.converters.cells import image_columns, named_rows, refuse_embedded
from data_prep.converters.encodings import encoding_of
from data_prep.converters.options import (
    add_output_options,
    converter_parser,
    require_folder,
    write_and_check,
)
from data_prep.converters.questions import require_text
from data_prep.converters.rows import Placed, Wanted, cell_at, column, read_rows, require_columns
from data_prep.converters.table import add_reading_options, reading_of
from data_prep.converters.texts import NoText, text_of, texts_of
from data_prep.converters.usual_names import IMAGE_NAMES
from data_prep.errors import DataError
from data_prep.numbers import seed
from data_prep.records.output import Converted, Drop, Origin, Reason
from data_prep.records.record import IMAGE_TOKEN, Record, conversation

CAPTION_NAMES = ("caption", "text", "description", "captions", "sentences", "label", "answer")
QUESTION = "What is in this picture?"
EXAMPLES = """  python -m data_prep captions captions.csv --images photos --output records.json
  python -m data_prep captions c.csv --images photos --question "Which piece is it?" --output train.json"""


def read_questions(path: Path, encoding: str | None = None) -> list[str]:
    """Return the phrasings in a file, one a line; raise DataError when there is none."""
    if not path.is_file():
        raise DataError(path, "no such file; --questions is a text file with one question a line")
    lines = [line.strip() for line in path.read_text(encoding=encoding_of(path, encoding)).splitlines()]
    if not any(lines):
        raise DataError(path, "no question in it; write one a line")
    return [line for line in lines if line]


def convert(
    rows: Iterable[Placed], path: Path, questions: Sequence[str], args: argparse.Namespace
) -> Iterator[Converted | Drop]:
    """Yield a record for each captioned picture, or why there is none; rows left empty in a template are dropped."""
    rows = iter(rows)
    first = next(rows, None)
    if first is None:
        return
    require_columns(
        first[1],
        [
            Wanted(args.image_column, IMAGE_NAMES, "picture", "--image-column"),
            Wanted(args.caption_column, CAPTION_NAMES, "caption", "--caption-column"),
        ],
        path,
    )
    images = image_columns(first[1], args.image_column, path)
    refuse_embedded(first[1], images, path, f"python -m data_prep hf {path} --output {args.output}")
    text = column(first[1], args.caption_column, CAPTION_NAMES, "caption", path, "--caption-column")
    require_text(cell_at(first[1], text), text, "--caption-column", path)
    for one in named_rows(itertools.chain([first], rows), images, args.image_folder):
        names, where = one.names, f"{path.name} {one.place}"
        try:
            if one.problem:
                raise one.problem
            caption = caption_of(cell_at(one.row, text))
        except NoText as error:
            yield Drop(Reason.NOT_TEXT, f"{where}: {error}")
            continue
        if not names:
            yield Drop(Reason.NO_IMAGE, where)
        elif one.missing:
            gone, problem = next(iter(one.missing.items()))
            yield Drop(problem, f"{where}: {gone}", picture=gone)
        elif not caption:
            yield Drop(Reason.NO_ANSWER, f"{where}: {names[0]}")
        else:
            yield Converted(_record(names, caption, questions, args))


def caption_of(value: Any) -> str:
    """Return the caption in a cell, the first of several; "" where there is none, NoText for what is no text."""
    return next(iter(texts_of(value) if not isinstance(value, str) else [text_of(value)]), "").strip()


def _record(names: list[str], caption: str, questions: Sequence[str], args: argparse.Namespace) -> Record:
    turns = conversation([(random.Random(f"{args.seed} {names[0]}").choice(questions), caption)], len(names))
    if args.pretrain:
        turns[0]["value"] = "\n".join([IMAGE_TOKEN] * len(names))
    return {"id": f"caption-{names[0]}", "image": names[0] if len(names) == 1 else names, "conversations": turns}


def main(argv: Sequence[str] | None = None) -> int:
    """Convert a caption table."""
    parser = converter_parser("captions", "A folder of pictures and a CSV of captions to records.", EXAMPLES)
    text = "a table with a picture and a caption in each row, COCO's captions, a folder with a.txt beside a.jpg"
    parser.add_argument("table", type=Path, help=text)
    add_output_options(parser)
    parser.add_argument("--question", default=QUESTION, help=f"asked of every picture; default: {QUESTION!r}")
    parser.add_argument(
        "--questions", type=Path, metavar="FILE", help="a list of phrasings, one a line, drawn per picture"
    )
    parser.add_argument("--seed", type=seed, default=0, help="seed of the drawing")
    parser.add_argument("--pretrain", action="store_true", help="no question: <image> and the caption, for stage 1")
    parser.add_argument("--image-column", help=f"default: the first of {', '.join(IMAGE_NAMES)}")
    parser.add_argument("--caption-column", help=f"default: the first of {', '.join(CAPTION_NAMES)}")
    add_reading_options(parser)
    args = parser.parse_args(argv)
    require_folder(args.image_folder)
    questions = read_questions(args.questions, args.encoding) if args.questions else [args.question]
    choices = {"questions": questions, "seed": args.seed, "pretrain": args.pretrain}
    sources = [args.table, args.questions] if args.questions else [args.table]
    sources = [source for source in sources if source.is_file()]
    origin = Origin("captions", sources, args.image_folder, choices)
    rows = read_rows(args.table, reading_of(args))
    return write_and_check(args, convert(rows, args.table, questions, args), origin)
