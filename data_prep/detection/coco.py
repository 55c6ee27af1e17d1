"""COCO's instances to questions and answers with boxes.

{"images": [{"id": 7, "file_name": "7.jpg", "width": 640, "height": 480}],
 "annotations": [{"image_id": 7, "category_id": 18, "bbox": [x, y, width, height], "iscrowd": 0}],
 "categories": [{"id": 18, "name": "dog"}]}

python -m data_prep coco-boxes instances.json --images coco --output boxes.json
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from data_prep.boxes.box import Box
from data_prep.converters.coco import coco_of, is_image_id, picture_at, unknown
from data_prep.converters.options import converter_parser
from data_prep.detection.convert import add_box_options, found_below, run
from data_prep.detection.objects import Marked, NoBox, Sheet, numbers_of, of_points, of_sides, size_of
from data_prep.errors import DataError, quoted
from data_prep.records.json_text import read_json
from data_prep.records.output import Drop, Reason

EXAMPLES = """  python -m data_prep coco-boxes instances.json --images coco --to square --output boxes.json
  python -m data_prep coco-boxes instances.json --images coco --ask where --output where.json"""


def sheets_of(path: Path) -> Iterator[Sheet | Drop]:
    """Yield the pictures of a COCO file in its order, each with its objects; raise DataError for a broken file.

    An object of a picture that the file does not name is dropped.
    """
    value = read_json(path)
    pictures, annotations = coco_of(value, path, ("category_id",))
    labels = _labels(value, path)
    objects: dict[Any, list[Marked]] = {name: [] for name in pictures}
    for number, row in enumerate(annotations, 1):
        if picture_at(pictures, row) is not None:
            objects[row["image_id"]].append(_marked(row, labels))
        else:
            yield Drop(Reason.NO_IMAGE, f"{path.name} annotation {number}: {unknown(row)}")
    for name, picture in pictures.items():
        size = size_of(picture.get("width"), picture.get("height"))
        yield Sheet(str(picture["file_name"]), size, objects[name], f"{path.name} image {name}")


def _labels(value: Mapping[str, Any], path: Path) -> dict[Any, str]:
    rows = value.get("categories")
    if not isinstance(rows, list) or not all(isinstance(row, dict) and {"id", "name"} <= row.keys() for row in rows):
        raise DataError(path, 'no list "categories" of {"id": ..., "name": ...}; boxes without names teach nothing')
    named = [row for row in rows if is_image_id(row["id"]) and isinstance(row["name"], int | str)]
    return {row["id"]: str(row["name"]) for row in named}


def _marked(row: Mapping[str, Any], labels: Mapping[Any, str]) -> Marked:
    category = row["category_id"]
    label = labels.get(category, "") if is_image_id(category) else ""
    if row.get("iscrowd") in (1, "1"):
        return Marked(label, None, "one box around many", Reason.CROWD)
    if not label:
        return Marked("", None, f'category {quoted(category, 40)} has no name under "categories"', Reason.NO_LABEL)
    try:
        return Marked(label, of_sides(row["bbox"]) if row.get("bbox") else _around(row.get("segmentation")))
    except NoBox as error:
        return Marked(label, None, str(error))


def _around(outline: Any) -> Box:
    """Return the box around a segmentation's polygons."""
    if not isinstance(outline, list) or not outline:
        raise NoBox('no "bbox", and no polygon under "segmentation"')
    return of_points([number for polygon in outline for number in numbers_of(polygon)])


def main(argv: Sequence[str] | None = None) -> int:
    """Convert a COCO file."""
    parser = converter_parser("coco-boxes", "COCO's instances to questions and answers with boxes.", EXAMPLES)
    parser.add_argument("export", type=Path, help="instances_train2017.json, or any file in its format")
    add_box_options(parser)
    args = parser.parse_args(argv)
    return run(args, found_below(sheets_of(args.export), args.image_folder), "coco-boxes", [args.export])
