"""Split records into train, test and more: by picture, never by record, so that no test picture is trained on.

    python -m data_prep split records.json --parts train=0.8 test=0.2 --output-dir data --stratify answer

All records that share a picture (by name; with --images also by bytes) stay together. The same seed and file
give the same parts. `--stratify KEY` keeps the mixture of a key (or of the last answer) in every part.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from data_prep.check.run import check_together, names_of
from data_prep.converters.options import converter_parser, require_folder
from data_prep.errors import DataError, UsageError
from data_prep.numbers import seed
from data_prep.picture_folder import add_images_option
from data_prep.records.names import same_name
from data_prep.records.near_names import DRIVE, near_names
from data_prep.records.output import Converted, Origin, refuse_source, write_output
from data_prep.records.record import Records, read_records
from data_prep.records.usable import usable

EXAMPLES = """  python -m data_prep split records.json --parts train=0.8 test=0.2 --output-dir data
  python -m data_prep split records.json --parts train=0.8 val=0.1 test=0.1 --output-dir data --stratify answer"""


def parse_parts(words: Sequence[str]) -> dict[str, float]:
    """Return part names and shares that add up to 1; raise UsageError with an example when they do not."""
    parts: dict[str, float] = {}
    for word in words:
        name, _, share = word.partition("=")
        try:
            parts[name] = float(share)
        except ValueError:
            raise UsageError(f"--parts {word}: expected NAME=SHARE, for example train=0.8 test=0.2") from None
        if not name or "/" in name or name.endswith(".meta") or not 0 < parts[name] <= 1:
            raise UsageError(f"--parts {word}: a plain name and a share above 0, for example train=0.8 test=0.2")
    if abs(sum(parts.values()) - 1) > 1e-6 or len(parts) != len(words):
        raise UsageError(
            f"--parts {' '.join(words)}: names once each, shares that add up to 1; found {sum(parts.values()):g}"
        )
    return parts


def groups_of(records: Records, same: Mapping[str, str]) -> list[list[int]]:
    """Return the numbers of records that must stay together: those linked by a shared picture, in file order.

    `same` maps a picture's name to the name of an equal one. However a name is spelled (`./a.jpg`, `A.JPG`,
    `/data/a.jpg` beside `a.jpg`), it is one picture. A record without a picture is a group of its own.
    """
    parent: dict[Any, Any] = {}

    def root(key: Any) -> Any:
        while parent.setdefault(key, key) != key:
            parent[key] = key = parent[parent[key]]
        return key

    keys = []
    pictures = _spelled([[same.get(name, name) for name in names] for names in names_of(records)])
    for index in range(len(records)):
        names: list[Any] = list(pictures[index]) or [index]
        for name in names[1:]:
            parent[root(name)] = root(names[0])
        keys.append(names[0])
    grouped: dict[Any, list[int]] = defaultdict(list)
    for index, key in enumerate(keys):
        grouped[root(key)].append(index)
    return list(grouped.values())


def _spelled(names: Sequence[Sequence[str]]) -> list[list[str]]:
    """Return one spelling for each picture; an absolute name is that of a relative one which ends it."""
    spelled = [[DRIVE.sub("", same_name(name)).casefold() for name in some] for some in names]
    relative = {name for some in spelled for name in some if not name.startswith("/")}

    def below(name: str) -> str:
        parts = name.split("/")[1:] if name.startswith("/") else ()
        ends = ("/".join(parts[start:]) for start in range(len(parts)))
        return next((end for end in ends if end in relative), name)

    return [[below(name) for name in some] for some in spelled]


def stratum(record: Mapping[str, Any], key: str | None) -> str:
    """Return the class of a record for stratification: a key's value, or with "answer" its last answer."""
    if key is None:
        return ""
    if key == "answer":
        turns = usable(record).get("conversations") or [{"value": ""}]
        return str(turns[-1]["value"]).strip().lower()
    return str(record.get(key))


