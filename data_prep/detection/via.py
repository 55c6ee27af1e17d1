"""The VGG Image Annotator's exports (VIA 1, 2 and 3; JSON, project, CSV) to questions and answers with boxes.

{"a.jpg1234": {"filename": "a.jpg", "regions": [
    {"shape_attributes": {"name": "rect", "x": 12, "y": 30, "width": 200, "height": 100},
     "region_attributes": {"label": "dog"}}]}}

python -m data_prep via via_project.json --images photos --output boxes.json
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from data_prep.boxes.box import Box
from data_prep.converters.delimited import LONGEST_CELL
from data_prep.converters.options import converter_parser
from data_prep.detection.convert import add_box_options, found_below, run
from data_prep.detection.objects import LABELS, Marked, NoBox, Sheet, named, numbers_of, of_points, of_sides, whole
from data_prep.detection.via3 import sheets_of_via3
from data_prep.errors import DataError, quoted
from data_prep.records.json_text import decode_utf8, parse_json, read_json, require_regular
from data_prep.records.output import Drop, Reason

EXAMPLES = """  python -m data_prep via via_project.json --images photos --output boxes.json
  python -m data_prep via via_export_csv.csv --images photos --label species --output boxes.json"""


def sheets_of(path: Path, attribute: str | None) -> Iterator[Sheet | Drop]:
    """Yield the pictures of an export; raise DataError for a file that is none of VIA's."""
    if path.suffix.lower() == ".csv":
        yield from _sheets_of_csv(path, attribute)
        return
    value = read_json(path)
    if isinstance(value, dict) and isinstance(value.get("_via_img_metadata"), dict):
        value = value["_via_img_metadata"]
    if isinstance(value, dict) and isinstance(value.get("metadata"), dict) and "view" in value:
        yield from sheets_of_via3(value, path, attribute)
        return
    entries = list(value.values()) if isinstance(value, dict) else []
    if not entries or not all(isinstance(one, dict) and "filename" in one for one in entries):
        raise DataError(path, 'no export of VIA: expected pictures with "filename" and "regions"')
    for entry in entries:
        regions = entry.get("regions") or []
        regions = list(regions.values()) if isinstance(regions, dict) else regions
        objects = [_marked(region, attribute) for region in (regions if isinstance(regions, list) else [regions])]
        yield Sheet(str(entry["filename"]), None, objects, f"{path.name} {entry['filename']}")


def _sheets_of_csv(path: Path, attribute: str | None) -> Iterator[Sheet | Drop]:
    text = decode_utf8(require_regular(path).read_bytes(), path).lstrip("#\ufeff")
    csv.field_size_limit(LONGEST_CELL)
    rows = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        yield from _sheets_of_rows(rows, path, attribute)
    except csv.Error as error:
        problem = f"line {rows.line_num}: broken CSV ({error})"
        raise DataError(path, f"{problem}; look for a quote that is opened and not closed before it") from None


def _sheets_of_rows(rows: csv.DictReader[str], path: Path, attribute: str | None) -> Iterator[Sheet | Drop]:
    needed = ("filename", "region_shape_attributes", "region_attributes")
    if missing := next((name for name in needed if name not in (rows.fieldnames or ())), None):
        raise DataError(path, f'no column "{missing}"; VIA\'s CSV has filename, region_shape_attributes ...')
    pictures: dict[str, list[Marked]] = {}
    for row in rows:
        if any(row[name] is None for name in needed):
            yield Drop(Reason.BAD_BOX, f"{path.name} line {rows.line_num}: cut off, it has too few cells")
            continue
        objects = pictures.setdefault(row["filename"], [])
        try:
            cells = [parse_json((row[name] or "{}").encode(), path) for name in needed[1:]]
        except (json.JSONDecodeError, DataError):
            yield Drop(Reason.BAD_BOX, f"{path.name} line {rows.line_num}: a cell is no JSON")
            continue
        if cells[0]:
            objects.append(_marked({"shape_attributes": cells[0], "region_attributes": cells[1]}, attribute))
    for name, objects in pictures.items():
        yield Sheet(name, None, objects, f"{path.name} {name}")


def _marked(region: Any, attribute: str | None) -> Marked:
    shape = region.get("shape_attributes") if isinstance(region, dict) else None
    if not isinstance(shape, dict):
        return Marked("", None, f"no shape in {quoted(region)}")
    return named(region.get("region_attributes"), attribute, lambda: _box(shape))


def _box(shape: Mapping[str, Any]) -> Box:
    kind = shape.get("name")
    if kind == "rect":
        return of_sides([shape.get(side) for side in ("x", "y", "width", "height")])
    if kind in ("polygon", "polyline"):
        points = zip(numbers_of(shape.get("all_points_x")), numbers_of(shape.get("all_points_y")), strict=False)
        return of_points([number for point in points for number in point])
    if kind in ("circle", "ellipse"):
        sides = ("cx", "cy", "r", "r") if kind == "circle" else ("cx", "cy", "rx", "ry")
        x, y, half_width, half_height = numbers_of([shape.get(side) for side in sides])
        return whole(Box(x - half_width, y - half_height, x + half_width, y + half_height))
    raise NoBox(f"a {kind or 'shape without a name'} is no box")


def main(argv: Sequence[str] | None = None) -> int:
    """Convert an export of VIA."""
    parser = converter_parser("via", "The VGG Image Annotator's exports to questions and answers with boxes.", EXAMPLES)
    parser.add_argument("export", type=Path, help="a project, or annotations exported as JSON or CSV")
    parser.add_argument(
        "--label", help=f"the attribute with an object's name; default: the first of {', '.join(LABELS)}"
    )
    add_box_options(parser)
    args = parser.parse_args(argv)
    return run(args, found_below(sheets_of(args.export, args.label), args.image_folder), "via", [args.export])
