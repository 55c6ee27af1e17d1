"""What a check found, as values: kinds with counts and first examples; as JSON and as a table.

report.ok; report.findings[0].examples[0].record     # first bad record's id
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from data_prep.check.kinds import KINDS, Kind, Severity
from data_prep.errors import printable, quoted, shortened

NUM_EXAMPLES = 5
ORDER = {Severity.ERROR: 0, Severity.WARNING: 1, Severity.NOTE: 2}


@dataclass(frozen=True)
class Example:
    """One place: line in the file (from 1; 0: the whole file), number of the record (from 0), its id, what is there."""

    line: int
    index: int
    record: str
    detail: str
    image: str | None = None
    other_image: str | None = None


@dataclass
class Finding:
    """All places of one kind: how many, the first of them, and (not in the JSON) the numbers of all records.

    A picture that several records name is one example and a place in each of them; `distinct` counts it once.
    """

    kind: Kind
    count: int = 0
    examples: list[Example] = field(default_factory=list)
    indices: list[int] = field(default_factory=list)
    distinct: int = 0

    def add(self, example: Example, others: Sequence[int] = ()) -> None:
        """Count a place, and those of the `others`, records with the same picture, keeping the first few in full."""
        self.count += 1 + len(others)
        self.distinct += 1
        self.indices += [example.index, *others]
        if len(self.examples) < NUM_EXAMPLES:
            shared = f" (in {1 + len(others)} records)" if others else ""
            self.examples.append(replace(example, detail=f"{example.detail}{shared}") if others else example)


@dataclass
class Report:
    """The result of a check; `ok` is False when training would fail or go wrong.

    `statistics` holds turns, answers, pictures and (with a model) tokens, as plain numbers; and, not in the
    JSON: `renames`, what --fix takes for the names of pictures that are not there, and `lost`, those that nothing fits.
    """

    path: str
    image_folder: str | None
    num_records: int = 0
    num_pictures: int = 0
    decoded: bool = False
    seconds: float = 0.0
    from_cache: bool = False
    by_kind: dict[str, Finding] = field(default_factory=dict)
    renames: dict[str, str] = field(default_factory=dict)
    lost: set[str] = field(default_factory=set)
    statistics: dict[str, Any] = field(default_factory=dict)

    @property
    def findings(self) -> list[Finding]:
        """The findings, errors first, then by count."""
        return sorted(self.by_kind.values(), key=lambda found: (ORDER[found.kind.severity], -found.count))

    @property
    def ok(self) -> bool:
        return not any(found.kind.severity is Severity.ERROR for found in self.by_kind.values())

    def add(self, kind: str, example: Example, others: Sequence[int] = ()) -> None:
        """Count a place of `kind`, one of KINDS; `others` are further records with the same picture."""
        self.by_kind.setdefault(kind, Finding(KINDS[kind])).add(example, others)

    @property
    def pictures_told(self) -> str:
        """How many pictures there are, and whether they were decoded: `6 pictures decoded`, `2 of 6 ...`, `named`."""
        if not self.decoded or self.image_folder is None:
            return f"{self.num_pictures:,} pictures named"
        good = self.statistics.get("pictures", {}).get("good", 0)
        return (
            f"{good:,} of {self.num_pictures:,} pictures decoded"
            if good < self.num_pictures
            else f"{good:,} pictures decoded"
        )

    def as_json(self, places: bool = False) -> dict[str, Any]:
        """Return the report as plain values, `from_json`'s counterpart; `places`: with the numbers of all records."""
        return {
            "ok": self.ok,
            "path": self.path,
            "image_folder": self.image_folder,
            "records": self.num_records,
            "pictures": self.num_pictures,
            "decoded": self.decoded,
            "seconds": round(self.seconds, 3),
            "findings": [
                {
                    "kind": found.kind.name,
                    "severity": found.kind.severity.value,
                    "count": found.count,
                    "distinct": found.distinct,
                    "why": found.kind.why,
                    "remedy": found.kind.remedy,
                    "examples": [asdict(example) for example in found.examples],
                    **({"indices": found.indices} if places else {}),
                }
                for found in self.findings
            ],
            "statistics": self.statistics,
        }


def from_json(value: dict[str, Any]) -> Report:
    """Return the report that `as_json` wrote; the numbers of all records of a finding are not kept."""
    report = Report(value["path"], value["image_folder"], value["records"], value["pictures"], value["decoded"])
    report.seconds, report.statistics = value["seconds"], value["statistics"]
    for found in value["findings"]:
        examples = [Example(**example) for example in found["examples"]]
        report.by_kind[found["kind"]] = Finding(
            KINDS[found["kind"]], found["count"], examples, distinct=found["distinct"]
        )
    return report


def report_text(report: Report, num_examples: int = 3) -> str:
    """Return the report as a table by kind with its first examples, and a last line that says what it means."""
    origin = "from the cache" if report.from_cache else f"{report.seconds:.1f} s"
    lines = [f"check {printable(report.path)}: {report.num_records} records, {report.pictures_told}, {origin}"]
    for found in report.findings:
        lines.append(f"  {found.kind.severity.value:<8} {found.count:>7}  {found.kind.name}: {found.kind.why}")
        shown = found.examples[:num_examples]
        lines += [f"{'':19}{_place(example)}" for example in shown]
        if found.distinct > len(shown):
            lines.append(f"{'':19}... the first {len(shown)} of {found.distinct}")
        if found.kind.severity is not Severity.NOTE:
            lines.append(f"{'':19}-> {found.kind.remedy}")
    lines += [f"  {line}" for line in _statistics(report.statistics)]
    lines.append("  " + ("ok: nothing stands in the way of training" if report.ok else _verdict(report)))
    return "\n".join(lines)


def _place(example: Example) -> str:
    if not example.line:
        return example.detail
    return f'line {example.line}, record "{shortened(printable(example.record))}": {example.detail}'


def _statistics(statistics: dict[str, Any]) -> list[str]:
    lines = []
    if answers := statistics.get("answers"):
        top = ", ".join(f"{quoted(printable(text), 40)} {share:.0%}" for text, share in answers["most_common"][:5])
        lines.append(f"answers: {answers['count']}, {answers['distinct']} distinct; {top}")
    if tokens := statistics.get("tokens"):
        lines.append(
            f"tokens: {tokens['mean']:.0f} a record on average, {tokens['max']} at most, "
            f"{tokens['image_tokens']} of a picture; context {tokens['context']}"
        )
    return lines


def _verdict(report: Report) -> str:
    bad = [found for found in report.findings if found.kind.severity is Severity.ERROR]
    fixable = any(found.kind.fixed for found in bad)
    advice = f"; this writes a file with what can be mended: {_fix_command(report)}" if fixable else ""
    count = sum(found.count for found in bad)
    errors = f"{count} error{'s' if count != 1 else ''} of {len(bad)} kind{'s' if len(bad) != 1 else ''}"
    return f"training would be wrong: {errors}{advice}"


def _fix_command(report: Report) -> str:
    path = Path(report.path)
    folder = ["--images", report.image_folder] if report.image_folder else []
    mended = path.with_name(f"{path.stem}-mended{path.suffix}")
    return shlex.join(["python", "-m", "data_prep", "check", str(path), *folder, "--fix", str(mended)])
