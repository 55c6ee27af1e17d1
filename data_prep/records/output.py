"""What every converter ends with: records, their `.meta.json`, and one line that counts everything.

A converter yields `Converted` and `Drop`; each stands for a number of source rows, so that rows in = rows converted +
rows dropped whatever is merged or multiplied:

    counts = write_output(Path("records.json"), items, Origin("okvqa", sources=[...], image_folder=Path("coco")))
    print(counts)        # 9009 in, 9004 converted to 9004 records, 5 dropped (image missing 5)
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

from data_prep.errors import DataError, PictureFault, UsageError, printable
from data_prep.files import hashing, sha256_of, write_json
from data_prep.records.ids import unique_ids
from data_prep.records.near_folder import folder_with, images_flag
from data_prep.records.record import Record, write_records

NUM_EXAMPLES = 100


class Reason(Enum):
    """Why a source row became no record: a closed list."""

    IMAGE_MISSING = PictureFault.MISSING.value
    IMAGE_OUTSIDE = PictureFault.OUTSIDE.value
    IMAGE_UNREADABLE = PictureFault.UNREADABLE.value
    NO_IMAGE = "no image named"
    NO_QUESTION = "empty question"
    NO_ANSWER = "empty answer"
    NO_CAPTION = "colour and shape not both told"
    NO_ANNOTATION = "question without annotation"
    BAD_TURNS = "turns not mendable"
    NOT_TEXT = "not a text"
    NOT_SEEN = "video or sound"
    INVALID_ANSWER = "generated text not valid"
    NOT_ANSWERED = "no answer from the endpoint"
    SAME = "same as an earlier row"
    BAD_BOX = "box not readable"
    NO_LABEL = "object without a name"
    CROWD = "a crowd, not one object"
    TOO_MANY = "too many boxes of one name"
    YES_NO = "yes or no already"
    NOTHING_NAMED = "no short answer and no thing named"
    NO_OTHER_ANSWER = "no other answer that is surely false"
    SEVERAL_IMAGES = "several pictures"
    TRAINED_ON = "picture of the training records"
    TESTED_ON = "picture of the test records"
    RIGHT = "right already"
    NO_FALSE_YES = "no false yes"
    CUT_OFF = "answer cut off"
    SAME_ANSWERS = "chosen is rejected"
    NO_PAIR = "no two answers"
    ONE_SIDED = "more pairs this way round than the other"
    ENOUGH = "enough questions on its picture"


REASON_OF_FAULT = {
    PictureFault.MISSING: Reason.IMAGE_MISSING,
    PictureFault.OUTSIDE: Reason.IMAGE_OUTSIDE,
}


@dataclass(frozen=True)
class Converted:
    """A record and the number of source rows it stands for (0 for a second record of the same row)."""

    record: Record
    rows: int = 1


@dataclass(frozen=True)
class Drop:
    """A source row that became no record: why, which one (as its file, line or id), the picture that is not there."""

    reason: Reason
    where: str
    rows: int = 1
    picture: str | None = None


@dataclass
class Counts:
    """How many rows came in, became records, and were dropped, with the first examples of each reason.

    `missing`: the first pictures that are not there.
    """

    rows_in: int = 0
    records: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)

    @property
    def rows_converted(self) -> int:
        return self.rows_in - sum(self.dropped.values())

    def take(self, item: Converted | Drop) -> None:
        """Count one item of a converter."""
        self.rows_in += item.rows
        if isinstance(item, Converted):
            self.records += 1
            return
        self.dropped[item.reason.value] += item.rows
        places = self.examples.setdefault(item.reason.value, [])
        if len(places) < NUM_EXAMPLES:
            places.append(printable(item.where))
        if item.picture and len(self.missing) < NUM_EXAMPLES:
            self.missing.append(item.picture)

    def __str__(self) -> str:
        dropped = ", ".join(f"{reason} {count}" for reason, count in self.dropped.most_common())
        tail = f" ({dropped})" if dropped else ""
        became = f"{self.rows_converted} converted to {self.records} records"
        return f"{self.rows_in} in, {became}, {sum(self.dropped.values())} dropped{tail}"

    @property
    def advice(self) -> str:
        """What to do about pictures that are named by addresses of the web; "" where there are none."""
        reasons = (Reason.IMAGE_MISSING.value, Reason.IMAGE_OUTSIDE.value)
        if not any("://" in place for reason in reasons for place in self.examples.get(reason, [])):
            return ""
        return "no web address is fetched: save the pictures in the image folder and name the files in their place"

    def as_json(self) -> dict[str, Any]:
        """Return the counts as the meta file holds them."""
        return {
            "in": self.rows_in,
            "converted": self.rows_converted,
            "records": self.records,
            "dropped": dict(self.dropped.most_common()),
            "first_dropped": self.examples,
        }


@dataclass(frozen=True)
class Origin:
    """What records were made from: the kind of converter, its source files, the image folder, the choices made."""

    kind: str
    sources: Sequence[Path] = ()
    image_folder: Path | None = None
    choices: dict[str, Any] = field(default_factory=dict)


def meta_path(records: Path) -> Path:
    """Return where the meta file of `records` stands: records.json -> records.meta.json."""
    return records.with_name(f"{records.stem}.meta.json")


def write_output(path: Path, items: Iterable[Converted | Drop], origin: Origin) -> Counts:
    """Write the records of `items` to `path` with unique ids, then the meta file; return the counts.

    Raises DataError when nothing was converted: an empty file would only fail later.
    """
    if path.suffix.lower() not in {".json", ".jsonl", ".ndjson"}:
        raise DataError(path, "records are written as .json or .jsonl; change the ending of --output")
    refuse_source(path, origin.sources)
    counts = Counts()
    with hashing(origin.sources) as sources:
        write_records(path, _checked(unique_ids(_counted(items, counts)), path, counts, origin))
        write_meta(path, origin, counts, sources())
    return counts


def refuse_source(path: Path, sources: Iterable[Path]) -> None:
    """Raise UsageError where `path`, which is to be written, is one of the files that are read: it would be lost."""
    if any(path.exists() and source.exists() and path.samefile(source) for source in sources):
        raise UsageError(f"{path}: is a file that is read, and would be replaced; name another to be written")


def _counted(items: Iterable[Converted | Drop], counts: Counts) -> Iterator[Record]:
    for item in items:
        counts.take(item)
        if isinstance(item, Converted):
            yield item.record


def _checked(records: Iterable[Record], path: Path, counts: Counts, origin: Origin) -> Iterator[Record]:
    yield from records
    if not counts.records and not counts.examples and origin.sources:
        raise DataError(origin.sources[0], f"no row in it, so {path.name} was not written; is it empty, or cut off?")
    if not counts.records:
        first = "; ".join(f"{reason}: {places[0]}" for reason, places in counts.examples.items())
        problem = f"no record came out, so nothing was written: {counts}"
        elsewhere = folder_with(origin.image_folder, counts.missing) if origin.image_folder else None
        advice = f"the pictures are in {images_flag(elsewhere)}" if elsewhere else counts.advice
        advice = advice and f"; {advice}"
        raise DataError(path, f"{problem}; first: {first}{advice}" if first else problem)
    meta_path(path).unlink(missing_ok=True)  # the meta file is the mark of a finished output


def write_meta(path: Path, origin: Origin, counts: Counts, sources: Sequence[dict[str, Any]]) -> None:
    """Write the `.meta.json` of the records at `path`: `sources` of `source_entry`, the command, choices, counts."""
    write_json(
        meta_path(path),
        {
            "kind": origin.kind,
            "records": path.name,
            "sha256": sha256_of(path),
            "image_folder": str(origin.image_folder.resolve()) if origin.image_folder else None,
            "command": command_line(),
            "choices": origin.choices,
            "sources": sources,
            "counts": counts.as_json(),
        },
    )


def command_line() -> list[str]:
    """Return the words of the command that runs."""
    return ["python", "-m", "data_prep", *sys.argv[1:]]
