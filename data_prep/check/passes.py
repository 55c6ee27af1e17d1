"""The pass over all records: texts, ids, repeats, answers, and which picture is named where.

seen = RecordPass(report); seen.run(records); seen.pictures["a.jpg"]     # numbers of the records that name it
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from data_prep.check.boxes import Boxed, boxes_of
from data_prep.check.report import Example, Report
from data_prep.check.texts import faults, images_under_wrong_key
from data_prep.errors import DataError, quoted
from data_prep.progress import Progress
from data_prep.records.names import LONGEST_NAME, same_name
from data_prep.records.record import Record, Records, images_of

MAX_DISTINCT = 200_000
NUM_COMMON = 20


class RecordPass:
    """Collects what one pass over the records shows; findings go straight into the report."""

    def __init__(self, report: Report) -> None:
        """Keep the report to write to."""
        self.report = report
        self.pictures: dict[str, list[int]] = {}
        self.boxes: list[Boxed] = []
        self._ids: dict[int, int] = {}
        self._bodies: dict[int, int] = {}
        self._answers: Counter[str] = Counter()
        self._num_answers = 0
        self._turns: Counter[int] = Counter()

    def run(self, records: Records) -> None:
        """Look at every record, then at the file as a whole."""
        self.report.num_records = len(records)
        with Progress("checking records", len(records), "records") as progress:
            for index in progress.each(range(len(records))):
                try:
                    record = records[index]
                except DataError as error:
                    place = Example(records.line(index), index, f"number {index + 1}", error.problem)
                    self.report.add("broken record", place)
                    continue
                self._look_at(record, index, records.line(index))
        self._look_at_all()

    def _look_at(self, record: Record, index: int, line: int) -> None:
        name = str(record.get("id", f"number {index + 1}"))
        found = list(faults(record))
        for fault in found:
            self.report.add(fault.kind, Example(line, index, name, fault.detail, _first_image(record)))
        kinds = {fault.kind for fault in found}
        if "image not a name" not in kinds:
            names = images_of(record) or images_under_wrong_key(record)
            for picture in names:
                self.pictures.setdefault(picture, []).append(index)
            if not names and "image" not in record and "wrong image key" not in kinds:
                self.report.add("no picture", Example(line, index, name, "text only"))
        if boxes := boxes_of(record):
            place = Example(line, index, name, "", _first_image(record))
            self.boxes.append(Boxed(place, *boxes))
        self._look_for_repeats(record, index, line, name)
        self._count_answers(record)

    def _look_for_repeats(self, record: Record, index: int, line: int, name: str) -> None:
        if "id" not in record:
            self.report.add("no id", Example(line, index, name, 'no "id"'))
        elif (first := self._ids.setdefault(hash(name), index)) != index:
            self.report.add("id twice", Example(line, index, name, f"record {first + 1} has the same id"))
        said = [record.get(key) for key in ("conversations", "chosen", "rejected")]  # a question has many pairs
        body = hash((_spelled(record.get("image")), repr(said)))
        if (first := self._bodies.setdefault(body, index)) != index:
            detail = f"record {first + 1} has the same picture and text"
            self.report.add("record twice", Example(line, index, name, detail, _first_image(record)))

    def _count_answers(self, record: Record) -> None:
        turns = record.get("conversations")
        turns = turns if isinstance(turns, list) else []
        self._turns[len(turns)] += 1
        for turn in turns:
            if isinstance(turn, dict) and turn.get("from") == "gpt" and isinstance(turn.get("value"), str):
                self._num_answers += 1
                answer = turn["value"].strip()[:200]
                if answer in self._answers or len(self._answers) < MAX_DISTINCT:
                    self._answers[answer] += 1

    def _look_at_all(self) -> None:
        if not self.report.num_records:
            self.report.add("no records", Example(0, 0, "", "the file has no record"))
        common = self._answers.most_common(NUM_COMMON)
        shares = [(answer, count / self._num_answers) for answer, count in common]
        self.report.statistics["answers"] = {
            "count": self._num_answers,
            "distinct": len(self._answers),
            "most_common": [[answer, round(share, 6)] for answer, share in shares],
        }
        self.report.statistics["turns"] = {str(turns): count for turns, count in sorted(self._turns.items())}
        if self._num_answers > 1 and len(self._answers) == 1:
            detail = f"all {self._num_answers} answers are {quoted(common[0][0])}"
            self.report.add("one answer only", Example(0, 0, "", detail))
        elif self._num_answers > 20 and shares and shares[0][1] > 0.5:
            share = f"{quoted(shares[0][0])} is {shares[0][1]:.0%} of {self._num_answers} answers"
            self.report.add("one answer rules", Example(0, 0, "", share))


def _spelled(image: Any) -> str:
    """Return what is named as picture in one spelling."""
    names = image if isinstance(image, list) else [image]
    return repr([same_name(name) if isinstance(name, str) else name for name in names])


def _first_image(record: Record) -> str | None:
    value: Any = record.get("image")
    value = value[0] if isinstance(value, list) and value else value
    return value if isinstance(value, str) and len(value) <= LONGEST_NAME else None
