"""What the converters of boxes share: options, the picture's own size against the export's, records, counts.

return run(args, sheets, "coco-boxes", [args.export])
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from data_prep.boxes.box import Box, Size, turned
from data_prep.boxes.notation import Marks, box_text
from data_prep.boxes.scale import Scale
from data_prep.boxes.sizes import PictureSize, Sizes
from data_prep.boxes.told import KEY
from data_prep.converters.cells import local_name
from data_prep.converters.options import (
    add_output_options,
    add_scale_option,
    files_meant,
    picture_problem,
    require_folder,
    write_and_check,
)
from data_prep.detection.objects import Marked, Sheet
from data_prep.detection.questions import Asked, name_of, turns_of
from data_prep.errors import UsageError
from data_prep.numbers import whole
from data_prep.progress import Progress
from data_prep.records.output import Converted, Drop, Origin, Reason
from data_prep.records.record import conversation

LEAST_INSIDE = 0.5
"""The share of a box that must lie in its picture; what reaches out is cut off, and a box less inside is a mistake."""


class Placed(NamedTuple):
    """A name and its box as text."""

    name: str
    text: str


class Writing:
    """How boxes become text, and the count of those that were cut at the edge or turned with their picture."""

    def __init__(self, args: argparse.Namespace) -> None:
        """Take scale, marks and decimals from the command line."""
        self.scale, self.marks, self.decimals = Scale(args.to), Marks(args.marks), args.decimals
        self.is_stored = args.stored
        self.counts: Counter[str] = Counter()

    def text(self, marked: Marked, sheet: Sheet, size: PictureSize) -> str | Drop:
        """Return a box as text, or why there is none."""
        where = f"{sheet.where}: {marked.label or 'an object'}"
        if marked.box is None:
            return Drop(marked.reason, f"{where}: {marked.problem}")
        if not name_of(marked.label):
            return Drop(Reason.NO_LABEL, f"{sheet.where}: a box without a name")
        frame = _frame(sheet, size, self.is_stored)
        if frame is None:
            said, has = _shown(sheet.size or (0, 0)), _shown(size.upright)
            return Drop(Reason.BAD_BOX, f"{where}: the export says {said}, the picture has {has}")
        scaled, is_turned = frame
        box = marked.box.scaled(*scaled)
        own = size.stored if is_turned else size.upright
        inside = box.clipped(own)
        if inside.area < LEAST_INSIDE * box.area or inside.is_reversed:
            sides = ", ".join(f"{side:g}" for side in marked.box)
            return Drop(Reason.BAD_BOX, f"{where}: the box {sides} lies out of the picture of {_shown(size.upright)}")
        self.counts["cut at the picture's edge"] += box.excess(own) > 1
        self.counts["turned with their picture"] += is_turned and size.orientation != 1
        upright = turned(inside, size.stored, size.orientation) if is_turned else inside
        numbers = self.scale.of_pixels(upright, size.upright)
        digits = self.decimals if self.scale.most == 1 else 0
        if Box(*(round(side, digits) for side in numbers)).is_reversed:
            return Drop(Reason.BAD_BOX, f"{where}: too small for numbers of {digits} decimals")
        return box_text(numbers, self.scale, self.marks, self.decimals)


def _frame(sheet: Sheet, size: PictureSize, is_stored: bool) -> tuple[tuple[float, float], bool] | None:
    """Return how boxes are scaled, and whether they are of the stored pixels; None where the sizes contradict.

    An export that names the stored size of a picture that stands upright turned was made before the turning; one of
    the same shape and another size was made before the picture was resized.
    """
    own = size.stored if is_stored else size.upright
    if sheet.are_shares:
        return (float(own[0]), float(own[1])), is_stored
    if sheet.size is None or sheet.size == own:
        return (1.0, 1.0), is_stored
    if sheet.size == size.stored:
        return (1.0, 1.0), True
    across, down = own[0] / sheet.size[0], own[1] / sheet.size[1]
    return ((across, down), is_stored) if abs(across / down - 1) < 0.02 else None


def _shown(size: Size) -> str:
    return f"{size[0]} x {size[1]}"


def records_of(
    sheets: Iterable[Sheet | Drop], folder: Path, writing: Writing, asked: Asked
) -> Iterator[Converted | Drop]:
    """Yield a record for each picture with its objects as questions, and a drop for each object that has none."""
    sizes = Sizes(folder)
    for sheet in sheets:
        if isinstance(sheet, Drop):
            yield sheet
            continue
        name = local_name(sheet.image, folder) if sheet.image else ""
        problem = picture_problem(folder, name) if name else Reason.NO_IMAGE
        size = None if problem else sizes.of(name)
        if size is None:
            why = problem or Reason.IMAGE_UNREADABLE
            if sheet.objects:
                yield Drop(why, f"{sheet.where}: {sheet.image}", len(sheet.objects))
            continue
        if not sheet.objects:
            writing.counts["pictures without an object"] += 1
        placed = []
        for marked in sheet.objects:
            text = writing.text(marked, sheet, size)
            if isinstance(text, Drop):
                yield text
            else:
                placed.append(Placed(name_of(marked.label), text))
        yield from _record(name, placed, sheet, writing, asked)


def found_below(sheets: Iterable[Sheet | Drop], folder: Path) -> Iterator[Sheet | Drop]:
    """Yield the sheets of an export that names all of its pictures in one file, missing ones by the file they mean."""
    known = list(sheets)
    names = {one.image for one in known if isinstance(one, Sheet) and "://" not in one.image}
    near = files_meant(folder, filter(None, names))
    for one in known:
        yield one._replace(image=near.get(one.image, one.image)) if isinstance(one, Sheet) else one


def _record(
    name: str, placed: Sequence[Placed], sheet: Sheet, writing: Writing, asked: Asked
) -> Iterator[Converted | Drop]:
    if not asked.what:  # then a name with too many boxes is asked for nowhere
        often = {name for name, count in Counter(one.name for one in placed).items() if count > asked.most}
        for label in sorted(often):
            num = sum(one.name == label for one in placed)
            yield Drop(Reason.TOO_MANY, f"{sheet.where}: {num} of {label}, more than --most {asked.most}", num)
        placed = [one for one in placed if one.name not in often]
    if not placed:
        return
    turns = turns_of(placed, asked)
    told = {"id": f"boxes-{name}", "image": name, "conversations": conversation(turns)}
    several = {"independent_turns": True} if len(turns) > 1 else {}
    yield Converted({**told, **several, KEY: writing.scale.value}, len(placed))


def add_box_options(parser: argparse.ArgumentParser) -> None:
    """Add what all converters of boxes take."""
    add_output_options(parser)
    add_scale_option(parser)
    parser.add_argument("--marks", choices=[one.value for one in Marks], default="none", help="around the numbers")
    parser.add_argument("--ask", nargs="+", choices=("where", "what"), default=["where", "what"], help="default: both")
    text = "boxes of one name in a picture beyond which its place is not asked for; default 10"
    parser.add_argument("--most", type=whole(1), default=Asked().most, help=text)
    parser.add_argument("--where-question", default=Asked().where_question, help="{} is the object's name")
    parser.add_argument("--what-question", default=Asked().what_question, help="{} is the box")
    parser.add_argument("--stored", action="store_true", help="boxes are of the stored pixels, before EXIF turned them")


def run(args: argparse.Namespace, sheets: Iterable[Sheet | Drop], kind: str, sources: Sequence[Path]) -> int:
    """Write the records of an export, print what was cut, turned and left without an object; return the status."""
    require_folder(args.image_folder)
    for name, text in (("--where-question", args.where_question), ("--what-question", args.what_question)):
        if text.count("{}") != 1:
            raise UsageError(f"{name} {text!r}: write {{}} once, where the name or the box goes")
    writing = Writing(args)
    asked = Asked("where" in args.ask, "what" in args.ask, args.most, args.where_question, args.what_question)
    choices = {name: getattr(args, name) for name in ("to", "decimals", "marks", "ask", "most", "stored")}
    with Progress("converting", None, "pictures") as progress:
        items = records_of(progress.each(sheets), args.image_folder, writing, asked)
        status = write_and_check(args, items, Origin(kind, [*sources], args.image_folder, choices))
    for what, count in writing.counts.items():
        if count:
            print(f"  {count} {what if what.startswith('pictures') else f'boxes {what}'}")
    return status
