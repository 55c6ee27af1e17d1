"""The check that every converter ends with, and its option.

add_check_option(parser); ...; return finish(Path("records.json"), Path("images"), args.check)
"""

from __future__ import annotations

import argparse
from pathlib import Path

CHOICES = ("full", "records", "none")


def add_check_option(parser: argparse.ArgumentParser) -> None:
    """Add `--check full|records|none` to a converter."""
    text = "check the result: with every picture decoded (full), texts and names only (records), or not (none)"
    parser.add_argument("--check", choices=CHOICES, default="full", help=f"{text}; default full")


def finish(records: Path, image_folder: Path | None, depth: str, test: Path | None = None) -> int:
    """Check freshly written records, print the table, and return the exit status: 1 when training would be wrong."""
    if depth == "none":
        return 0
    from data_prep.check.report import report_text
    from data_prep.check.run import check_records

    report = check_records(records, image_folder, test_path=test, decode=depth == "full")
    print(report_text(report))
    return 0 if report.ok else 1
