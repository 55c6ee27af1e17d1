"""YOLO's label files to questions and answers with boxes: a .txt for each picture, a line for each object.

0 0.53 0.42 0.20 0.31            # class, middle x, middle y, width, height as shares; outlines and poses have more

python -m data_prep yolo labels --names data.yaml --images images --output boxes.json
"""

from __future__ import annotations

import contextlib
import importlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from data_prep.boxes.box import Box
from data_prep.converters.options import converter_parser
from data_prep.detection.convert import add_box_options, run
from data_prep.detection.files import files_below, picture_of_stem, stems_of
from data_prep.detection.objects import Marked, NoBox, Sheet, numbers_of
from data_prep.detection.yolo_lines import KeyPoints, Lines, NotTold, box_of, tell, words_of
from data_prep.errors import DataError, first_line, quoted
from data_prep.records.json_text import BOM, decode_utf8, kind_of, require_regular
from data_prep.records.output import Drop, Reason

EXAMPLES = """  python -m data_prep yolo labels --names data.yaml --images images --output boxes.json
  python -m data_prep yolo roboflow/train --images roboflow/train --output boxes.json"""
NAME_FILES = ("data.yaml", "data.yml", "dataset.yaml", "classes.txt", "obj.names", "_darknet.labels", "classes.names")
CLASS = re.compile(r"([0-9]{1,9})(?:\.0*)?")
"""A class by its number, which numpy.savetxt writes as 0.000000."""
NAMES_FILE = "file of class names"
NO_LABELS = {"classes.txt", "requirements.txt", "notes.txt", "train.txt", "val.txt", "test.txt"}


class Label(NamedTuple):
    """A label file, its name for messages, and its text, or why it cannot be read."""

    path: Path
    where: str
    text: str
    problem: str = ""


def names_file(source: Path, folder: Path) -> Path:
    """Return the file beside, above or among the labels that names the classes; raise DataError where there is none."""
    places = [source if source.is_dir() else source.parent]
    places += [places[0].parent, places[0].parent.parent, folder, folder.parent]
    found = next((place / name for place in places for name in NAME_FILES if (place / name).is_file()), None)
    if found is None:
        raise DataError(source, f"no file names its classes; give one with --names ({', '.join(NAME_FILES[:4])})")
    return found


def class_names(path: Path) -> dict[int, str]:
    """Return the names of classes by number: `names` of a data.yaml (list or mapping), else a name a line."""
    if not _is_yaml(path):  # an empty line has its number too
        return {
            number: line.strip() for number, line in enumerate(_text(path, NAMES_FILE).splitlines()) if line.strip()
        }
    names = _settings(path).get("names")
    if isinstance(names, list):
        names = {str(number): name for number, name in enumerate(names)}
    if not isinstance(names, Mapping) or not all(number.isdecimal() and len(number) < 10 for number in names):
        raise DataError(path, 'no "names" in it, as a list or by number')
    if number := next((number for number, name in names.items() if not isinstance(name, str)), None):
        raise DataError(path, f"names, class {number}: expected a text, found {kind_of(names[number])}")
    return {int(number): name for number, name in names.items()}


def key_points(path: Path) -> KeyPoints | None:
    """Return `kpt_shape` of a data.yaml of poses, None where there is none; raise DataError for another value."""
    said = _settings(path).get("kpt_shape") if _is_yaml(path) else None
    if said is None:
        return None
    numbers = [int(one) for one in said if one in {*map(str, range(1, 1000))}] if isinstance(said, list) else []
    if len(numbers) != 2 or numbers[1] not in {2, 3}:
        raise DataError(path, f"kpt_shape: expected how many key points and 2 or 3, as [17, 3]; found {quoted(said)}")
    return numbers[0], numbers[1]


def _is_yaml(path: Path) -> bool:
    return path.suffix.lower() in {".yaml", ".yml"}


def _text(path: Path, kind: str = "file") -> str:
    return decode_utf8(require_regular(path, kind).read_bytes().removeprefix(BOM), path)


def _settings(path: Path) -> Mapping[str, Any]:
    """Return what a data.yaml says, every value as a text."""
    yaml: Any = importlib.import_module("yaml")
    try:
        value = yaml.load(
            _text(path, NAMES_FILE), yaml.BaseLoader
        )  # it makes texts only: a class may be called no, on or 1
    except yaml.YAMLError as error:
        raise DataError(path, f"broken YAML ({first_line(error)})") from None
    except RecursionError:
        raise DataError(path, "nested too deeply for a file of class names") from None
    return value if isinstance(value, Mapping) else {}


