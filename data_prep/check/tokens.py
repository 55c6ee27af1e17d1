"""Token lengths of records for one model: pictures counted as the tokens they become, answers that would be cut off.

token_findings(report, records, {"a.jpg": (640, 480)}, "liuhaotian/llava-v1.5-7b", None, None)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from data_prep.check.report import Example, Report
from data_prep.check.texts import faults
from data_prep.errors import DataError, printable, shortened
from data_prep.progress import Progress
from data_prep.records.marks import IGNORE_INDEX, IMAGE_TOKEN_INDEX
from data_prep.records.preference import is_pair, pair_of
from data_prep.records.record import Record, Records, images_of
from data_prep.view.model_view import ModelView, open_model

UNKNOWN_SIZE = (336, 336)
LARGE_CUT = 0.1
"""Share of a picture beyond which the check says that it is cut off."""


class Lengths(NamedTuple):
    """A record's length in tokens, and where its first and last taught token stand (positions from 0)."""

    total: int
    first_taught: int
    last_taught: int
    taught: int


def token_findings(
    report: Report,
    records: Records,
    sizes: Mapping[str, tuple[int, int]],
    model: str,
    max_length: int | None,
    template: str | None,
) -> None:
    """Add what `model` would cut off or refuse; records whose texts are wrong already are left out.

    `sizes` are the pictures' (width, height): LLaVA-1.6 cuts large pictures into more views.
    """
    view = open_model(model, template, max_length)
    totals: list[int] = []
    taught = 0
    with Progress("counting tokens", len(records), "records") as progress:
        for index in progress.each(range(len(records))):
            try:
                record = records[index]
            except DataError:
                continue
            if any(report_fault.kind in _BLOCKING for report_fault in faults(record)):
                continue
            for form in _forms(record):
                lengths = _examine(report, form, index, records.line(index), view, sizes)
                if lengths:
                    totals.append(lengths.total)
                    taught += lengths.taught
    report.statistics["tokens"] = _statistics(totals, taught, view, sizes)


def _forms(record: Record) -> list[Record]:
    """A record of two answers as one with each; any other as it is."""
    if not is_pair(record):
        return [record]
    pair = pair_of(record)
    return [{**record, "conversations": pair.answered(answer)} for answer in (pair.chosen, pair.rejected)]


_BLOCKING = {
    "pair not whole",
    "no conversation", "unknown role", "turns not alternating", "text not a string", "broken Unicode",
    "image not a name",
    "<image> count", "<image> in answer", "<image> without picture",
}  # fmt: skip


def _examine(
    report: Report, record: Record, index: int, line: int, view: ModelView, sizes: Mapping[str, tuple[int, int]]
) -> Lengths | None:
    name = str(record.get("id", f"number {index + 1}"))
    names = images_of(record)
    tell_what_is_cut(report, Example(line, index, name, ""), names, view, sizes)
    try:
        encoded = view.encode(record)
        lengths = measure(encoded, [view.image_tokens(sizes.get(image, UNKNOWN_SIZE)) for image in names])
    except ValueError as error:
        kind = "no supervised token" if "no supervised token" in str(error) else "not tokenizable"
        report.add(kind, Example(line, index, name, str(error)))
        return None
    if lengths.first_taught >= view.context:
        detail = f"its first answer begins at token {lengths.first_taught + 1} of {view.context}"
        report.add("no supervised token", Example(line, index, name, detail))
    elif lengths.last_taught >= view.context:
        report.add(
            "answer cut off", Example(line, index, name, f"{lengths.total} tokens, the model takes {view.context}")
        )
    return lengths


def tell_what_is_cut(
    report: Report, place: Example, names: list[str], view: ModelView, sizes: Mapping[str, tuple[int, int]]
) -> None:
    """Add the pictures of a record of which the model sees the middle only."""
    for image in names:
        share = view.cut_share(sizes.get(image, UNKNOWN_SIZE))
        if share > LARGE_CUT:
            detail = f"{shortened(printable(image))}: {share:.0%} of the picture"
            report.add("edges cut off", replace(place, detail=detail, image=image))


def measure(encoded: Any, image_tokens: list[int]) -> Lengths:
    """Return a record's lengths with each picture counted as the tokens it becomes, in the order of the pictures.

    Of independent turns the longest counts, with what all of them share: no other stands before it.
    """
    pending = iter(image_tokens)
    total = added = taught = 0
    first = last = -1
    for token, label, place in zip(encoded.input_ids, encoded.labels, encoded.places, strict=True):
        if label != IGNORE_INDEX:
            first = place + added if first < 0 else min(first, place + added)
            last = max(last, place + added)
            taught += 1
        added += next(pending, 1) - 1 if token == IMAGE_TOKEN_INDEX else 0
        total = max(total, place + added + 1)
    return Lengths(total, first, last, taught)


def _statistics(
    totals: list[int], taught: int, view: ModelView, sizes: Mapping[str, tuple[int, int]]
) -> dict[str, int | float | str]:
    ordered = sorted(totals) or [0]
    per_picture = {view.image_tokens(size) for size in sizes.values()} or {view.image_tokens(UNKNOWN_SIZE)}
    low, high = min(per_picture), max(per_picture)
    return {
        "mean": round(sum(ordered) / len(ordered), 2),
        "median": ordered[len(ordered) // 2],
        "max": ordered[-1],
        "taught_share": round(taught / max(sum(ordered), 1), 6),
        "image_tokens": str(low) if low == high else f"{low} to {high}",
        "context": view.context,
        "template": view.template,
    }
