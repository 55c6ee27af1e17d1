"""Boxes in a file's texts on another scale: shares of the picture or of LLaVA's square, thousandths, pixels.

    python -m data_prep boxes qwen.json --images images --to square --output llava.json

Every text of a record is read, questions and answers. A record with a box that cannot be read is dropped and told;
records without boxes stay as they are. `box_scale` in each record says what its boxes are.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from data_prep.boxes.box import Box, turned
from data_prep.boxes.notation import Marks, Reading, Written, box_text, read_boxes, replaced
from data_prep.boxes.scale import Scale
from data_prep.boxes.sizes import PictureSize, Sizes
from data_prep.boxes.told import KEY, Seen, Told, said_scale, scale_of, tell
from data_prep.converters.options import (
    add_output_options,
    add_scale_option,
    converter_parser,
    require_folder,
    write_and_check,
)
from data_prep.errors import DataError, quoted
from data_prep.progress import Progress
from data_prep.records.output import Converted, Drop, Origin, Reason
from data_prep.records.preference import is_pair, text_of
from data_prep.records.record import Record, Records, read_records

EXAMPLES = """  python -m data_prep boxes qwen.json --images images --to normalised --output records.json
  python -m data_prep boxes sides.json --images images --from pixels --order xywh --to 1000 --output out.json"""
LEFT_OVER = re.compile(r"</?box>|<\|box_(?:start|end)\|>")

NO_BOX = "none"


class Unreadable(ValueError):
    """A box that cannot be read; the message says which and why."""


class Asked(NamedTuple):
    """How boxes are read and written: the command line's choices."""

    source: Scale | None
    target: Scale
    is_xywh: bool
    is_stored: bool
    marks: Marks | None
    decimals: int


def in_order(reading: Reading, is_xywh: bool) -> Reading:
    """Return a reading whose numbers are corners, where they were x, y, width and height."""
    if not is_xywh:
        return reading
    corners = (Box(x, y, x + width, y + height) for x, y, width, height in (box.numbers for box in reading.boxes))
    return Reading(
        tuple(replace(box, numbers=one) for box, one in zip(reading.boxes, corners, strict=True)), reading.unread
    )


def converted(record: Record, sizes: Sizes, asked: Asked, told: Told, counts: Counter[str]) -> Record:
    """Return the record with its boxes on the asked scale. Raises Unreadable for the first that cannot be read."""
    own = Counter[str]()

    def written(text: Any) -> Any:
        reading = in_order(read_boxes(text), asked.is_xywh) if isinstance(text, str) else Reading((), ())
        if reading.unread:
            raise Unreadable(f"{reading.unread[0]!r} has not four numbers")
        if not reading.boxes:
            return text
        text = replaced(text, reading, _writer(record, sizes, asked, told, own))
        return LEFT_OVER.sub("", text) if asked.marks is Marks.NONE else text

    said = record.get("conversations") or []
    if not isinstance(said, list):
        raise DataError("conversations", f"expected a list of turns, found {quoted(said, 40)}")
    turns = [{**turn, "value": written(turn.get("value"))} if isinstance(turn, dict) else turn for turn in said]
    answers = {key: written(text) for key, text in answers_of(record).items()}
    counts.update(own or [NO_BOX])
    return {**record, "conversations": turns, **answers, KEY: asked.target.value} if own else record


def answers_of(record: Record) -> dict[str, str]:
    """Return the two answers of a pair by their keys, those that are texts; none for another record."""
    texts = {key: text_of(record.get(key)) for key in ("chosen", "rejected") if is_pair(record)}
    return {key: text for key, text in texts.items() if text is not None}


def _writer(record: Record, sizes: Sizes, asked: Asked, told: Told, counts: Counter[str]) -> Callable[[Written], str]:
    def write(box: Written) -> str:
        source = asked.source or scale_of(box, said_scale(record), told.scale)
        if source is None:
            raise Unreadable(f"{box.text!r}: {told.why}")
        size = sizes.of_record(record)
        if size is None and (source.needs_size or asked.target.needs_size or asked.is_stored):
            raise Unreadable(f"{box.text!r} needs the picture's size: {sizes.why_none(record)}")
        if asked.source in (Scale.PIXELS, Scale.THOUSAND) and box.has_decimals and max(box.numbers) <= 1:
            raise Unreadable(f"{box.text!r} are shares, not {source.value}; leave out --from: it is for whole numbers")
        numbers = _moved(box, source, size or PictureSize((1, 1)), asked)
        counts[source.value] += 1
        marks = box.marks if asked.marks is None else asked.marks
        is_alone = box.text.startswith("<") or box.marks is Marks.NONE
        return box_text(numbers, asked.target, marks if is_alone else Marks.NONE, asked.decimals)

    return write