def read_labels(source: Path) -> Iterator[Label]:
    """Yield the label files of an export as they are read: the texts of all of them are never in memory together."""
    for path in files_below(source, (".txt",)):
        if path.name.lower() in NO_LABELS or path.name.lower().startswith("readme"):
            continue
        where = path.name if path == source else path.relative_to(source).as_posix()
        try:
            yield Label(path, where, _text(path))
        except DataError as error:
            yield Label(path, where, "", error.problem)


def _long_lines(labels: Iterable[Label]) -> Iterator[list[float]]:
    """Yield the numbers of every line that is more than a box; what cannot be read is told when it is converted."""
    for label in labels:
        for line in label.text.splitlines():
            words = words_of(line)
            if len(words) > 6:
                with contextlib.suppress(NoBox):
                    yield numbers_of(words[1:])


def lines_of(source: Path, asked: str | None, shape: KeyPoints | None) -> Lines:
    """Return what --lines or kpt_shape says, else what all lines tell; raise DataError with both where they do not."""
    if asked:
        return Lines(asked)
    try:
        return tell(_long_lines(read_labels(source)), shape)
    except NotTold as error:
        problem = f"{error}; give the data.yaml with its kpt_shape as --names, or say which: --lines outlines, "
        raise DataError(source, f"{problem}--lines key-points") from None


def sheets_of(
    labels: Iterable[Label], source: Path, folder: Path, names: Mapping[int, str], lines: Lines, shape: KeyPoints | None
) -> Iterator[Sheet | Drop]:
    """Yield the pictures of label files; a file whose picture is not there is dropped with all of its lines."""
    for path, where, text, problem in labels:
        if problem:
            yield Drop(Reason.BAD_BOX, f"{where}: {problem}")
            continue
        objects = [_marked(line, names, lines, shape) for line in text.splitlines() if line.strip()]
        name = PurePosixPath(where if path == source else (Path(source.name) / where).as_posix())
        picture = picture_of_stem(folder, stems_of(name))
        if picture is None and objects:
            yield Drop(Reason.IMAGE_MISSING, f"{where}: no picture {path.stem} in {folder}", len(objects))
        elif picture is not None:
            yield Sheet(picture, None, objects, where, are_shares=True)


def _marked(line: str, names: Mapping[int, str], lines: Lines, shape: KeyPoints | None) -> Marked:
    words = words_of(line)
    found = CLASS.fullmatch(words[0].strip())
    number = int(found[1]) if found else None
    label = names.get(number, "") if number is not None else ""
    if not label:
        return Marked("", None, f"class {quoted(words[0], 40)} has no name among {len(names)}", Reason.NO_LABEL)
    try:
        return Marked(label, _box(numbers_of(words[1:]), lines, shape))
    except NoBox as error:
        advice = "; write numbers with points (0.5) and blanks between them" if "," in line else ""
        return Marked(label, None, f"{error}{advice}")


def _box(numbers: Sequence[float], lines: Lines, shape: KeyPoints | None) -> Box:
    box = box_of(numbers, lines, shape)
    if box.excess((1, 1)) > 1:
        raise NoBox(f"shares go from 0 to 1, found {', '.join(f'{number:g}' for number in numbers[:4])}")
    return box


def main(argv: Sequence[str] | None = None) -> int:
    """Convert YOLO's label files."""
    parser = converter_parser("yolo", "YOLO's label files to questions and answers with boxes.", EXAMPLES)
    parser.add_argument("export", type=Path, help="the folder with the .txt files, or the data set's folder")
    parser.add_argument("--names", type=Path, help="data.yaml, or a file with a class name a line; default: found")
    text = "what lines with more numbers than a box are; default: as data.yaml's kpt_shape or their numbers say"
    parser.add_argument("--lines", choices=[one.value for one in Lines], help=text)
    add_box_options(parser)
    args = parser.parse_args(argv)
    named = args.names or names_file(args.export, args.image_folder)
    names, shape = class_names(named), key_points(named) if args.lines != Lines.OUTLINES.value else None
    lines = lines_of(args.export, args.lines, shape)
    if lines is Lines.KEY_POINTS:
        print("lines hold a box and key points: the boxes are read, the key points are left out")
    sheets = sheets_of(read_labels(args.export), args.export, args.image_folder, names, lines, shape)
    return run(args, sheets, "yolo", [named])
