"""Write a new file with what can be mended, and list what was dropped and why.

    python -m data_prep check records.json --images images --fix mended.json

The records file itself is never changed. What was done to which record stands in mended.meta.json.
"""

from __future__ import annotations

import math
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from data_prep.check.kinds import Severity
from data_prep.check.mend import mend
from data_prep.check.report import NUM_EXAMPLES, Report, report_text
from data_prep.check.run import check_records
from data_prep.check.texts import images_under_wrong_key
from data_prep.errors import DataError, PictureFault, printable, shortened
from data_prep.files import sha256_of, source_entry, write_json
from data_prep.records.ids import unique_ids
from data_prep.records.output import meta_path
from data_prep.records.record import Record, Records, images_of, read_records, write_records

DROPPING = (
    "broken record", "image not a name", "image missing", "image outside the folder", "not a picture",
    "image truncated",
    "image too large", "image unreadable", "record twice", "picture in train and test", "no supervised token",
    "not tokenizable",
)  # fmt: skip
"""Findings whose records are dropped whole; the others are mended where they can be."""

NAMELESS = {PictureFault.MISSING.value, PictureFault.OUTSIDE.value}
"""Findings whose records stay where a file is found that is meant."""

ALLOWED_DROPS = 0.05
"""The share of records that may be dropped before the exit status says so."""


class Fixing:
    """One run over the records: mends, drops, and keeps account of both."""

    def __init__(self, records: Records, report: Report) -> None:
        """Take from the report which records must go."""
        self.records = records
        self.mended: Counter[str] = Counter()
        self.dropped: list[dict[str, Any]] = []
        self.mended_records: list[dict[str, Any]] = []
        self._renames = report.renames
        self._doomed: dict[int, str] = {}
        for kind in DROPPING:
            for index in report.by_kind[kind].indices if kind in report.by_kind else ():
                if kind not in NAMELESS or self._names(index) & report.lost:
                    self._doomed.setdefault(index, kind)

    def run(self) -> Iterator[Record]:
        """Yield the records that are right, mended or not."""
        for index in range(len(self.records)):
            if reason := self._doomed.get(index):
                self._drop(index, reason)
                continue
            result = mend(self.records[index], index, self._renames)
            if isinstance(result, str):
                self._drop(index, result)
                continue
            record, done = result
            if done:
                self.mended.update(done)
                self.mended_records.append(self._place(index, record) | {"mended": sorted(done)})
            yield record

    def examples(self) -> list[dict[str, Any]]:
        """Return the first dropped records, some of each reason, in the order of the file."""
        seen: Counter[str] = Counter()
        shown = []
        for entry in self.dropped:
            seen[entry["reason"]] += 1
            if seen[entry["reason"]] <= NUM_EXAMPLES:
                shown.append(entry)
        return shown

    def _drop(self, index: int, reason: str) -> None:
        try:
            record: Mapping[str, Any] = self.records[index]
        except DataError:
            record = {}
        self.dropped.append(self._place(index, record) | {"reason": reason})

    def _names(self, index: int) -> set[str]:
        record = self.records[index]
        return {*(images_of(record) or images_under_wrong_key(record))}

    def _place(self, index: int, record: Mapping[str, Any]) -> dict[str, Any]:
        return {"line": self.records.line(index), "record": str(record.get("id", f"number {index + 1}"))}


def fix(
    path: Path,
    image_folder: Path | None,
    report: Report,
    output: Path,
    quiet: bool = False,
    allowed_drops: float = ALLOWED_DROPS,
) -> int:
    """Write the mended records of `path` to `output` and check them; return 1 when something is wrong or much is lost.

    `allowed_drops` is the share of records (0 to 1) that may be dropped. Raises DataError when no record is left.
    """
    work = Fixing(read_records(path), report)
    count = write_records(output, _not_empty(unique_ids(work.run()), path))
    reasons = Counter(entry["reason"] for entry in work.dropped)
    _write_meta(path, image_folder, output, work, {"in": len(work.records), "records": count}, reasons)
    left = check_records(output, image_folder, decode=False)
    if not quiet:
        print(_account(output, len(work.records), count, work, reasons))
        if any(found.kind.severity is Severity.ERROR for found in left.findings):
            print(report_text(left))
    share = len(work.dropped) / len(work.records)
    if share > allowed_drops:
        advice = f"look at why, then accept it with --allow-drops {math.ceil(100 * share) / 100:g}"
        lost = f"{len(work.dropped)} of {len(work.records)} records are dropped"
        print(f"{output}: {lost}, more than {allowed_drops:.0%}; {advice}", file=sys.stderr)
        return 1
    return 0 if left.ok else 1


def _write_meta(
    path: Path, image_folder: Path | None, output: Path, work: Fixing, counts: dict[str, object], reasons: Counter[str]
) -> None:
    counts |= {"dropped": dict(reasons.most_common()), "mended": dict(work.mended.most_common())}
    write_json(
        meta_path(output),
        {
            "kind": "check --fix",
            "records": output.name,
            "sha256": sha256_of(output),
            "image_folder": str(image_folder.resolve()) if image_folder else None,
            "sources": [source_entry(path)],
            "counts": counts,
            "dropped": work.dropped,
            "mended": work.mended_records,
        },
    )


def _not_empty(records: Iterator[Record], path: Path) -> Iterator[Record]:
    count = 0
    for count, record in enumerate(records, 1):  # noqa: B007
        yield record
    if not count:
        raise DataError(path, "no record could be mended, so nothing was written; see the findings above")


def _account(output: Path, total: int, count: int, work: Fixing, reasons: Counter[str]) -> str:
    mended = ", ".join(f"{kind} {number}" for kind, number in work.mended.most_common())
    dropped = ", ".join(f"{kind} {number}" for kind, number in reasons.most_common())
    lines = [
        f"{output}: {total} in, {count} out, {len(work.mended_records)} mended{f' ({mended})' if mended else ''}, "
        f"{len(work.dropped)} dropped{f' ({dropped})' if dropped else ''}"
    ]
    shown = work.examples()
    lines += [
        f'  dropped line {entry["line"]}, record "{shortened(printable(entry["record"]))}": {entry["reason"]}'
        for entry in shown
    ]
    if len(work.dropped) > len(shown):
        lines.append(f"  ... all {len(work.dropped)} are listed in {meta_path(output)}")
    return "\n".join(lines)
