"""JSON files as rows: a list, lines, and the objects in which others keep their rows.

[{"image": "a.jpg", ...}, ...]                           a list, or JSON lines
{"data": [{"image": "a.jpg", ...}, ...]}                 a list under a key
{"images": [...], "annotations": [{"caption": ...}]}     COCO captions
{"image": {"0": "a.jpg"}, "question": {"0": "What?"}}    pandas' to_json, in any orientation
{"a.jpg": "a dog"}, {"a.jpg": {"caption": "a dog"}}      by the picture's name
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from data_prep.converters.coco import caption_rows
from data_prep.converters.encodings import encoding_of
from data_prep.errors import DataError, quoted, shortened
from data_prep.records.foreign import ENDINGS
from data_prep.records.json_text import broken_json, kind_of, parse_json, read_json
from data_prep.records.record import read_records

Row = dict[str, Any]
Placed = tuple[str, Row]
LONGEST_LINE = 1 << 26
COLUMN_NAMES = {"image", "images", "question", "answer", "answers", "caption", "text", "label", "file_name", "messages"}


def json_rows(
    path: Path, part: str | None, encoding: str | None = None, option: str = "--encoding"
) -> Iterator[Placed]:
    """Yield (place, row) of a .json or .jsonl file, one at a time where it is a list or lines.

    `part` names the list of an object that holds several. Raises DataError for broken JSON (line and column), an
    unknown encoding, rows that are no objects, and an object that holds no rows.
    """
    name = encoding_of(path, encoding, option)
    if name not in {"utf-8", "utf-8-sig"}:
        return _numbered(_whole(path, path.read_text(encoding=name).lstrip("\ufeff"), part), path)
    if path.suffix.lower() == ".json" and _is_object(path):
        return rows_of_object(read_json(path), path, part)
    return _records(path)


def _records(path: Path) -> Iterator[Placed]:
    records = read_records(path)
    has_lines = len(records) < 2 or records.line(0) != records.line(1)
    for index in range(len(records)):
        yield f"line {records.line(index)}" if has_lines else f"entry {index + 1}", records[index]


def _is_object(path: Path) -> bool:
    """Say whether a file holds one JSON object, and not a line for each."""
    with path.open("rb") as stream:
        first = stream.readline(LONGEST_LINE).removeprefix(b"\xef\xbb\xbf").strip()
        while not first and (line := stream.readline(LONGEST_LINE)):
            first = line.strip()
        if not first.startswith(b"{"):
            return False
        rest = stream.read(4096).strip()
    try:
        json.loads(first)
    except (ValueError, RecursionError):
        return True
    return not rest


def _whole(path: Path, text: str, part: str | None) -> Iterable[Any]:
    try:
        if path.suffix.lower() == ".json":
            value = parse_json(text.encode("utf-8", "surrogatepass"), path)
            return value if isinstance(value, list) else [row for _, row in rows_of_object(value, path, part)]
        lines = enumerate(text.encode("utf-8", "surrogatepass").split(b"\n"), 1)
        return [parse_json(line, path, number) for number, line in lines if line.strip()]
    except json.JSONDecodeError as error:
        raise DataError(path, broken_json(error)) from None


def _numbered(rows: Iterable[Any], path: Path) -> Iterator[Placed]:
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict):
            raise DataError(path, f"entry {number}: expected an object {{...}}, found {kind_of(row)}")
        yield f"entry {number}", row


def rows_of_object(value: Any, path: Path, part: str | None = None) -> Iterator[Placed]:
    """Yield the rows that an object holds (see above); raise DataError that names its keys where it holds none."""
    if not isinstance(value, dict):
        raise DataError(path, f"expected a list of rows, found {kind_of(value)}")
    if isinstance(value.get("images"), list) and isinstance(value.get("annotations"), list):
        yield from _coco(value, path)
        return
    if isinstance(value.get("questions"), list) and not value.get("image"):
        raise DataError(
            path, "official VQA questions; python -m data_prep vqa --questions Q --annotations A reads them"
        )
    _refuse_descriptions(value, path)
    lists = {key: rows for key, rows in value.items() if _is_rows(rows)}
    columns = COLUMN_NAMES & {key for key in value if key != "images" or key not in lists}
    named = ", ".join(f"{key} ({len(rows)})" for key, rows in lists.items())
    part = next((key for key in lists if part and key.lower() == part.lower()), part)
    if part and len(lists) > 1 and part not in lists and not columns:
        raise DataError(path, f'no list "{part}"; there are {named}; name the one to read with --sheet')
    chosen = part if part in lists else next(iter(lists)) if len(lists) == 1 else "train" if "train" in lists else None
    if chosen is not None and not columns:
        if len(lists) > 1 and not part:
            print(f'{path}: the list "{chosen}" is read, of {named}; another with --sheet (table) or --split (hf)')
        for number, row in enumerate(lists[chosen], 1):
            yield f"{chosen} {number}", row
        return
    if len(lists) > 1 and not columns:
        raise DataError(path, f"several lists in one object: {named}; name one with --sheet (table) or --split (hf)")
    yield from _by_shape(value, path)


def _refuse_descriptions(value: Mapping[str, Any], path: Path) -> None:
    """Raise DataError for LLaMA-Factory's dataset_info.json, which describes files of data and holds none."""
    files = [
        one["file_name"] for one in value.values() if isinstance(one, Mapping) and {"file_name", "columns"} <= set(one)
    ]
    if files:
        raise DataError(path, f"describes data of LLaMA-Factory; give the file that it names, {quoted(files[0])}")


def _coco(value: Mapping[str, Any], path: Path) -> Iterator[Placed]:
    first: Any = next(iter(value["annotations"]), {})
    if isinstance(first, Mapping) and "bbox" in first and "caption" not in first:
        raise DataError(path, "COCO's boxes; python -m data_prep coco-boxes makes questions and answers of them")
    yield from caption_rows(value, path)


def _is_rows(value: Any) -> bool:
    return isinstance(value, list) and len(value) > 0 and all(isinstance(row, dict) for row in value)


def _by_shape(value: dict[str, Any], path: Path) -> Iterator[Placed]:
    kinds = {type(one) for one in value.values()}
    if {"columns", "data"} <= set(value) and isinstance(value["columns"], list) and isinstance(value["data"], list):
        if wrong := next((row for row in value["data"] if not isinstance(row, list)), None):
            raise DataError(path, f"data: expected a list of cells for each row, found {quoted(wrong)}")
        cells = (zip(map(str, value["columns"]), row, strict=False) for row in value["data"])
        yield from _numbered(map(dict, cells), path)
    elif value and all(PurePosixPath(key).suffix.lower() in ENDINGS for key in value):
        for key, one in value.items():
            yield f"entry {key}", {"image": key, **(one if isinstance(one, dict) else {"caption": one})}
    elif kinds == {dict} and not COLUMN_NAMES & {key.lower() for key in value}:
        for key, one in value.items():
            yield f"entry {key}", {"id": key, **one}
    elif kinds == {dict}:
        index = dict.fromkeys(key for one in value.values() for key in one)
        yield from _numbered(({name: one.get(key) for name, one in value.items()} for key in index), path)
    elif kinds == {list} and len({len(one) for one in value.values()}) == 1:
        rows = zip(*value.values(), strict=True)
        yield from _numbered((dict(zip(value, row, strict=True)) for row in rows), path)
    elif (COLUMN_NAMES | {"conversations"}) & set(value):
        yield "entry 1", value
    else:
        keys = ", ".join(shortened(key, 40) for key in list(value)[:10])
        raise DataError(path, f"an object with the keys {keys}; put the rows into one list [...]")
