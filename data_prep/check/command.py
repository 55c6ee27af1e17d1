"""The command `check`: a table by kind, `--json`, a page, and `--fix`.

python -m data_prep check records.json --images images --html check.html
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from data_prep.check.fix import ALLOWED_DROPS, fix
from data_prep.check.kinds import KINDS
from data_prep.check.report import report_text
from data_prep.check.run import check_records
from data_prep.command_line import Parser
from data_prep.errors import UsageError
from data_prep.numbers import whole
from data_prep.picture_folder import add_images_option
from data_prep.records.output import refuse_source
from data_prep.records.pixels import add_pixel_option, allow_pixels

EPILOG = """examples:
  python -m data_prep check records.json --images images
  python -m data_prep check records.json --images images --test test.json --html check.html
  python -m data_prep check records.json --images images --model checkpoints/llava-v1.5-7b
  python -m data_prep check records.json --images images --fix mended.json

Exit status: 0 nothing stands in the way of training, 1 training would be wrong, or --fix dropped more than
--allow-drops, 2 wrong use."""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of `check`."""
    parser = Parser(
        prog="python -m data_prep check",
        description="Find what in a records file would make training fail, go wrong, or measure the wrong thing.",
        epilog=EPILOG,
    )
    parser.add_argument("records", type=Path, nargs="?", help="records, .json or .jsonl")
    add_images_option(parser)
    parser.add_argument("--test", type=Path, help="a test file: finds pictures that are in both")
    parser.add_argument("--test-image-folder", type=Path, help="its image folder, when it is another one")
    parser.add_argument("--model", help="count tokens for this model (a folder or a hub name)")
    parser.add_argument("--max-length", type=whole(1), help="context length, in place of the model's own")
    parser.add_argument("--conversation", help="conversation template, in place of the model's own")
    parser.add_argument("--no-decode", action="store_true", help="only see that pictures are there")
    parser.add_argument("--cache-dir", type=Path, help="keep the report here and reuse it while nothing changes")
    parser.add_argument("--workers", type=whole(1, 1024), help="processes that decode (default: one a core)")
    add_pixel_option(parser)
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.add_argument("--places", action="store_true", help="with --json: the numbers of all records of a finding")
    parser.add_argument("--html", type=Path, help="write a page with the pictures of each finding")
    parser.add_argument("--fix", type=Path, metavar="OUTPUT", help="write a new file with what can be mended")
    drops = f"share of records that --fix may drop before the exit status is 1; default {ALLOWED_DROPS}"
    parser.add_argument("--allow-drops", type=float, default=ALLOWED_DROPS, metavar="SHARE", help=drops)
    parser.add_argument("--list", action="store_true", help="print every kind of finding and what --fix does about it")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Check, print, write what was asked for; return 1 when training would be wrong."""
    args = build_parser().parse_args(argv)
    if args.list:
        print(kinds_table())
        return 0
    if args.records is None:
        raise UsageError("check: name a records file, for example: python -m data_prep check records.json")
    for flag, value, least in (("--max-length", args.max_length, 1), ("--workers", args.workers, 1)):
        if value is not None and value < least:
            raise UsageError(f"{flag} {value}: at least {least}")
    if not 0 <= args.allow_drops <= 1:
        raise UsageError(f"--allow-drops {args.allow_drops}: a share from 0 to 1, for example 0.1 for a tenth")
    for flag, folder in (("--images", args.image_folder), ("--test-image-folder", args.test_image_folder)):
        if folder is not None and not folder.is_dir():
            raise UsageError(f"{folder}: no such folder; {flag} is where the pictures are")
    for path in (args.html, args.fix):
        refuse_source(path, [one for one in (args.records, args.test) if one]) if path else None
    allow_pixels(args.max_pixels)
    report = check_records(
        args.records,
        args.image_folder,
        cache_dir=None if args.fix or args.places else args.cache_dir,  # the cache keeps the first places alone
        model=args.model,
        test_path=args.test,
        test_image_folder=args.test_image_folder,
        decode=not args.no_decode,
        max_length=args.max_length,
        template=args.conversation,
        workers=args.workers,
    )
    print(json.dumps(report.as_json(args.places), indent=2) if args.json else report_text(report))
    if args.html:
        from data_prep.check.page import write_check_page

        write_check_page(report, args.html, args.test_image_folder)
    if args.fix:
        return fix(args.records, args.image_folder, report, args.fix, args.json, args.allow_drops)
    return 0 if report.ok else 1


def kinds_table() -> str:
    """Return the table of kinds for the docs, as Markdown."""
    rows = ["| Finding | Severity | Why | What to do | `--fix` |", "|---|---|---|---|---|"]
    for kind in KINDS.values():
        cells = [kind.name, kind.severity.value, kind.why, kind.remedy, kind.fixed or "-"]
        rows.append("| " + " | ".join(cells).replace("<image>", "`<image>`") + " |")
    return "\n".join(rows)
