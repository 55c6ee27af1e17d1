"""Rows that became no record: the first are printed, and more than a share of them is a failure.

say_drops(counts, Path("records.json"))
return loss_status(counts, Path("records.json"), 0.05)      # 1, with one line, where more were dropped
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from data_prep.records.output import Counts, Reason, meta_path

ALLOWED = 0.05
FEW = 10
SHOWN = 3
MEANT = {
    reason.value
    for reason in (
        Reason.NO_CAPTION,
        Reason.SAME,
        Reason.CROWD,
        Reason.RIGHT,
        Reason.NO_FALSE_YES,
        Reason.TESTED_ON,
        Reason.ONE_SIDED,
    )
}
"""Rows left out on purpose: their source tells no caption, the same twice or a crowd, or not what is asked for."""


def add_drops_option(parser: argparse.ArgumentParser) -> None:
    """Add --allow-drops."""
    text = f"share of the rows that may be dropped; more ends with status 1; default {ALLOWED}"
    parser.add_argument("--allow-drops", type=_share, default=ALLOWED, metavar="SHARE", help=text)


def _share(text: str) -> float:
    try:
        share = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise argparse.ArgumentTypeError(f"{text!r}: a share from 0 to 1, for example 0.1")
    return share


def say_drops(counts: Counts, records: Path) -> None:
    """Print the dropped rows: all where they are few, else the first of each reason and where more are listed."""
    number = sum(counts.dropped.values())
    for reason, places in counts.examples.items():
        for place in places if number <= FEW else places[:SHOWN]:
            print(f"  dropped, {reason}: {place}")
    if counts.advice:
        print(f"  {counts.advice}")
    if number > FEW:
        print(
            f"  of each reason the first {max(map(len, counts.examples.values()))} are listed in {meta_path(records)}"
        )


def loss_status(counts: Counts, records: Path, allowed: float) -> int:
    """Return 1, with a line that says so, when a larger share of the rows was dropped than `allowed`; else 0."""
    lost = sum(count for reason, count in counts.dropped.items() if reason not in MEANT)
    if not lost or lost <= allowed * counts.rows_in:
        return 0
    share = lost / counts.rows_in
    first = "; ".join(f"{reason}: {places[0]}" for reason, places in counts.examples.items() if reason not in MEANT)
    print(
        f"error: {records}: {lost} of {counts.rows_in} rows were dropped, more than the {allowed:.0%} allowed (the "
        f"first: {first}); mend them, or accept the loss with --allow-drops {_above(share)}",
        file=sys.stderr,
    )
    return 1


def _above(share: float) -> str:
    """Return a share of two digits that is not below `share`."""
    return f"{min(-(-share * 100 // 1) / 100, 1):.2f}"
