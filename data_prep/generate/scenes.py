"""Pictures as text: the captions and boxes of each, from COCO's files or from tables, as a language model reads them.

    read_scenes(Path("captions_train2014.json"), Path("instances_train2014.json"), Path("coco"))[0].as_text()

COCO's captions, COCO's instances, and the same as tables (boxes in pixels, from the top left corner):

    {"images": [{"id": 7, "file_name": "7.jpg", "width": 640, "height": 480}],
     "annotations": [{"image_id": 7, "caption": "a dog"}]}
    {"images": [...], "annotations": [{"image_id": 7, "category_id": 18, "bbox": [x, y, width, height]}],
     "categories": [{"id": 18, "name": "dog"}]}

    image,caption            image,label,x,y,width,height
    7.jpg,a dog              7.jpg,dog,12,30,200,100
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from msgspec import Meta, Struct

from data_prep.converters.captions import CAPTION_NAMES
from data_prep.converters.cells import local_name
from data_prep.converters.coco import caption_rows, coco_of, is_image_id, picture_of
from data_prep.converters.options import files_meant
from data_prep.converters.rows import Reading, Row, column, read_rows
from data_prep.converters.texts import NoText, text_of
from data_prep.converters.usual_names import IMAGE_NAMES
from data_prep.errors import DataError, PictureError, quoted
from data_prep.records.json_text import conform, read_json
from data_prep.records.picture import open_image, resolve_image

LABEL_NAMES = ("label", "category", "class", "object", "name")
SIDES = ("x", "y", "width", "height")


Pixels = Annotated[int, Meta(ge=1, le=2**31 - 1)]


class Category(Struct):
    """An entry of COCO's categories."""

    id: int | str | float
    name: str


class Sized(Struct):
    """What is needed of an entry of COCO's images beside a box."""

    width: Pixels
    height: Pixels


@dataclass(frozen=True)
class Box:
    """An object and its place: left, top, right, bottom as shares (0 to 1) of the picture's width and height."""

    label: str
    place: tuple[float, float, float, float]


@dataclass
class Scene:
    """What is known of one picture."""

    image: str
    captions: list[str] = field(default_factory=list)
    boxes: list[Box] = field(default_factory=list)

    def as_text(self) -> str:
        """Return the captions and boxes as the language model gets them."""
        lines = ["Captions:", *(f"- {text}" for text in self.captions)] if self.captions else []
        if self.boxes:
            lines += (
                ["", "Objects, each with left, top, right, bottom:"]
                if lines
                else ["Objects, each with left, top, right, bottom:"]
            )
            lines += [f"- {box.label}: {' '.join(f'{side:.3f}' for side in box.place)}" for box in self.boxes]
        return "\n".join(lines)


def read_scenes(captions: Path | None, boxes: Path | None, folder: Path) -> list[Scene]:
    """Return the scenes of all pictures named in either file, in the order in which they are first named.

    Raises DataError for a broken file, a caption or box of an unknown picture or category, and a missing column.
    """
    scenes: dict[str, Scene] = {}
    if captions:
        for name, text in _coco_captions(captions) if _is_coco(captions) else _table_captions(captions, folder):
            if text.strip():
                scenes.setdefault(name, Scene(name)).captions.append(text.strip())
    if boxes:
        for name, box in _coco_boxes(boxes) if _is_coco(boxes) else _table_boxes(boxes, folder):
            scenes.setdefault(name, Scene(name)).boxes.append(box)
    return list(_under_right_names(scenes.values(), files_meant(folder, scenes)))


def _under_right_names(scenes: Iterable[Scene], near: Mapping[str, str]) -> Iterator[Scene]:
    """Yield the scenes with missing pictures named as the files that they mean; what is of one file is one scene."""
    found: dict[str, Scene] = {}
    for scene in scenes:
        name = near.get(scene.image, scene.image)
        whole = found.setdefault(name, Scene(name))
        whole.captions += scene.captions
        whole.boxes += scene.boxes
    yield from found.values()


def _is_coco(path: Path) -> bool:
    return path.suffix.lower() == ".json"


