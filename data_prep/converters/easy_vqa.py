"""easy-VQA to records: a real data set of 5,000 pictures that one `pip install easy-vqa==1.0` brings (MIT, no hub).

Its questions.json, in `train` and `test`, holds rows of question, answer and picture number, a few for each picture:

    ["what is the blue shape?", "rectangle", 0], ["is there a triangle in the image?", "no", 0]

All questions on one picture become one conversation, as LLaVA-1.5 did with VQAv2; captions for stage 1 are made from
the answers:

    python -m data_prep easy-vqa --output-dir data/easy-vqa
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from data_prep.command_line import Parser
from data_prep.converters.drops import MEANT, add_drops_option, loss_status, say_drops
from data_prep.converters.finish import add_check_option, finish
from data_prep.errors import DataError, quoted
from data_prep.files import copy_file
from data_prep.numbers import whole
from data_prep.records.json_text import read_json
from data_prep.records.output import Converted, Drop, Origin, Reason, write_output
from data_prep.records.record import IMAGE_TOKEN, Record, conversation

COLOURS = ("red", "green", "gray", "teal", "black", "yellow", "brown", "blue")
SHAPES = ("circle", "rectangle", "triangle")
SPLITS = ("train", "test")

Row = tuple[str, str, int]


def find_source() -> Path:
    """Return the data folder of the installed easy-vqa package; raise DataError when it is not installed."""
    spec = importlib.util.find_spec("easy_vqa")
    if spec is None or not spec.submodule_search_locations:
        raise DataError("easy-vqa", "the package is not installed; pip install easy-vqa==1.0, or give --source FOLDER")
    return Path(spec.submodule_search_locations[0]) / "data"


def read_rows(path: Path) -> list[Row]:
    """Return the rows of a questions.json; raise DataError naming the row that is not [question, answer, number]."""
    if not path.is_file():
        raise DataError(path, "no such file; --source is the folder with train/questions.json and test/questions.json")
    rows = read_json(path)
    if not isinstance(rows, list):
        raise DataError(path, "expected a list of rows [question, answer, picture number]")
    for number, row in enumerate(rows):
        if not (isinstance(row, list) and [type(cell) for cell in row] == [str, str, int]):
            raise DataError(
                path, f"row {number + 1}: expected [question, answer, picture number], found {quoted(row, 80)}"
            )
    return [(row[0], row[1], row[2]) for row in rows]


def question_type(question: str, answer: str) -> str:
    """Return what a question asks: "color", "shape", or for yes/no "color present", "shape absent" and so on."""
    if answer not in {"yes", "no"}:
        return "color" if answer in COLOURS else "shape"
    thing = "color" if _named(question, COLOURS) else "shape"
    return f"{thing} absent" if _is_negated(question) else f"{thing} present"


def caption_of(rows: Iterable[Row]) -> str | None:
    """Return "a blue rectangle" when the rows of one picture tell its colour and its shape, else None."""
    found: dict[str, str] = {}
    for question, answer, _ in rows:
        for thing, names in (("colour", COLOURS), ("shape", SHAPES)):
            if answer in names:
                found[thing] = answer
            elif (named := _named(question, names)) and _says_so(question, answer):
                found[thing] = named
    if "colour" in found and "shape" in found:
        return f"a {found['colour']} {found['shape']}"
    return None


def _named(question: str, names: Sequence[str]) -> str | None:
    return next((word for word in re.findall(r"[a-z]+", question) if word in names), None)


def _is_negated(question: str) -> bool:
    return re.search(r"\b(not|no)\b", question) is not None


def _says_so(question: str, answer: str) -> bool:
    """Say whether what the question names is in the picture: an open question presumes it, a yes/no answer tells."""
    return answer not in {"yes", "no"} or (answer == "yes") != _is_negated(question)


def pictures(rows: Iterable[Row]) -> dict[int, list[Row]]:
    """Return the rows of each picture, pictures and rows in the order of the file."""
    grouped: dict[int, list[Row]] = {}
    for row in rows:
        grouped.setdefault(row[2], []).append(row)
    return grouped


def question_record(split: str, number: int, rows: Sequence[Row], dialogue: bool = False) -> Record:
    """Return one conversation with all questions on picture `number`.

    Its questions know nothing of each other, or, as a `dialogue`, of those before: then what the picture shows is
    asked first, and the answers to "is it ...?" follow from words that were said.
    """
    if dialogue:
        rows = sorted(rows, key=lambda row: row[1] in {"yes", "no"})
    return {
        "id": f"easy-vqa-{split}-{number}",
        "image": image_name(split, number),
        "conversations": conversation([(question, answer) for question, answer, _ in rows]),
        "independent_turns": not dialogue,
        "question_types": [question_type(question, answer) for question, answer, _ in rows],
    }


def caption_record(split: str, number: int, caption: str) -> Record:
    """Return one picture with its caption, as stage 1 (`--version plain`) reads it."""
    return {
        "id": f"easy-vqa-caption-{split}-{number}",
        "image": image_name(split, number),
        "conversations": [{"from": "human", "value": IMAGE_TOKEN}, {"from": "gpt", "value": caption}],
    }


def image_name(split: str, number: int) -> str:
    """Return the name of a picture below the image folder."""
    return f"{split}/images/{number}.png"


def convert(
    split: str, rows: Iterable[Row], folder: Path, captions: bool, dialogues: int = 0
) -> Iterator[Converted | Drop]:
    """Yield the conversations (or captions) of a split; questions whose picture is not there are dropped.

    The first `dialogues` pictures make dialogues.
    """
    for place, (number, group) in enumerate(pictures(rows).items()):
        name = image_name(split, number)
        if not (folder / name).is_file():
            yield Drop(Reason.IMAGE_MISSING, name, len(group))
        elif not captions:
            yield Converted(question_record(split, number, group, place < dialogues), len(group))
        elif caption := caption_of(group):
            yield Converted(caption_record(split, number, caption), len(group))
        else:
            yield Drop(Reason.NO_CAPTION, name, len(group))


def main(argv: Sequence[str] | None = None) -> int:
    """Convert both splits; write train, test, captions_train and captions_test with their meta files."""
    parser = Parser(
        prog="python -m data_prep easy-vqa",
        description="easy-VQA to human/gpt records: train.json, test.json and captions for stage 1.",
        epilog="example: python -m data_prep easy-vqa --output-dir data/easy-vqa",
    )
    parser.add_argument("--output-dir", type=Path, required=True, help="folder for the records")
    parser.add_argument("--source", type=Path, help="folder with train/ and test/ (default: the installed package)")
    parser.add_argument(
        "--dialogues",
        type=whole(0),
        default=0,
        metavar="N",
        help="make dialogues of the first N train pictures, open questions first (default 0: all turns independent)",
    )
    parser.add_argument("--copy", action="store_true", help="copy the pictures to OUTPUT_DIR/images")
    add_drops_option(parser)
    add_check_option(parser)
    args = parser.parse_args(argv)
    source = args.source or find_source()
    outputs, lost = [], 0
    for split in SPLITS:
        questions = source / split / "questions.json"
        rows = read_rows(questions)
        folder = _copied(source, args.output_dir / "images", split, rows) if args.copy else source
        origin = Origin("easy-vqa", [questions], folder)
        for captions in (False, True):
            path = args.output_dir / f"{'captions_' if captions else ''}{split}.json"
            items = convert(split, rows, folder, captions, args.dialogues if split == "train" else 0)
            counts = write_output(path, items, origin)
            print(f"{path}: {counts}")
            if set(counts.dropped) - MEANT:
                say_drops(counts, path)
            lost = max(lost, loss_status(counts, path, args.allow_drops))
            outputs.append(path)
    print(f"image folder: {folder}")
    checked = [finish(outputs[0], folder, args.check, test=outputs[2]), finish(outputs[2], folder, args.check)]
    return max([*checked, lost])


def _copied(source: Path, target: Path, split: str, rows: Iterable[Row]) -> Path:
    for number in pictures(rows):
        name = image_name(split, number)
        if (source / name).is_file():
            copy_file(source / name, target / name)
    return target