def assign(
    groups: Sequence[list[int]], classes: Sequence[str], parts: Mapping[str, float], seed: int
) -> dict[str, set[int]]:
    """Return each part's record numbers; within each class, groups are drawn so that records come near the shares."""
    by_class: dict[str, list[list[int]]] = defaultdict(list)
    for group, name in zip(groups, classes, strict=True):
        by_class[name].append(group)
    chosen: dict[str, set[int]] = {name: set() for name in parts}
    owed = dict.fromkeys(parts, 0.0)  # carried from class to class: small classes round to the shares together
    for name in sorted(by_class):
        drawn = by_class[name]
        random.Random(f"{seed} {name}").shuffle(drawn)
        for group in drawn:
            for part, share in parts.items():
                owed[part] += share * len(group)
            neediest = max(parts, key=lambda part: owed[part])
            owed[neediest] -= len(group)
            chosen[neediest].update(group)
    return chosen


def same_pictures(folder: Path, records: Records) -> dict[str, str]:
    """Return, for each name whose bytes another's file has, the first such; for a name without a file the one meant."""
    from data_prep.check.pictures import repeats
    from data_prep.check.scan import scan

    facts = scan(folder, list(dict.fromkeys(name for some in names_of(records) for name in some)))
    same = {name: first for kind, name, first in repeats(facts) if kind == "same picture twice"}
    meant = near_names(folder, [name for name, found in facts.items() if not found.width])
    return same | {name: same.get(file, file) for name, file in meant.items()}


def check_parts(outputs: Sequence[Path]) -> int:
    """Check every part, and every two for a shared picture; print, and return 1 when training would be wrong."""
    from data_prep.check.report import report_text

    reports = check_together(outputs)
    for report in reports:
        print(report_text(report))
    return int(not all(report.ok for report in reports))


def main(argv: Sequence[str] | None = None) -> int:
    """Write one file for each part and check that none leaks into another."""
    parser = converter_parser("split", "Split records by picture, reproducibly.", EXAMPLES)
    parser.add_argument("records", type=Path, help="records, .json or .jsonl")
    parser.add_argument(
        "--parts", nargs="+", required=True, metavar="NAME=SHARE", help="for example train=0.8 test=0.2"
    )
    parser.add_argument("--output-dir", type=Path, required=True, help="folder for NAME.json (or .jsonl, as the input)")
    add_images_option(parser, "also keep pictures of the same bytes together")
    parser.add_argument(
        "--stratify", metavar="KEY", help="keep the mixture of this key in every part; answer: of answers"
    )
    parser.add_argument("--seed", type=seed, default=0, help="another seed draws another split")
    args = parser.parse_args(argv)
    parts = parse_parts(args.parts)
    records = read_records(args.records)
    if args.image_folder:
        require_folder(args.image_folder)
    groups = groups_of(records, same_pictures(args.image_folder, records) if args.image_folder else {})
    classes = [stratum(records[group[0]], args.stratify) for group in groups]
    chosen = assign(groups, classes, parts, args.seed)
    choices = {"parts": parts, "seed": args.seed, "stratify": args.stratify}
    outputs = [args.output_dir / f"{name}{args.records.suffix.lower()}" for name in parts]
    for name, path in zip(parts, outputs, strict=True):
        refuse_source(path, [args.records])
        if not chosen[name]:
            few = f"{len(records)} records, {len(groups)} when those of one picture stay together"
            needs = f"; {len(parts)} parts need as many pictures: add some, or name fewer parts"
            remedy = needs if len(groups) < len(parts) else "; give it a larger share"
            raise DataError(args.records, f"{few}: none falls to {name}={parts[name]:g}{remedy}")
    for name, path in zip(parts, outputs, strict=True):
        origin = Origin("split", [args.records], args.image_folder, {**choices, "part": name})
        print(f"{path}: {write_output(path, _taken(records, chosen[name]), origin)}")
    return check_parts(outputs)


def _taken(records: Records, numbers: set[int]) -> Iterator[Converted]:
    for index in sorted(numbers):
        yield Converted(records[index])
