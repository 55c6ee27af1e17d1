"""Write the CSV of captions to fill in: one row for each picture of a folder, one file for train and one for test.

    python -m data_prep captions-template photos --train train.csv --test test.csv --test-share 0.2

Which picture goes to test depends on its name and the seed alone, so pictures added later do not move the others. A
folder `test` inside the pictures' folder decides instead, when there is one. Captions already filled in are kept.
"""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Sequence
from pathlib import Path

from data_prep.converters.delimited import delimited_cells
from data_prep.converters.folder import pictures_below
from data_prep.converters.options import converter_parser
from data_prep.errors import DataError, UsageError, printable, quoted
from data_prep.files import write_text
from data_prep.numbers import real, seed

EXAMPLES = "  python -m data_prep captions-template photos --train train.csv --test test.csv"
HEADER = ("image", "caption")


def is_test(name: str, share: float, seed: int) -> bool:
    """Say whether a picture goes to the test file: for `share` of all names, whatever other pictures there are."""
    digest = hashlib.sha256(f"{seed} {name}".encode()).digest()
    return int.from_bytes(digest[:8], "big") < share * 2**64


def filled_in(path: Path, encoding: str | None = None) -> dict[str, str]:
    """Return the captions of an earlier template by picture name; none when the file is not there."""
    if not path.exists() or (path.is_file() and not path.stat().st_size):
        return {}
    (_, names), *lines = delimited_cells(path, None, encoding)
    filled = {place for _, cells in lines for place, cell in enumerate(cells) if cell.strip()}
    own = [names.index(name) for name in HEADER if names.count(name) == 1]
    if len(own) < len(HEADER) or filled - set(own):  # Excel saves columns without a name and a value, too
        problem = "exists and is no caption template: its columns are not image and caption alone"
        raise DataError(path, f"{problem}, and others would be lost; choose another name")
    rows = [(place, *(cells[at] if at < len(cells) else "" for at in own)) for place, cells in lines]
    captions: dict[str, str] = {}
    for place, image, caption in rows:
        add_caption(captions, image, caption, f"{path}: {place}")
    return captions


def add_caption(captions: dict[str, str], image: str, caption: str, where: object) -> None:
    """Add a row's caption, if it has one; raise DataError, naming `where`, for a second one: one would be lost."""
    known = captions.get(image, "")
    if known.strip() and caption.strip() not in {"", known.strip()}:
        problem = f"a second caption of {printable(image)}, {quoted(caption)} after {quoted(known)}"
        raise DataError(where, f"{problem}; keep one of the two rows")
    captions[image] = known if known.strip() else caption


def write_template(path: Path, names: Sequence[str], captions: dict[str, str]) -> None:
    """Write a CSV with one row for each picture; Excel opens it as UTF-8 because it begins with a BOM."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(HEADER)
    writer.writerows((name, captions.get(name, "")) for name in names)
    write_text(path, "\ufeff" + text.getvalue())


def main(argv: Sequence[str] | None = None) -> int:
    """Write the templates."""
    parser = converter_parser("captions-template", "Write the CSV of captions to fill in.", EXAMPLES)
    parser.add_argument("image_folder", type=Path, help="the folder with the pictures")
    parser.add_argument("--train", type=Path, required=True, help="CSV to write")
    parser.add_argument("--test", type=Path, help="CSV to write for the test pictures")
    parser.add_argument("--test-share", type=real(0, 1), default=0.2, help="share of pictures in --test; default 0.2")
    parser.add_argument("--seed", type=seed, default=0, help="another seed draws other test pictures")
    parser.add_argument("--encoding", help="of captions filled in already, where they are not UTF-8")
    args = parser.parse_args(argv)
    if not 0 <= args.test_share < 1:
        raise UsageError(f"--test-share {args.test_share}: a share from 0 to below 1, for example 0.2")
    names = pictures_below(args.image_folder)
    by_folder = any(name.startswith("test/") for name in names)
    chosen = {
        name for name in names
        if args.test and (name.startswith("test/") if by_folder else is_test(name, args.test_share, args.seed))
    }  # fmt: skip
    known = filled_in(args.train, args.encoding)
    for name, caption in (filled_in(args.test, args.encoding) if args.test else {}).items():
        add_caption(known, name, caption, args.test)
    there = set(names)
    if gone := {name: caption for name, caption in known.items() if caption and name not in there}:
        first = next(iter(gone))
        problem = f"no such picture, and its caption would be lost ({quoted(gone[first])}), the first of {len(gone)}"
        raise DataError(first, f"{problem}; put the picture back, or take its row out of the table")
    for path, kept in ((args.train, [name for name in names if name not in chosen]), (args.test, sorted(chosen))):
        if path is None:
            continue
        write_template(path, kept, known)
        done = sum(bool(known.get(name)) for name in kept)
        print(f"{path}: {len(kept)} pictures, {done} with a caption; fill in the column caption")
    return 0
