"""COCO's files: pictures by id, and their annotations, checked.

pictures, annotations = coco_of(read_json(path), path, ("caption",))
{"images": [{"id": 7, "file_name": "7.jpg", "width": 640, "height": 480}],
 "annotations": [{"image_id": 7, "caption": "a dog"}]}
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from data_prep.errors import DataError, quoted
from data_prep.records.json_text import kind_of

Entries = list[Mapping[str, Any]]


def coco_of(value: Any, path: Path, needed: tuple[str, ...]) -> tuple[Mapping[Any, Mapping[str, Any]], Entries]:
    """Return (pictures by id, annotations) of a file's value.

    Raises DataError naming the entry that lacks one of `needed`, its picture, or a name of a picture. The "image_id" of
    an annotation may be anything: see `picture_at`.
    """
    if not isinstance(value, dict):
        raise DataError(path, f'expected COCO\'s object with "images" and "annotations", found {kind_of(value)}')
    for key, keys in (("images", ("id", "file_name")), ("annotations", ("image_id", *needed))):
        rows = value.get(key)
        if not isinstance(rows, list):
            raise DataError(path, f'no list "{key}" in it, only {", ".join(value)}; COCO\'s files have one')
        for number, row in enumerate(rows, 1):
            missing = next((name for name in keys if not isinstance(row, dict) or name not in row), None)
            if missing:
                raise DataError(path, f'{key}, entry {number}: no "{missing}" in {quoted(row, 80)}')
            if key == "images" and not is_image_id(row["id"]):
                problem = f'"id" is a whole number or a text, found {shown_value(row["id"])}'
                raise DataError(path, f"images, entry {number}: {problem}")
    return {row["id"]: row for row in value["images"]}, value["annotations"]


def is_image_id(value: Any) -> bool:
    """Say whether a value can name a picture: a text, a whole number, or a float that is whole."""
    if isinstance(value, float):
        return math.isfinite(value) and value.is_integer()
    return isinstance(value, int | str) and not isinstance(value, bool) and value != ""


def shown_value(value: Any) -> str:
    """Return what a value is, for a message."""
    return str(value) if isinstance(value, float) else kind_of(value)


def picture_at(pictures: Mapping[Any, Mapping[str, Any]], row: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the picture of an annotation, None where the file has none; true is not the picture 1."""
    return pictures.get(row["image_id"]) if is_image_id(row["image_id"]) else None


def picture_of(
    path: Path, pictures: Mapping[Any, Mapping[str, Any]], row: Mapping[str, Any], number: int
) -> Mapping[str, Any]:
    """Return the picture of annotation `number`; raise DataError when it is not among them."""
    picture = picture_at(pictures, row)
    if picture is None:
        raise DataError(
            path,
            f"annotations, entry {number}: {unknown(row)}; put the picture there, or take its annotations out",
        )
    return picture


def unknown(row: Mapping[str, Any]) -> str:
    """Say that the picture of an annotation is none of the file's."""
    return f'picture {quoted(row["image_id"], 40)} is not under "images"'


def caption_rows(value: Any, path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (place, row) with `image` and `caption` for each caption; raise DataError as `coco_of` does.

    The caption of a picture that is not in the file names none, and its place says why.
    """
    pictures, annotations = coco_of(value, path, ("caption",))
    for number, row in enumerate(annotations, 1):
        picture = picture_at(pictures, row)
        place = f"annotation {number}" if picture else f"annotation {number}: {unknown(row)}"
        yield place, {"image": picture["file_name"] if picture else "", "caption": row["caption"]}
