"""The options that converters share: output, image folder, check, copy.

parser = converter_parser("table", "CSV ... to records", EPILOG); add_output_options(parser)
"""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from data_prep.boxes.scale import Scale
from data_prep.command_line import Parser
from data_prep.converters.drops import add_drops_option, loss_status, say_drops
from data_prep.converters.finish import add_check_option, finish
from data_prep.errors import PictureError, UsageError, quoted
from data_prep.files import copy_file
from data_prep.numbers import whole
from data_prep.picture_folder import add_images_option
from data_prep.records.near_folder import meant
from data_prep.records.near_names import near_names
from data_prep.records.output import REASON_OF_FAULT, Converted, Drop, Origin, Reason, write_output
from data_prep.records.picture import resolve_image
from data_prep.records.record import images_of

SHORT_ANSWER = "Answer the question using a single word or phrase."
"""The prompt suffix that LLaVA-1.5 was trained with for short answers (Liu et al., 2023, section 3.2)."""


PLACE = re.compile(r"\{0?(?::[^{}]{0,8})?\}")
"""Where a number goes in a pattern of names: `{}`, `{:012d}`."""


def converter_parser(kind: str, description: str, examples: str) -> argparse.ArgumentParser:
    """Return a parser with the name and the examples of a converter."""
    epilog = f"{'example' if len(examples.splitlines()) == 1 else 'examples'}:\n{examples}"
    return Parser(prog=f"python -m data_prep {kind}", description=description, epilog=epilog)


def add_output_options(parser: argparse.ArgumentParser, pictures: bool = True) -> None:
    """Add --output and --check; with `pictures` also --images and --copy, for pictures already on disk."""
    parser.add_argument("--output", type=Path, required=True, help="records to write, .json or .jsonl")
    if pictures:
        add_images_option(parser, "the folder with the pictures", required=True)
        parser.add_argument("--copy", type=Path, metavar="FOLDER", help="copy the pictures here, bytes as they are")
    add_drops_option(parser)
    add_check_option(parser)


def add_scale_option(parser: argparse.ArgumentParser, default: Scale | None = Scale.NORMALISED) -> None:
    """Add --to and --decimals."""
    meaning = "shares of the picture, of the padded square (LLaVA-1.5's own), thousandths (Qwen), or pixels"
    text = f"{meaning}; default {default.value}" if default else meaning
    parser.add_argument(
        "--to", choices=[one.value for one in Scale], default=default.value if default else None,
        required=default is None, help=text,
    )  # fmt: skip
    parser.add_argument("--decimals", type=whole(1, 6), default=3, help="of shares; LLaVA-1.5's have 2; default 3")


def count(text: str) -> int:
    """Return a number of rows given on the command line; argparse says what is wrong with another."""
    if not text.isdecimal() or len(text) > 15 or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: a whole number from 1")
    return int(text)


def write_and_check(args: argparse.Namespace, items: Iterable[Converted | Drop], origin: Origin) -> int:
    """Write the records with their meta file, print the counts and what was dropped, check the result.

    Returns the exit status: 1 when training would be wrong, or more rows were dropped than --allow-drops says.
    """
    folder = origin.image_folder
    if copy_to := getattr(args, "copy", None):
        assert folder is not None
        items = copied(items, folder, copy_to)
        origin = Origin(origin.kind, origin.sources, copy_to, origin.choices)
    counts = write_output(args.output, items, origin)
    print(f"{args.output}: {counts}")
    say_drops(counts, args.output)
    status = finish(args.output, origin.image_folder, args.check)
    return max(status, loss_status(counts, args.output, args.allow_drops))


def copied(items: Iterable[Converted | Drop], source: Path, target: Path) -> Iterator[Converted | Drop]:
    """Yield the items, the pictures of every record copied from `source` to `target` under the same names."""
    for item in items:
        if isinstance(item, Converted):
            for name in images_of(item.record):
                copy_file(resolve_image(source, name), target / name)
        yield item


def require_folder(folder: Path) -> None:
    """Raise UsageError when the image folder is not there."""
    if folder.is_file():
        raise UsageError(f"{folder}: a file, expected the folder with the pictures; an archive is unpacked first")
    if not folder.is_dir():
        raise UsageError(f"{folder}: no such folder; {meant(folder, '--images is where the pictures are')}")


def require_place(image_name: str) -> None:
    """Raise UsageError where a pattern of pictures' names has no place for the number: all would be one picture."""
    plain = image_name.replace("{{", "").replace("}}", "")
    has_place = _tells_apart(image_name, 1, 2) or _tells_apart(image_name, "a", "b")  # ids are numbers or texts
    if not has_place or {"{", "}"} & set(PLACE.sub("", plain)):
        raise UsageError(
            f"--image-name {image_name!r}: write {{}} where the picture's number goes, as in 'VG/{{}}.jpg'"
        )


def _tells_apart(pattern: str, one: int | str, other: int | str) -> bool:
    try:
        return pattern.format(one) != pattern.format(other)
    except (ValueError, LookupError, AttributeError, TypeError):
        return False


def picture_problem(folder: Path, name: str) -> Reason | None:
    """Return why picture `name` cannot be named in a record (not there, outside the folder), or None."""
    try:
        path = resolve_image(folder, name)
    except PictureError as error:
        return REASON_OF_FAULT[error.fault]
    return None if os.path.isfile(path) else Reason.IMAGE_MISSING  # noqa: PTH113  (strings: once a row)


def files_meant(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """Return the file that fits each name without a picture, where there is just one, and say how many they are.

    With all names at hand a path of another machine can be followed to its file.
    """
    near = near_names(folder, [name for name in names if picture_problem(folder, name)])
    for name, file in sorted(near.items())[:1]:
        many = f"{len(near):,} names are read as the files that fit them, the first"
        said = many if len(near) > 1 else "1 name is read as the file that fits it"
        print(f"{said}: {quoted(name)} -> {quoted(file)}")
    return near


def with_suffix(question: str, suffix: str) -> str:
    """Return the question with a prompt suffix on a line of its own, as LLaVA-1.5's data has it."""
    return f"{question}\n{suffix}" if suffix else question