def _coco_captions(path: Path) -> Iterator[tuple[str, str]]:
    for place, row in caption_rows(read_json(path), path):
        if not row["image"]:
            raise DataError(path, f"{place}; put the picture there, or take its annotations out")
        yield _text(row["image"], path, place), _text(row["caption"], path, place)


def _text(value: Any, path: Path, place: str) -> str:
    try:
        return text_of(value)
    except NoText as error:
        raise DataError(path, f"{place}: expected a text, found {error}") from None


def _coco_boxes(path: Path) -> Iterator[tuple[str, Box]]:
    value = read_json(path)
    pictures, annotations = coco_of(value, path, ("category_id", "bbox"))
    categories = value.get("categories", [])
    conform(categories, list[Category], f'{path}: under "categories"')
    labels = {row["id"]: row["name"] for row in categories}
    for number, row in enumerate(annotations, 1):
        where = f"annotations, entry {number}"
        picture = picture_of(path, pictures, row, number)
        if not is_image_id(row["category_id"]) or row["category_id"] not in labels:
            raise DataError(path, f'{where}: category {quoted(row["category_id"], 40)} is not under "categories"')
        if not (picture.get("width") and picture.get("height")):
            raise DataError(path, f'{where}: picture {row["image_id"]} has no "width" and "height" under "images"')
        conform(picture, Sized, f"{path}: {where}: picture {row['image_id']}")
        sides = [str(side) for side in row["bbox"]] if isinstance(row["bbox"], list) else []
        box = _box(labels[row["category_id"]], sides, (picture["width"], picture["height"]), path, where)
        yield str(picture["file_name"]), box


def _table_captions(path: Path, folder: Path) -> Iterator[tuple[str, str]]:
    names: tuple[str, str] | None = None
    for place, row in read_rows(path, Reading(option="")):
        names = names or (
            column(row, None, IMAGE_NAMES, "picture", path, ""),
            column(row, None, CAPTION_NAMES, "caption", path, ""),
        )
        if cell := _text(row.get(names[0]), path, place).strip():
            yield local_name(cell, folder), _text(row.get(names[1]), path, place)


def _table_boxes(path: Path, folder: Path) -> Iterator[tuple[str, Box]]:
    sizes: dict[str, tuple[int, int]] = {}
    names: list[str] | None = None
    for place, row in read_rows(path, Reading(option="")):
        names = names or _box_columns(row, path)
        if not (cell := _text(row.get(names[0]), path, place).strip()):
            continue
        name = local_name(cell, folder)
        if name not in sizes:
            sizes[name] = _size(folder, name, path, place)
        sides = [_text(row.get(side), path, place) for side in names[2:]]
        yield name, _box(_text(row.get(names[1]), path, place).strip(), sides, sizes[name], path, place)


def _box_columns(row: Row, path: Path) -> list[str]:
    sides = [column(row, None, (side,), f"box ({side})", path, "") for side in SIDES]
    return [
        column(row, None, IMAGE_NAMES, "picture", path, ""),
        column(row, None, LABEL_NAMES, "object", path, ""),
        *sides,
    ]


def _size(folder: Path, name: str, path: Path, place: str) -> tuple[int, int]:
    try:
        return open_image(resolve_image(folder, name)).size
    except PictureError as error:
        raise DataError(path, f"{place}: {name}: {error.problem}") from None


def _box(label: str, sides: list[str], size: tuple[int, int], path: Path, where: str) -> Box:
    """Return a box in shares, cut to the picture; raise DataError when the four sides are no box."""
    try:
        x, y, width, height = (float(side) for side in sides)
    except (ValueError, OverflowError):
        raise DataError(path, f"{where}: a box is four numbers x, y, width, height, found {quoted(sides)}") from None
    if not label or width <= 0 or height <= 0 or not all(map(math.isfinite, (x, y, width, height))):
        raise DataError(
            path, f"{where}: a box needs a label, a width and a height above 0, found {label!r} {quoted(sides)}"
        )
    edges = (x / size[0], y / size[1], (x + width) / size[0], (y + height) / size[1])
    left, top, right, bottom = (min(max(edge, 0.0), 1.0) for edge in edges)
    return Box(label, (left, top, right, bottom))
