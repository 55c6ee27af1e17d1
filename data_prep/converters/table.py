"""A table of pictures, questions and answers to records: CSV, TSV, JSONL, Excel or parquet.

    image,question,answer
    cat.jpg,What animal is this?,a cat

    python -m data_prep table pets.csv --images photos --output records.json

A picture is a path below the image folder, or an address whose file lies there already (its last part, or its whole
path); a cell may name several. `answer` may hold several (a JSON list in CSV): the most common is taught, all are kept
in `answers`. Choices (`choices`, `options`, or the columns A, B, C) are listed under their question.
"""

from __future__ import annotations

import argparse
import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from data_prep.converters.cells import Named, image_columns, named_rows, refuse_embedded
from data_prep.converters.encodings import LIKELY
from data_prep.converters.options import (
    add_output_options,
    converter_parser,
    require_folder,
    with_suffix,
    write_and_check,
)
from data_prep.converters.questions import Asked, asked, question_columns, suffix_for
from data_prep.converters.rows import Placed, Reading, Row, Wanted, read_rows, require_columns, say_splits, split_of
from data_prep.converters.texts import NoText, text_of
from data_prep.converters.unpacking import add_unpacked_option
from data_prep.converters.usual_names import ANSWER_NAMES, IMAGE_NAMES, QUESTION_NAMES
from data_prep.converters.vqa_answers import most_common_answer
from data_prep.errors import DataError
from data_prep.progress import Progress
from data_prep.records.output import Converted, Drop, Origin, Reason
from data_prep.records.record import IMAGE_TOKEN, conversation

ID_NAMES = ("id", "question_id", "uid")
TURNS = ("messages", "conversations", "conversation", "texts", "dialog", "dialogue")
EXAMPLES = """  python -m data_prep table pets.csv --images photos --output records.json
  python -m data_prep table q.xlsx --images photos --answer-column Reply --output records.json
  python -m data_prep table pets.csv --images photos --encoding cp1252 --output records.json"""


def convert(rows: Iterable[Placed], path: Path, args: argparse.Namespace) -> Iterator[Converted | Drop]:
    """Yield a record for each row of a table, or why there is none."""
    rows = iter(rows)
    first = next(rows, None)
    if first is None:
        return
    command = f"python -m data_prep hf {path} --images {args.image_folder} --output {args.output}"
    _refuse_turns(first[1], path, command)
    require_columns(
        first[1],
        [
            Wanted(args.image_column, IMAGE_NAMES, "picture", "--image-column"),
            Wanted(args.question or args.question_column, QUESTION_NAMES, "question", "--question-column"),
            Wanted(args.answer_column, ANSWER_NAMES, "answer", "--answer-column"),
        ],
        path,
    )
    images = image_columns(first[1], args.image_column, path)
    refuse_embedded(first[1], images, path, f"python -m data_prep hf {path} --output {args.output}")
    columns = question_columns(first[1], args.question_column, args.answer_column, path, bool(args.question))
    identity = next((name for name in ID_NAMES if name in first[1]), None)
    splits: Counter[str | None] = Counter()
    for number, one in enumerate(named_rows(itertools.chain([first], rows), images, args.image_folder), 1):
        splits[split_of(one.row)] += 1
        where = f"{path.name} {one.place}"
        try:
            if one.problem:
                raise one.problem
            found = asked(one.row, columns, args.question)
            given = text_of(one.row.get(identity)).strip() if identity else ""
        except NoText as error:
            yield Drop(Reason.NOT_TEXT, f"{where}: {error}")
            continue
        yield _dropped(one, found, images, where) or _record(
            one.names, found, given or f"{path.stem}-{number}", args.suffix
        )
    say_splits(path, splits)


def _dropped(one: Named, found: Asked, images: Sequence[str], where: str) -> Drop | None:
    """Return why a row whose texts were read makes no record; None where it makes one."""
    if not one.names:
        return Drop(Reason.NO_IMAGE, where)
    if one.missing:
        gone, problem = next(iter(one.missing.items()))
        return Drop(problem, f"{where}: {_as_written(one.row, images, gone)}", picture=gone)
    if not found.question.replace(IMAGE_TOKEN, "").strip():
        return Drop(Reason.NO_QUESTION, where)
    marks = found.question.count(IMAGE_TOKEN)
    if marks not in (0, len(one.names)):
        return Drop(Reason.BAD_TURNS, f"{where}: {marks} <image> for {len(one.names)} pictures")
    return None if found.answers else Drop(Reason.NO_ANSWER, where)


def _record(names: list[str], found: Asked, identity: str, suffix: str) -> Converted:
    question = with_suffix(found.question, suffix_for(found, suffix))
    turns = conversation([(question, most_common_answer(found.answers))], len(names))
    record = {"id": identity, "image": names[0] if len(names) == 1 else names, "conversations": turns}
    return Converted({**record, "answers": found.answers} if len(found.answers) > 1 else record)


def _as_written(row: Row, images: Sequence[str], name: str) -> str:
    """Return a missing picture as its cell has it where that is one name, an address for example."""
    cell = row.get(images[0])
    return cell.strip() if isinstance(cell, str) and len(images) == 1 and len(cell) < 300 else name


def _refuse_turns(row: Row, path: Path, command: str) -> None:
    """Raise DataError for rows of dialogues, naming the command that reads them."""
    if turns := next((name for name in TURNS if isinstance(row.get(name), list)), None):
        raise DataError(path, f'its rows hold dialogues ("{turns}"); this command reads them: {command}')


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
    add_reading_options(parser)
    args = parser.parse_args(argv)
    require_folder(args.image_folder)
    choices = {"image": args.image_column, "question": args.question or args.question_column, "suffix": args.suffix}
    with Progress("converting", None, "rows") as progress:
        rows = progress.each(read_rows(args.table, reading_of(args)))
        sources = [args.table] if args.table.is_file() else []
        origin = Origin("table", sources, args.image_folder, choices)
        return write_and_check(args, convert(rows, args.table, args), origin)


def add_reading_options(parser: argparse.ArgumentParser) -> None:
    """Add --sheet, --encoding, --keep-nan and --max-unpacked."""
    parser.add_argument(
        "--sheet", help="sheet of an Excel file (default: the first that is not hidden), list of a JSON object"
    )
    parser.add_argument("--encoding", help=f"of a text that is not UTF-8: {', '.join(LIKELY)}, or another")
    parser.add_argument("--keep-nan", action="store_true", help="cells that say nan are that text, not empty")
    add_unpacked_option(parser)


def reading_of(args: argparse.Namespace) -> Reading:
    """Return how the command line says that the table is read."""
    return Reading(args.sheet, args.encoding, args.max_unpacked, sheet_option="--sheet", empties_nan=not args.keep_nan)
