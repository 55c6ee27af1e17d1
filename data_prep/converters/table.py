"""A table of pictures, questions and answers to records: CSV, TSV, JSONL, Excel or parquet.

    image,question,answer
    cat.jpg,What animal is this?,a cat

    python -m data_prep table pets.csv --image-folder photos --output records.json

A picture is a path below the image folder, or an address whose file lies there already (its last part, or its whole
path). `answer` may hold several (a JSON list in CSV): the most common is taught, all are kept in `answers`.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from data_prep.converters.options import (
    add_output_options,
    converter_parser,
    picture_problem,
    require_folder,
    with_suffix,
    write_and_check,
)
from data_prep.converters.rows import Placed, as_texts, cell_text, column, read_rows
from data_prep.converters.vqa_answers import most_common_answer
from data_prep.progress import Progress
from data_prep.records.output import Converted, Drop, Origin, Reason
from data_prep.records.record import conversation

IMAGE_NAMES = ("image", "image_path", "picture", "file", "file_name", "filename", "path", "photo", "img", "url")
QUESTION_NAMES = ("question", "prompt", "query", "instruction", "text_input")
ANSWER_NAMES = ("answer", "answers", "response", "output", "label", "text_output")
ID_NAMES = ("id", "question_id", "uid")
EXAMPLES = """  python -m data_prep table pets.csv --image-folder photos --output records.json
  python -m data_prep table q.xlsx --image-folder photos --answer-column Reply --output records.json"""


def local_name(text: str, folder: Path) -> str:
    """Return the name below `folder` that a cell means: a path as it is, an address as the file it was saved to.

    `./a.jpg` is `a.jpg`; a path that begins with the folder itself loses it; for `https://host/x/a.jpg?w=1` the names
    `host/x/a.jpg`, `x/a.jpg` and `a.jpg` are looked for.
    """
    if "://" in text:
        parts = urlsplit(text)
        steps = [step for step in unquote(parts.path).split("/") if step]
        wanted = ["/".join([parts.netloc, *steps]), *("/".join(steps[place:]) for place in range(len(steps)))]
        return next((name for name in wanted if picture_problem(folder, name) is None), wanted[-1])
    path = PurePosixPath(text)
    if path.is_absolute() and path.is_relative_to(str(folder.absolute())):
        return str(path.relative_to(str(folder.absolute())))
    return text.removeprefix("./")


def convert(rows: Iterable[Placed], path: Path, args: argparse.Namespace) -> Iterator[Converted | Drop]:
    """Yield a record for each row of a table, or why there is none."""
    rows = iter(rows)
    first = next(rows, None)
    if first is None:
        return
    image = column(first[1], args.image_column, IMAGE_NAMES, "picture", path, "--image-column")
    question = (
        ""
        if args.question
        else column(first[1], args.question_column, QUESTION_NAMES, "question", path, "--question-column")
    )
    answer = column(first[1], args.answer_column, ANSWER_NAMES, "answer", path, "--answer-column")
    name_column = next((name for name in ID_NAMES if name in first[1]), None)
    for number, (place, row) in enumerate(itertools.chain([first], rows), 1):
        where = f"{path.name} {place}"
        cell = cell_text(row.get(image)).strip()
        asked = args.question or cell_text(row.get(question))
        answers = as_texts(row.get(answer), path, place)
        name = local_name(cell, args.image_folder) if cell else ""
        if not cell:
            yield Drop(Reason.NO_IMAGE, where)
        elif problem := picture_problem(args.image_folder, name):
            yield Drop(problem, f"{where}: {cell}")
        elif not asked.strip():
            yield Drop(Reason.NO_QUESTION, where)
        elif not answers:
            yield Drop(Reason.NO_ANSWER, where)
        else:
            given = cell_text(row.get(name_column)).strip() if name_column else ""
            record = {
                "id": given or f"{path.stem}-{number}",
                "image": name,
                "conversations": conversation([(with_suffix(asked, args.suffix), most_common_answer(answers))]),
            }
            yield Converted({**record, "answers": answers} if len(answers) > 1 else record)


def main(argv: Sequence[str] | None = None) -> int:
    """Convert a table."""
    parser = converter_parser("table", "A table with columns for picture, question and answer to records.", EXAMPLES)
    parser.add_argument("table", type=Path, help="CSV, TSV, JSONL, JSON, Excel (.xlsx) or parquet")
    add_output_options(parser)
    parser.add_argument("--image-column", help=f"default: the first of {', '.join(IMAGE_NAMES)}")
    parser.add_argument("--question-column", help=f"default: the first of {', '.join(QUESTION_NAMES)}")
    parser.add_argument("--answer-column", help=f"default: the first of {', '.join(ANSWER_NAMES)}")
    parser.add_argument("--question", help="one question for all rows, when no column has it")
    parser.add_argument("--suffix", default="", help="added to each question on a line of its own")
    parser.add_argument("--sheet", help="sheet of an Excel file (default: the first)")
    args = parser.parse_args(argv)
    require_folder(args.image_folder)
    choices = {"image": args.image_column, "question": args.question or args.question_column, "suffix": args.suffix}
    with Progress("converting", None, "rows") as progress:
        rows = progress.each(read_rows(args.table, args.sheet))
        origin = Origin("table", [args.table], args.image_folder, choices)
        return write_and_check(args, convert(rows, args.table, args), origin)
