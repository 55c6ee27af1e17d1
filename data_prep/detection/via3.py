"""VIA 3's projects, in which regions, views and files are tables that name each other.

{"file": {"1": {"fname": "a.jpg"}}, "view": {"1": {"fid_list": ["1"]}},
 "attribute": {"1": {"aname": "label", "options": {"0": "dog"}}},
 "metadata": {"1_x": {"vid": "1", "xy": [2, 12, 30, 200, 100], "av": {"1": "0"}}}}
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from data_prep.boxes.box import Box
from data_prep.detection.objects import Marked, NoBox, Sheet, named, numbers_of, of_points, of_sides, whole
from data_prep.errors import DataError, quoted

RECTANGLE, CIRCLE, ELLIPSE, OUTLINES = 2, 3, 4, (6, 7)


def sheets_of_via3(value: Mapping[str, Any], path: Path, attribute: str | None) -> Iterator[Sheet]:
    """Yield the pictures of a VIA 3 project; raise DataError where its tables do not fit together."""
    files, attributes = value.get("file"), value.get("attribute") or {}
    if not isinstance(files, dict) or not isinstance(attributes, dict):
        raise DataError(path, 'no "file" or "attribute" in it; a project of VIA 3 has both')
    try:
        views = {view: str(row["fid_list"][0]) for view, row in value["view"].items() if row.get("fid_list")}
        names = {number: str(row["fname"]) for number, row in files.items()}
        pictures: dict[str, list[Marked]] = {names[views[view]]: [] for view in views}
        for row in value["metadata"].values():
            if row.get("xy"):
                pictures[names[views[str(row["vid"])]]].append(_marked(row, attributes, attribute))
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(path, f"its tables do not fit together ({quoted(error, 80)})") from None
    for name, objects in pictures.items():
        yield Sheet(name, None, objects, f"{path.name} {name}")


def _marked(row: Mapping[str, Any], attributes: Mapping[str, Any], wanted: str | None) -> Marked:
    return named(_values(row.get("av") or {}, attributes), wanted, lambda: _box(row["xy"]))


def _values(values: Mapping[str, Any], attributes: Mapping[str, Any]) -> dict[str, str]:
    """Return a region's attributes by their names, chosen options as their texts."""
    found = {}
    for number, value in values.items():
        about = attributes.get(number) or {}
        options = about.get("options") or {}
        ticked = str(value).split(",") if options else [value]  # a text that was typed may hold commas
        chosen = [str(options.get(one, one)) for one in ticked]
        found[str(about.get("aname", number))] = " and ".join(chosen)
    return found


def _box(shape: Any) -> Box:
    kind, *numbers = numbers_of(shape)
    if kind == RECTANGLE:
        return of_sides(numbers)
    if kind in OUTLINES:
        return of_points(numbers)
    if kind in {CIRCLE, ELLIPSE}:
        x, y, *radii = numbers_of(numbers, 3 if kind == CIRCLE else 4)
        return whole(Box(x - radii[0], y - radii[-1], x + radii[0], y + radii[-1]))
    raise NoBox(f"shape {kind:g} of VIA 3 is no box")
