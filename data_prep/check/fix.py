"""Write a new file with what can be mended, and list what was dropped and why.

    python -m data_prep check records.json --image-folder images --fix mended.json

The records file itself is never changed. What was done to which record stands in mended.meta.json.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from data_prep.check.kinds import Severity
from data_prep.check.mend import mend
from data_prep.check.report import Report, report_text
from data_prep.check.run import check_records
from data_prep.errors import DataError, UsageError, printable
from data_prep.files import sha256_of, source_entry, write_json
from data_prep.records.ids import unique_ids
from data_prep.records.output import meta_path
from data_prep.records.record import Record, Records, read_records, write_records

DROPPING = (
    "broken record", "image not a name", "image missing", "image outside the folder", "not a picture",
    "image truncated",
    "image too large", "image unreadable", "record twice", "picture in train and test", "no supervised token",
    "not tokenizable",
)  # fmt: skip
"""Findings whose records are dropped whole; the others are mended where they can be."""


class Fixing:
    """One run over the records: mends, drops, and keeps account of both."""

    def __init__(self, records: Records, report: Report) -> None:
        """Take from the report which records must go."""
        self.records = records
        self.mended: Counter[str] = Counter()
        self.dropped: list[dict[str, Any]] = []
        self.mended_records: list[dict[str, Any]] = []
        self._doomed: dict[int, str] = {}
        for kind in DROPPING:
            for index in report.by_kind[kind].indices if kind in report.by_kind else ():
                self._doomed.setdefault(index, kind)

    def run(self) -> Iterator[Record]:
        """Yield the records that are right, mended or not."""
        for index in range(len(self.records)):
            if reason := self._doomed.get(index):
                self._drop(index, reason)
                continue
            result = mend(self.records[index], index)
            if isinstance(result, str):
                self._drop(index, result)
                continue
            record, done = result
            if done:
                self.mended.update(done)
                self.mended_records.append(self._place(index, record) | {"mended": sorted(done)})
            yield record

    def _drop(self, index: int, reason: str) -> None:
        try:
            record: Mapping[str, Any] = self.records[index]
        except DataError:
            record = {}
        self.dropped.append(self._place(index, record) | {"reason": reason})

    def _place(self, index: int, record: Mapping[str, Any]) -> dict[str, Any]:
        return {"line": self.records.line(index), "record": str(record.get("id", f"number {index + 1}"))}


def fix(path: Path, image_folder: Path | None, report: Report, output: Path, quiet: bool = False) -> int:
    """Write the mended records of `path` to `output`, check them again, and return 1 when something is left.

    Raises UsageError when `output` is the file itself, DataError when no record is left.
    """
    if output.resolve() == path.resolve():
        raise UsageError(f"--fix {output}: is the file itself; name a new one, the original stays as it is")
    work = Fixing(read_records(path), report)
    count = write_records(output, _not_empty(unique_ids(work.run()), path))
    reasons = Counter(entry["reason"] for entry in work.dropped)
    write_json(
        meta_path(output),
        {
            "kind": "check --fix",
            "records": output.name,
            "sha256": sha256_of(output),
            "image_folder": str(image_folder.resolve()) if image_folder else None,
            "sources": [source_entry(path)],
            "counts": {
                "in": len(work.records),
                "records": count,
                "dropped": dict(reasons.most_common()),
                "mended": dict(work.mended.most_common()),
            },
            "dropped": work.dropped,
            "mended": work.mended_records,
        },
    )
    left = check_records(output, image_folder, decode=False)
    if not quiet:
        print(_account(output, len(work.records), count, work, reasons))
        if any(found.kind.severity is Severity.ERROR for found in left.findings):
            print(report_text(left))
    return 0 if left.ok else 1


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
    lines += [
        f'  dropped line {entry["line"]}, record "{printable(entry["record"])}": {entry["reason"]}'
        for entry in work.dropped[:10]
    ]
    if len(work.dropped) > 10:
        lines.append(f"  ... all {len(work.dropped)} are listed in {meta_path(output)}")
    return "\n".join(lines)
