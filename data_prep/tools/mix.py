"""Mix several records files with weights: your own data with general instruction data, against forgetting.

    python -m data_prep mix own.json=1 llava_instruct.json=0.1 --output mixed.jsonl --images data

A weight says how often a file goes in: 1 whole, 0.1 a tenth of its records drawn, 2.5 twice and half of them again. The
seed decides the draw and the order. `--prefix` puts each file's image folder before its picture names, so that one
--images, their common parent, serves all.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from data_prep.converters.finish import add_check_option, finish
from data_prep.converters.options import converter_parser, require_folder
from data_prep.errors import UsageError
from data_prep.numbers import seed
from data_prep.picture_folder import add_images_option
from data_prep.records.output import Converted, Origin, write_output
from data_prep.records.record import Record, Records, images_of, read_records

EXAMPLES = """  python -m data_prep mix own.json=1 general.json=0.1 --output mixed.jsonl --images data
  python -m data_prep mix own.json coco.json=0.5 --prefix photos coco --images data --output mixed.json"""


MOST_RECORDS = 100_000_000
"""Of a mixture: the order of so many takes some ten gigabytes of memory."""


class Part(NamedTuple):
    """One file of a mixture: its records, its weight, and what goes before its picture names."""

    path: Path
    weight: float
    prefix: str
    records: Records


def parse_part(word: str, prefix: str) -> Part:
    """Return the part that FILE=WEIGHT names; raise UsageError with an example when it does not."""
    name, _, weight = word.rpartition("=")
    try:
        value = float(weight)
    except ValueError:
        name, value = word, 1.0
    if not name or not 0 < value < 1e6:
        raise UsageError(f"{word}: expected FILE=WEIGHT with a weight above 0, for example own.json=1 general.json=0.1")
    return Part(Path(name), value, prefix.strip("/"), read_records(name))


def drawn(part: Part, seed: int) -> list[int]:
    """Return the record numbers a part gives: whole copies, then a draw without repeats for the fraction."""
    count = len(part.records)
    whole, fraction = divmod(part.weight, 1)
    numbers = list(range(count)) * int(whole)
    rest = random.Random(f"{seed} {part.path.name}").sample(range(count), round(fraction * count))
    return numbers + sorted(rest)


def mixed(parts: Sequence[Part], seed: int, shuffle: bool) -> Iterator[Converted]:
    """Yield the records of all parts, shuffled; memory is about 100 bytes a record."""
    order = [(place, number) for place, part in enumerate(parts) for number in drawn(part, seed)]
    if shuffle:
        random.Random(seed).shuffle(order)
    for place, number in order:
        yield Converted(_renamed(parts[place].records[number], parts[place]))


def _renamed(record: Record, part: Part) -> Record:
    if not part.prefix or not images_of(record):
        return record
    names = [f"{part.prefix}/{name}" for name in images_of(record)]
    return {**record, "image": names if isinstance(record["image"], list) else names[0]}


def main(argv: Sequence[str] | None = None) -> int:
    """Mix and check."""
    parser = converter_parser("mix", "Mix several records files with weights, reproducibly.", EXAMPLES)
    parser.add_argument("parts", nargs="+", metavar="FILE=WEIGHT", help="records files; a weight of 1 takes all")
    parser.add_argument("--output", type=Path, required=True, help="records to write, .json or .jsonl")
    parser.add_argument(
        "--prefix", nargs="+", default=[], help="folder before the picture names of each file, in order"
    )
    add_images_option(parser, "the folder that all names are relative to, for the check")
    parser.add_argument("--seed", type=seed, default=0, help="seed of the draw and the order")
    parser.add_argument("--no-shuffle", action="store_true", help="one file after the other")
    add_check_option(parser)
    args = parser.parse_args(argv)
    if args.prefix and len(args.prefix) != len(args.parts):
        raise UsageError(
            f"--prefix: {len(args.prefix)} folders for {len(args.parts)} files; give one for each, . for none"
        )
    if args.image_folder:
        require_folder(args.image_folder)
    prefixes = ["" if prefix == "." else prefix for prefix in args.prefix] or [""] * len(args.parts)
    parts = [parse_part(word, prefix) for word, prefix in zip(args.parts, prefixes, strict=True)]
    if (wanted := sum(part.weight * len(part.records) for part in parts)) > MOST_RECORDS:
        most = f"at most {MOST_RECORDS:,} are mixed"
        raise UsageError(f"{wanted:,.0f} records are asked for, {most}; give smaller weights")
    choices = {"weights": {str(part.path): part.weight for part in parts}, "seed": args.seed}
    origin = Origin("mix", [part.path for part in parts], args.image_folder, choices)
    print(f"{args.output}: {write_output(args.output, mixed(parts, args.seed, not args.no_shuffle), origin)}")
    for part in parts:
        print(f"  {part.path}: {len(drawn(part, args.seed))} of {len(part.records)} records")
    return finish(args.output, args.image_folder, args.check)
