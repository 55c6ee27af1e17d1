"""What the pictures show when all facts are in: faults, repeats, lookalikes, and pictures that are in train and test.

picture_findings(report, records, {"a.jpg": [0, 7]}, {"a.jpg": Facts(...)})
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from unicodedata import normalize

from data_prep.check.inspect import Facts
from data_prep.check.lookalikes import Lookalikes
from data_prep.check.report import Example, Report
from data_prep.check.texts import Fault
from data_prep.errors import PictureFault, printable, shortened
from data_prep.records.greys import Greys, Scale
from data_prep.records.names import same_name
from data_prep.records.near_folder import folder_with, images_flag
from data_prep.records.near_names import near_names
from data_prep.records.record import Records

TINY = 16
FEW_LEVELS = 16
NAME_FAULTS = {PictureFault.MISSING, PictureFault.OUTSIDE}
"""Faults that another name may mend."""

Uses = Mapping[str, Sequence[int]]


def picture_findings(report: Report, records: Records, uses: Uses, facts: Mapping[str, Facts]) -> None:
    """Add what is wrong with each picture to the report, at every record that uses it."""
    missing = [name for name, found in facts.items() if found.fault in NAME_FAULTS]
    if report.image_folder is not None:
        report.renames = near_names(report.image_folder, missing)
        report.lost = set(missing) - set(report.renames)
    elsewhere = folder_with(report.image_folder, sorted(report.lost)) if report.image_folder and report.lost else None
    for name, found in facts.items():
        meant = _meant(name, report.renames.get(name), elsewhere if name in report.lost else None)
        for fault in _faults(name, found, meant):
            _add(report, records, uses, fault, name)
    _scale_findings(report, records, uses, facts)
    for kind, name, other in repeats(facts):
        detail = f"{printable(name)} and {printable(other)}"
        _add(report, records, uses, Fault(kind, detail), name, other)
    good = [found for found in facts.values() if found.width]
    if good:
        areas = sorted(found.width * found.height for found in good)
        report.statistics["pictures"] = {
            "good": len(good),
            "smallest_pixels": areas[0],
            "median_pixels": areas[len(areas) // 2],
            "largest_pixels": areas[-1],
        }


def _add(report: Report, records: Records, uses: Uses, fault: Fault, name: str, other: str | None = None) -> None:
    indices = uses[name]
    first = indices[0]
    place = Example(records.line(first), first, _id(records, first), fault.detail, name, other)
    report.add(fault.kind, place, indices[1:])


def _id(records: Records, index: int) -> str:
    return str(records[index].get("id", f"number {index + 1}"))


def _faults(name: str, found: Facts, meant: str) -> Iterator[Fault]:
    shown = shortened(printable(name))
    if found.fault is not None:
        yield Fault(found.fault.value, f"{shown}: {found.problem}{meant}")
        return
    if found.greys:
        yield from _grey_faults(shown, found.greys)
    if found.true_extension:
        yield Fault("wrong extension", f"{shown} holds {found.true_extension} bytes")
    if found.frames > 1:
        yield Fault("animated", f"{shown} has {found.frames} frames")
    if found.turned:
        yield Fault("turned by EXIF", shown)
    if found.width and min(found.width, found.height) < TINY:
        yield Fault("tiny picture", f"{shown} is {found.width} x {found.height}")


def _meant(name: str, near: str | None, elsewhere: Path | None) -> str:
    """Return what to say of a name that is not there: the file that it means, or the folder that has it."""
    if near is None:
        return f"; it is in {images_flag(elsewhere)}" if elsewhere else ""
    if normalize("NFC", name) == normalize("NFC", near):
        return "; a file has this name in another Unicode form; --fix writes that"
    return f"; did you mean {printable(near)}? --fix writes that"


def _grey_faults(shown: str, greys: Greys) -> Iterator[Fault]:
    values = f"{shown} holds {greys.lowest:,g} to {greys.highest:,g}"
    yield Fault("more than 8 bits", f"{values}, shown on the scale {greys.scale}")
    if greys.num_levels <= FEW_LEVELS:
        yield Fault("few greys", f"{values}: {greys.num_levels} greys on the scale {greys.scale}")
    if greys.num_missing:
        yield Fault("no number", f"{shown}: {greys.num_missing:,} values are NaN")


def _scale_findings(report: Report, records: Records, uses: Uses, facts: Mapping[str, Facts]) -> None:
    """Add each scale that the data has beside its commonest one."""
    scales: dict[Scale, list[str]] = {}
    for name, found in facts.items():
        if found.greys:
            scales.setdefault(found.greys.scale, []).append(name)
    common, *others = sorted(scales, key=lambda scale: -len(scales[scale])) if scales else (Scale(0, 255),)
    for scale in others:
        counts = f"{len(scales[scale])} on the scale {scale}, {len(scales[common])} on the scale {common}"
        name = scales[scale][0]
        _add(report, records, uses, Fault("several scales", f"{shortened(printable(name))}: {counts}"), name)


def repeats(facts: Mapping[str, Facts]) -> Iterator[tuple[str, str, str]]:
    """Yield (kind, name, earlier name) for pictures of the same bytes, and for pictures that look the same."""
    digests: dict[bytes, str] = {}
    looks = Lookalikes()
    for name, found in facts.items():
        if not found.digest:
            continue
        if (first := digests.setdefault(found.digest, name)) != name:
            yield "same picture twice", name, first
            continue
        if other := looks.find(found):
            yield "similar pictures", name, other
        looks.add(name, found)


def leak_findings(
    report: Report,
    records: Records,
    uses: Uses,
    facts: Mapping[str, Facts],
    test_names: Iterable[str],
    test_facts: Mapping[str, Facts],
    same_folder: bool,
) -> None:
    """Add every picture of `records` that the test file has too: by name, by bytes, by look."""
    names = {same_name(name): name for name in test_names} if same_folder else {}
    digests = {found.digest: name for name, found in test_facts.items() if found.digest}
    looks = Lookalikes()
    for name, found in test_facts.items():
        if found.digest:
            looks.add(name, found)
    for name in uses:
        mine = facts.get(name, Facts())
        if (other := names.get(same_name(name))) is not None:
            detail = printable(name) if other == name else f"{printable(name)} is {printable(other)} of the test file"
            _add(report, records, uses, Fault("picture in train and test", detail), name, other)
        elif mine.digest and mine.digest in digests:
            other = digests[mine.digest]
            detail = f"{printable(name)} is {printable(other)} of the test file"
            _add(report, records, uses, Fault("picture in train and test", detail), name, other)
        elif mine.digest and (near := looks.find(mine)):
            detail = f"{printable(name)} looks like {printable(near)} of the test file"
            _add(report, records, uses, Fault("similar in train and test", detail), name, near)
