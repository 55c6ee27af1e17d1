"""A Hugging Face data set to records: streamed, pictures written with their bytes as they are.

    python -m data_prep hf HuggingFaceH4/llava-instruct-mix-vsft --output train.json --images images

The layout is recognised by the columns (see hf/layouts.py), or named by options. Pictures go to the image folder under
the hash of their bytes, so a picture that many rows share is written once, and a run that was killed goes on quickly.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import random
import sys
from collections.abc import Container, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from data_prep.converters.options import SHORT_ANSWER, add_output_options, converter_parser, count, write_and_check
from data_prep.converters.rows import Row
from data_prep.converters.table import add_reading_options, reading_of
from data_prep.converters.texts import NoText
from data_prep.converters.vqa import merge_by_image
from data_prep.errors import DataError, UsageError
from data_prep.hf.layouts import Columns, Layout, picture_cells, recognise, require_known, with_turns
from data_prep.hf.parallel import groups_with, in_processes, most_processes
from data_prep.hf.parquet import most_read
from data_prep.hf.parts import Unseen
from data_prep.hf.pictures import THREADS, PictureStore, names_a_file, own_folder, with_pictures
from data_prep.hf.rows import Asked, Opened, open_rows
from data_prep.hf.turns import Talk, talk_of
from data_prep.numbers import seed
from data_prep.picture_folder import add_images_option
from data_prep.progress import Progress
from data_prep.records.json_text import json_in
from data_prep.records.output import Converted, Drop, Origin, Reason

MANY_ROWS = 2000
"""From here on other processes are worth their start."""
QUESTION = "What is in this picture?"
TURNS_AND_PICTURES = ("id", "image", "conversations")
ID_COLUMNS = ("id", "question_id", "uid", "__key__")
EXAMPLES = """  python -m data_prep hf HuggingFaceH4/llava-instruct-mix-vsft --limit 10000 --output train.json
  python -m data_prep hf pieces.parquet --question "Which chess piece is this?" --output r.json
  python -m data_prep hf okvqa_folder --split validation --suffix short --output test.json --images images"""


def convert(
    rows: Iterable[tuple[int, Row]], layout: Layout, store: PictureStore, args: argparse.Namespace, threads: int
) -> Iterator[Converted | Drop]:
    """Yield a record for each row, or why there is none."""
    stem = Path(args.source).resolve().stem if Path(args.source).exists() else args.source.replace("/", "-")
    stored = ((number, with_turns(row, layout)) for number, row in rows) if layout.stored else rows
    for number, row, pictures in with_pictures(stored, layout, store, threads):
        where = f"{args.source} row {number}"
        bad = next((picture for picture in pictures if picture.problem), None)
        if bad and bad.problem:
            yield Drop(bad.problem, f"{where}: {bad.name}" if bad.name else where)
            continue
        names = [picture.name for picture in pictures]
        if not names and layout.kind in {"question", "caption"}:
            yield Drop(Reason.NO_IMAGE, where)
            continue
        try:
            talk = talk_of(row, layout, len(names), args.question, args.suffix)
        except Unseen as error:
            yield Drop(Reason.NOT_SEEN, f"{where}: {error}")
            continue
        except NoText as error:
            yield Drop(Reason.NOT_TEXT, f"{where}: {error}")
            continue
        except ValueError as error:
            empty = {"empty answer": Reason.NO_ANSWER, "empty question": Reason.NO_QUESTION}
            reason = next((reason for words, reason in empty.items() if words in str(error)), Reason.BAD_TURNS)
            yield Drop(reason, f"{where}: {error}")
            continue
        yield Converted(_record(row, layout, names, talk, f"{stem}-{number}"))


def _record(row: Row, layout: Layout, names: list[str], talk: Talk, name: str) -> dict[str, Any]:
    given = next((row[key] for key in ID_COLUMNS if isinstance(row.get(key), str | int)), None)
    record: dict[str, Any] = {"id": str(given) if given not in {None, ""} else name}
    if names:
        record["image"] = names[0] if len(names) == 1 else names
    record["conversations"] = [{"from": role, "value": text} for role, text in talk.turns]
    if layout.kind == "question" and not talk.apart:
        record["answers"] = talk.answers
    if layout.kind == "conversations":
        record |= _kept(row)
    return record | ({"independent_turns": True} if talk.apart else {})


def _kept(row: Row) -> dict[str, Any]:
    """What `push` keeps of a record beside its turns and pictures: its reference answers, and its other keys."""
    answers, more = row.get("answers"), row.get("more")
    kept: dict[str, Any] = {"answers": answers} if answers and isinstance(answers, list) else {}
    told = json_in(more) if isinstance(more, str) else None  # None: push did not write that column
    return kept | ({key: told[key] for key in told if key not in TURNS_AND_PICTURES} if isinstance(told, dict) else {})


def wanted_rows(total: int | None, args: argparse.Namespace) -> Container[int]:
    """Return the numbers of the rows to take: all, the first --limit, or --sample drawn by the seed."""
    if args.sample is None:
        return range(sys.maxsize if args.limit is None else args.limit)
    if total is None:
        raise UsageError("--sample needs a data set whose size is known: parquet or arrow files here; use --limit")
    return set(random.Random(args.seed).sample(range(total), min(args.sample, total)))


@contextmanager
def converted_items(
    first: Row, opened: Opened, layout: Layout, store: PictureStore, args: argparse.Namespace
) -> Iterator[Iterator[Converted | Drop]]:
    """What the rows become, in their order: by several processes where many rows lie here, else in this one."""
    wanted = wanted_rows(opened.total, args)
    groups = groups_with(opened.groups, wanted)
    make = functools.partial(convert, layout=layout, store=store, args=args)
    num_processes = min(most_processes(most_read()), len(groups))
    if num_processes > 1 and sum(group.num_rows for group in groups) >= MANY_ROWS:
        opened.rows.close()  # its file, and the page that it has read
        parts = functools.partial(make, threads=0)
        with in_processes(parts, groups, wanted, num_processes, args.max_unpacked) as items:
            yield items
    else:
        numbered = enumerate(itertools.chain([first], opened.rows))
        taken = itertools.islice(numbered, args.limit if args.sample is None else None)
        yield make(((number, row) for number, row in taken if number in wanted), threads=THREADS)


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of `hf`."""
    parser = converter_parser("hf", "A Hugging Face data set to records.", EXAMPLES)
    text = "OWNER/NAME of the hub, a folder, a file (parquet, arrow, JSON, CSV), a saved data set"
    parser.add_argument("source", help=text)
    add_output_options(parser, pictures=False)
    add_images_option(
        parser,
        "where the pictures go (default: images beside --output; files of a local data set stay where they are)",
    )
    parser.add_argument("--split", help="default: train")
    parser.add_argument("--config", help="configuration (subset) of the data set")
    parser.add_argument("--revision", help="commit or tag of the hub, to get the same data again")
    parser.add_argument("--limit", type=count, help="take the first N rows")
    parser.add_argument("--sample", type=count, help="take N rows drawn with --seed")
    parser.add_argument("--seed", type=seed, default=0, help="seed of --sample")
    parser.add_argument("--image-column", help="the column with the picture or pictures")
    parser.add_argument("--messages-column", help="the column with the turns")
    parser.add_argument("--question-column", help="the column with the question")
    parser.add_argument("--answer-column", help="the column with the answer or answers")
    parser.add_argument("--caption-column", help="the column with the caption")
    parser.add_argument("--question", default=QUESTION, help=f"asked for captions; default: {QUESTION!r}")
    parser.add_argument("--suffix", default="", help="added to each question; short: LLaVA-1.5's short-answer prompt")
    parser.add_argument("--merge-by-image", action="store_true", help="all questions on a picture in one conversation")
    add_reading_options(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Convert a data set."""
    args = build_parser().parse_args(argv)
    args.suffix = SHORT_ANSWER if args.suffix == "short" else args.suffix
    asked = Asked(args.split, args.config, args.revision, reading_of(args), args.output)
    opened = open_rows(args.source, asked)
    first = next(opened.rows, None)
    if first is None:
        raise DataError(args.source, "no row in it")
    layout = _layout(first, opened, args)
    folder = args.image_folder or _usual_folder(first, layout, args)
    store = PictureStore(folder, args.source, opened.commit)
    with (
        Progress("converting", args.sample or args.limit or opened.total, "rows") as progress,
        converted_items(first, opened, layout, store, args) as rows,
    ):
        items: Iterable[Converted | Drop] = progress.each(rows)
        if args.merge_by_image:
            items = merge_by_image(items, "hf")
        names = ("source", "split", "config", "limit", "sample", "seed", "question", "suffix")
        choices = {name: getattr(args, name) for name in names}
        choices |= {"revision": opened.commit or args.revision, "layout": layout._replace(names=None)._asdict()}
        return write_and_check(args, items, Origin("hf", opened.files, folder, choices))


def _usual_folder(first: Row, layout: Layout, args: argparse.Namespace) -> Path:
    """Return the data set's own folder when its pictures are files there (named, not copied), else a new one."""
    below = own_folder(args.source)
    cells = picture_cells(with_turns(first, layout), layout)
    return below if below and any(names_a_file(cell, args.source) for cell in cells) else args.output.parent / "images"


def _layout(first: Row, opened: Opened, args: argparse.Namespace) -> Layout:
    wanted = Columns(
        args.image_column, args.messages_column, args.question_column, args.answer_column, args.caption_column
    )
    layout = recognise(first, wanted, args.source, opened.names)
    if layout.kind in {"question", "caption"}:
        require_known(layout, first, args.source)
    if args.merge_by_image and layout.kind != "question":
        raise UsageError(f"--merge-by-image: {args.source} has no column of questions, its layout is {layout.kind}")
    pictures = ", ".join(layout.images) or "in its turns"
    print(f"layout: {layout.kind} (text {layout.text}, picture {pictures}, answer {layout.answer})")
    return layout
