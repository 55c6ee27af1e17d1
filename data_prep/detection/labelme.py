"""labelme's files to questions and answers with boxes: rectangles as they are, polygons and circles by what they span.

{"imagePath": "a.jpg", "imageWidth": 640, "imageHeight": 480,
 "shapes": [{"label": "dog", "shape_type": "rectangle", "points": [[12, 30], [212, 130]]}]}

python -m data_prep labelme photos --images photos --output boxes.json
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from data_prep.boxes.box import Box
from data_prep.converters.options import converter_parser, picture_problem
from data_prep.detection.convert import add_box_options, run
from data_prep.detection.files import files_below
from data_prep.detection.objects import Marked, NoBox, Sheet, numbers_of, of_points, size_of, text_of, whole
from data_prep.errors import DataError, quoted
from data_prep.records.json_text import read_json
from data_prep.records.output import Drop, Reason

EXAMPLES = """  python -m data_prep labelme photos --images photos --output boxes.json
  python -m data_prep labelme one.json --images photos --to 1000 --marks qwen --output boxes.json"""


def sheets_of(source: Path, folder: Path) -> Iterator[Sheet | Drop]:
    """Yield the pictures of a labelme file, or of all below a folder; a file that is none of labelme's is dropped."""
    for path in files_below(source, (".json",)):
        where = path.name if path == source else path.relative_to(source).as_posix()
        try:
            value = read_json(path)
        except DataError as error:
            yield Drop(Reason.BAD_BOX, f"{where}: {error.problem}")
            continue
        if not isinstance(value, dict) or not isinstance(value.get("shapes"), list):
            yield Drop(Reason.BAD_BOX, f'{where}: no list "shapes": not a file of labelme')
            continue
        objects = [_marked(shape) for shape in value["shapes"]]
        size = size_of(value.get("imageWidth"), value.get("imageHeight"))
        yield Sheet(_picture(value, path, folder), size, objects, where)


def _picture(value: Mapping[str, Any], path: Path, folder: Path) -> str:
    """Return the picture's name below the folder: as said, beside the file, or by its last part alone."""
    said = str(value.get("imagePath") or "").replace("\\", "/")
    last = PurePosixPath(said).name or f"{path.stem}.jpg"
    # A link is not followed: the picture that it leads to has another name, or lies elsewhere.
    beside, root = (Path(os.path.normpath(place.absolute())) for place in (path.parent / said, folder))
    inside = beside.relative_to(root).as_posix() if beside.is_relative_to(root) else ""
    names = [name for name in (inside, said, last) if name]
    return next((name for name in names if picture_problem(folder, name) is None), said or last)


def _marked(shape: Any) -> Marked:
    if not isinstance(shape, dict):
        return Marked("", None, f"a shape is an object, found {quoted(shape, 40)}")
    label, kind = text_of(shape.get("label")), shape.get("shape_type") or "polygon"
    try:
        points = shape.get("points")
        numbers = [number for point in (points if isinstance(points, list) else []) for number in numbers_of(point, 2)]
        if kind in ("point", "points", "line", "linestrip"):
            raise NoBox(f"a {kind} is no box")
        return Marked(label, _circle(numbers) if kind == "circle" else of_points(numbers))
    except NoBox as error:
        return Marked(label, None, str(error))


def _circle(numbers: Sequence[float]) -> Box:
    """Return the box around a circle, told by its middle and a point on its edge."""
    if len(numbers) != 4:
        raise NoBox(f"a circle has a middle and a point on its edge, found {len(numbers) // 2} points")
    x, y, radius = numbers[0], numbers[1], math.dist(numbers[:2], numbers[2:])
    return whole(Box(x - radius, y - radius, x + radius, y + radius))


def main(argv: Sequence[str] | None = None) -> int:
    """Convert labelme's files."""
    parser = converter_parser("labelme", "labelme's files to questions and answers with boxes.", EXAMPLES)
    parser.add_argument("export", type=Path, help="a folder with labelme's .json files, or one of them")
    add_box_options(parser)
    args = parser.parse_args(argv)
    return run(args, sheets_of(args.export, args.image_folder), "labelme", _sources(args.export))


def _sources(export: Path) -> list[Path]:
    return [export] if export.is_file() else []
