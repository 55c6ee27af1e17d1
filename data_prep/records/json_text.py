"""JSON and UTF-8 as text, with messages that name file, line and column.

read_json(Path("captions_train2014.json"))["annotations"]
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from data_prep.errors import DataError

BOM = b"\xef\xbb\xbf"


def read_json(path: Path) -> Any:
    """Return the value in a JSON file; raise DataError for no file, text that is not UTF-8, and broken JSON."""
    if not path.is_file():
        raise DataError(path, "no such file" if not path.exists() else "is a folder; name the file in it")
    try:
        return json.loads(decode_utf8(path.read_bytes().removeprefix(BOM), path))
    except json.JSONDecodeError as error:
        raise DataError(path, broken_json(error)) from None


def broken_json(error: json.JSONDecodeError) -> str:
    """Return the message for broken JSON: line, column, what json found, what to do."""
    return (
        f"line {error.lineno}, column {error.colno}: broken JSON ({error.msg[:1].lower()}{error.msg[1:]}); "
        "mend that place, or write the file again if it is cut off"
    )


def decode_utf8(raw: bytes, file: object, line: int = 1) -> str:
    """Return `raw` as text; raise DataError with the line of the first byte that is not UTF-8."""
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        at = line + raw.count(b"\n", 0, error.start)
        found = f"byte 0x{raw[error.start]:02x} is not UTF-8"
        raise DataError(file, f"line {at}: {found}; save the file as UTF-8 (iconv -f CP1252 -t UTF-8)") from None


def kind_of(value: object) -> str:
    """Name the JSON kind of `value` for a message."""
    kinds = {dict: "an object", list: "a list", str: "a string", bool: "true or false", type(None): "null"}
    return kinds.get(type(value), "a number")
