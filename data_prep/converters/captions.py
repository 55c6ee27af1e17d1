"""A folder of pictures and a CSV of captions to records: describe each picture, or name what it shows.

    image,caption
    white-knight-1.jpg,a white knight

    python -m data_prep captions captions.csv --image-folder photos --output records.json

One fixed question goes before every caption, or one of a list (`--questions FILE`, a phrasing a line), drawn by the
picture's name so that the choice stays when rows are added. `--pretrain` writes the bare `<image>` of stage 1.
"""

from __future__ import annotations

import argparse
import itertools
import random
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from data_prep.converters.options import (
    add_output_options,
    converter_parser,
    picture_problem,
    require_folder,
    write_and_check,
)
from data_prep.converters.rows import Placed, cell_text, column, read_rows
from data_prep.converters.table import IMAGE_NAMES, local_name
from data_prep.errors import DataError
from data_prep.records.json_text import decode_utf8
from data_prep.records.output import Converted, Drop, Origin, Reason
from data_prep.records.record import IMAGE_TOKEN, conversation

CAPTION_NAMES = ("caption", "text", "description", "label", "answer")
QUESTION = "What is in this picture?"
EXAMPLES = """  python -m data_prep captions captions.csv --image-folder photos --output records.json
  python -m data_prep captions c.csv --image-folder photos --question "Which piece is it?" --output train.json"""


def read_questions(path: Path) -> list[str]:
    """Return the phrasings in a file, one a line; raise DataError when there is none."""
    if not path.is_file():
        raise DataError(path, "no such file; --questions is a text file with one question a line")
    lines = [line.strip() for line in decode_utf8(path.read_bytes(), path).removeprefix("\ufeff").splitlines()]
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
    image = column(first[1], args.image_column, IMAGE_NAMES, "picture", path, "--image-column")
    text = column(first[1], args.caption_column, CAPTION_NAMES, "caption", path, "--caption-column")
    for place, row in itertools.chain([first], rows):
        where = f"{path.name} {place}"
        cell, caption = cell_text(row.get(image)).strip(), cell_text(row.get(text)).strip()
        name = local_name(cell, args.image_folder) if cell else ""
        if not cell:
            yield Drop(Reason.NO_IMAGE, where)
        elif problem := picture_problem(args.image_folder, name):
            yield Drop(problem, f"{where}: {cell}")
        elif not caption:
            yield Drop(Reason.NO_ANSWER, f"{where}: {cell}")
        else:
            question = random.Random(f"{args.seed} {name}").choice(questions)
            turns = [
                {"from": "human", "value": IMAGE_TOKEN}, {"from": "gpt", "value": caption}
            ] if args.pretrain else conversation([(question, caption)])  # fmt: skip
            yield Converted({"id": f"caption-{name}", "image": name, "conversations": turns})


def main(argv: Sequence[str] | None = None) -> int:
    """Convert a caption table."""
    parser = converter_parser("captions", "A folder of pictures and a CSV of captions to records.", EXAMPLES)
    parser.add_argument("table", type=Path, help="CSV (or any table) with a picture and a caption in each row")
    add_output_options(parser)
    parser.add_argument("--question", default=QUESTION, help=f"asked of every picture; default: {QUESTION!r}")
    parser.add_argument(
        "--questions", type=Path, metavar="FILE", help="a list of phrasings, one a line, drawn per picture"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the drawing")
    parser.add_argument("--pretrain", action="store_true", help="no question: <image> and the caption, for stage 1")
    parser.add_argument("--image-column", help=f"default: the first of {', '.join(IMAGE_NAMES)}")
    parser.add_argument("--caption-column", help=f"default: the first of {', '.join(CAPTION_NAMES)}")
    args = parser.parse_args(argv)
    require_folder(args.image_folder)
    questions = read_questions(args.questions) if args.questions else [args.question]
    choices = {"questions": questions, "seed": args.seed, "pretrain": args.pretrain}
    sources = [args.table, args.questions] if args.questions else [args.table]
    origin = Origin("captions", sources, args.image_folder, choices)
    return write_and_check(args, convert(read_rows(args.table), args.table, questions, args), origin)