def _moved(box: Written, source: Scale, size: PictureSize, asked: Asked) -> Box:
    """Return a box's numbers on the target scale; raise Unreadable for a reversed one and one out of its picture."""
    frame = size.stored if asked.is_stored else size.upright
    pixels = source.to_pixels(box.numbers, frame)
    if pixels.is_reversed:
        raise Unreadable(f"{box.text!r} is reversed: {_hint(box, frame, source, asked)}")
    slack = source.to_pixels(Box(0, 0, source.unit, source.unit), frame)
    if pixels.excess(frame) > max(slack.right - slack.left, slack.bottom - slack.top) + 1e-6:
        raise Unreadable(f"{box.text!r} reaches out of its picture of {frame[0]} x {frame[1]}, read as {source.value}")
    inside = pixels.clipped(frame)
    if asked.is_stored:
        inside = turned(inside, size.stored, size.orientation)
    numbers = asked.target.of_pixels(inside, size.upright)
    digits = asked.decimals if asked.target.most == 1 else 0
    if Box(*(round(side, digits) for side in numbers)).is_reversed:
        raise Unreadable(f"{box.text!r} is too small for numbers of {digits} decimals")
    return numbers


def _hint(box: Written, frame: tuple[int, int], source: Scale, asked: Asked) -> str:
    left, top, right, bottom = box.numbers
    as_size = source.to_pixels(Box(left, top, left + right, top + bottom), frame)
    if not asked.is_xywh and not as_size.is_reversed and as_size.excess(frame) <= 1:
        return "its second corner is not right of and below its first; as x, y, width, height it fits: --order xywh"
    return "its second corner is not right of and below its first"


def items(records: Records, sizes: Sizes, asked: Asked, told: Told, counts: Counter[str]) -> Iterator[Converted | Drop]:
    """Yield each record with its boxes on the asked scale, or why it was dropped."""
    with Progress("converting", len(records), "records") as progress:
        for index in progress.each(range(len(records))):
            where = f"{records.path.name} line {records.line(index)}"
            try:
                record = records[index]
                where = f'{where}, record "{record.get("id", index + 1)}"'
                yield Converted(converted(record, sizes, asked, told, counts))
            except (Unreadable, DataError) as error:
                yield Drop(Reason.BAD_BOX, f"{where}: {error}")


def told_of(records: Records, sizes: Sizes, asked: Asked) -> Told:
    """Return the scale of the file's boxes in whole numbers: as asked, or as the boxes tell."""
    if asked.source is not None:
        return Told(asked.source, "said by --from")

    def seen() -> Iterator[Seen]:
        for index in range(len(records)):
            try:
                record = records[index]
                texts = [turn["value"] for turn in record.get("conversations") or [] if isinstance(turn, dict)]
                for text in [*texts, *answers_of(record).values()]:
                    for box in in_order(read_boxes(text), asked.is_xywh).boxes if isinstance(text, str) else ():
                        if scale_of(box, said_scale(record), None) is None:
                            size = sizes.of_record(record)
                            frame = None if size is None else size.stored if asked.is_stored else size.upright
                            yield Seen(box, frame)
            except (DataError, KeyError, TypeError):
                continue

    told = tell(seen())
    return told if told.scale else Told(None, f"{told.why}; say which with --from pixels or --from 1000")


def main(argv: Sequence[str] | None = None) -> int:
    """Convert the boxes of a records file."""
    parser = converter_parser("boxes", "Boxes in a file's texts on another scale or in another notation.", EXAMPLES)
    parser.add_argument("records_file", type=Path, metavar="records", help="records, .json or .jsonl")
    add_output_options(parser)
    add_scale_option(parser, None)
    parser.add_argument("--from", dest="source", choices=[one.value for one in Scale], help="default: as boxes tell")
    parser.add_argument("--order", choices=("corners", "xywh"), default="corners", help="xywh: x, y, width, height")
    parser.add_argument(
        "--stored", action="store_true", help="boxes are of the stored pixels, before the EXIF orientation"
    )
    marks = [one.value for one in Marks]
    parser.add_argument("--marks", choices=[*marks, "keep"], default="none", help="around the numbers; default none")
    args = parser.parse_args(argv)
    require_folder(args.image_folder)
    records, sizes = read_records(args.records_file), Sizes(args.image_folder)
    asked = Asked(
        Scale(args.source) if args.source else None,
        Scale(args.to),
        args.order == "xywh",
        args.stored,
        None if args.marks == "keep" else Marks(args.marks),
        args.decimals,
    )
    told, counts = told_of(records, sizes, asked), Counter[str]()
    choices: dict[str, Any] = {name: getattr(args, name) for name in ("source", "to", "order", "stored", "marks")}
    origin = Origin("boxes", [args.records_file], args.image_folder, choices)
    status = write_and_check(args, items(records, sizes, asked, told, counts), origin)
    without = counts.pop(NO_BOX, 0)
    by_scale = ", ".join(f"{count} from {scale}" for scale, count in counts.most_common()) or "none was found"
    print(f"{args.output}: {counts.total()} boxes on the scale {args.to} ({by_scale})")
    if without:
        some = "1 record stays as it was" if without == 1 else f"{without} records stay as they were"
        print(f"  {some}: without a box in a notation that is read (see docs/boxes.md)")
    return status
