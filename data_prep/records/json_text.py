"""JSON from outside: read once, by msgspec, with bounds on depth and on the length of integers.

Every JSON file of the two command lines passes here. Python's own reader takes four times as long at a million records
and ends in RecursionError or ValueError on what it was not made for; it is asked only about what msgspec refuses, to
name the place, or to read what msgspec does not (NaN, half a surrogate pair).

read_json(Path("captions_train2014.json"))["annotations"]
"""

from __future__ import annotations

import codecs
import json
import re
import stat
from pathlib import Path
from typing import Any

import msgspec

from data_prep.errors import DataError, quoted

BOM = b"\xef\xbb\xbf"
UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
"""How files begin that a program of Windows, PowerShell's `>` for one, has written."""
MAX_DEPTH = 100
"""Lists and objects inside one another; code that walks a value copies it one call a level, and Python has 1,000."""
MAX_DIGITS = 300
"""Digits of an integer: below Python's own limit of 4,300, and few enough that a float still holds its size."""

_decode = msgspec.json.Decoder().decode
_LONG_INTEGER = re.compile(rb"(?<![\d.])-?\d{%d,}(?![\d.eE])" % (MAX_DIGITS + 1))
_MARKS = re.compile(rb'"(?:[^"\\]|\\.)*"|[\[\]{}]', re.DOTALL)


def read_json(path: Path) -> Any:
    """Return the value in a JSON file.

    Raises DataError for what is no regular file, for text that is not UTF-8, for broken JSON, and for a value that is
    nested deeper than MAX_DEPTH or holds an integer of more than MAX_DIGITS digits.
    """
    raw = require_regular(path).read_bytes().removeprefix(BOM)
    try:
        return parse_json(raw, path)
    except json.JSONDecodeError as error:
        raise DataError(path, broken_json(error)) from None


def require_regular(path: Path, kind: str = "file") -> Path:
    """Return `path`. Raises DataError unless it is a regular file: a FIFO or a device would be waited for, for ever."""
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        raise DataError(path, f"no such {kind}") from None
    except (OSError, ValueError) as error:  # a name that is too long, a NUL in it, a folder that may not be read
        why = getattr(error, "strerror", None) or error
        advice = "make it readable" if isinstance(error, PermissionError) else f"copy the {kind} again"
        raise DataError(path, f"cannot be opened ({why}); {advice}, or name another") from None
    if stat.S_ISREG(mode):
        return path
    if stat.S_ISDIR(mode):
        raise DataError(path, f"is a folder; name the {kind} in it")
    what = "a FIFO" if stat.S_ISFIFO(mode) else "a socket" if stat.S_ISSOCK(mode) else "a device"
    raise DataError(path, f"is {what}, expected a regular file; write its content to a {kind} and give that")


def parse_json(raw: bytes, file: object, line: int = 1) -> Any:
    """Return the value of a JSON text that begins on `line` of `file`.

    Raises json.JSONDecodeError (place within the text) for broken JSON, and DataError for what is not UTF-8, too deep,
    or holds too long an integer.
    """
    try:
        value = _decode(raw)
    except (msgspec.MsgspecError, RecursionError):
        value = _read_again(raw, file, line)
    if raw.count(b"[") + raw.count(b"{") > MAX_DEPTH and is_deep(value):
        raise _too_deep(raw, file, line)
    return value


def _read_again(raw: bytes, file: object, line: int) -> Any:
    text = decode_utf8(raw, file, line)
    try:
        return json.loads(text, parse_int=_integer)
    except RecursionError:
        raise _too_deep(raw, file, line) from None
    except _TooLongError as error:
        found = _LONG_INTEGER.search(raw)
        at = line + raw.count(b"\n", 0, found.start() if found else 0)
        problem = f"line {at}: an integer of {error.args[0]:,} digits, at most {MAX_DIGITS} are read"
        raise DataError(file, f'{problem}; put it between quotes ("...") if it is a name') from None


def json_in(text: str) -> Any:
    """Return the value that a text inside of data writes as JSON; None where it writes none that may be used.

    >>> json_in('{"side": "left"}'), json_in("left"), json_in("[" * 5000 + "]" * 5000)
    ({'side': 'left'}, None, None)
    """
    try:
        return parse_json(text.encode(), "a text")
    except (json.JSONDecodeError, DataError, UnicodeEncodeError):
        return None


class _TooLongError(Exception):
    """An integer of more than MAX_DIGITS digits; its argument is how many."""


def _integer(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise _TooLongError(len(digits))
    return int(digits)


def is_deep(value: Any) -> bool:
    """Say whether lists and objects in `value` stand in one another deeper than MAX_DEPTH; level by level, no calls."""
    level = [value] if isinstance(value, dict | list) else []
    for _ in range(MAX_DEPTH):
        level = [
            child
            for node in level
            for child in (node.values() if type(node) is dict else node)
            if type(child) is dict or type(child) is list
        ]
        if not level:
            return False
    return True


def _too_deep(raw: bytes, file: object, line: int) -> DataError:
    depth = 0
    for mark in _MARKS.finditer(raw):
        depth += {b"[": 1, b"{": 1, b"]": -1, b"}": -1}.get(mark.group(), 0)
        if depth > MAX_DEPTH:
            at = line + raw.count(b"\n", 0, mark.start())
            column = mark.start() - raw.rfind(b"\n", 0, mark.start())
            break
    else:
        at, column = line, 1
    problem = f"line {at}, column {column}: nested more than {MAX_DEPTH} deep, which no file of this kind is"
    return DataError(file, f"{problem}; mend that place, or write the file again")


def conform(value: Any, kind: Any, file: object) -> None:
    """Compare `value` with a type of msgspec's; raise DataError with the place in it, what is expected and found."""
    try:
        msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        said, _, place = str(error).partition(" - at ")
        place = place.strip("`").removeprefix("key` in `")
        raise DataError(file, _in_words(said, place, value)) from None
    except UnicodeEncodeError:
        raise _half_a_character(file) from None


def require_characters(value: Any, file: object) -> None:
    """Raise DataError where a text in `value` holds half of a surrogate pair: no library that is given it takes it."""
    try:
        try:
            msgspec.json.encode(value)
        except OverflowError:  # integers of more than 64 bits, as some tokenizers' longest length
            json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise _half_a_character(file) from None


def _half_a_character(file: object) -> DataError:
    return DataError(file, "a text holds half of a surrogate pair, which is no character; write the file again")


def _in_words(said: str, place: str, value: Any) -> str:
    """Put msgspec's words into ours: `hidden_size: expected a whole number, found a string "64"`."""
    name = place.removeprefix("$").removeprefix(".")
    where = f"{name}: " if name else ""
    remedy = "; write the file again, or mend that place"
    if missing := re.search(r"missing required field `(.+)`", said):
        return f"{where}lacks {missing[1]!r}{remedy}"
    found = _shown(_at(value, place))
    if said.startswith("Invalid enum value"):
        return f"{where}found {found}, which is none of the words that are known there{remedy}"
    if said.startswith("Number out of range"):
        return f"{where}expected a smaller number, found {found}{remedy}"
    wanted = said.partition(", got ")[0].removeprefix("Expected ").replace(" | null", "").replace(" | ", " or ")
    for word, ours in _WORDS.items():
        wanted = wanted.replace(word, ours)
    return f"{where}expected {wanted}, found {found}{remedy}"


_WORDS = {
    "`int`": "a whole number", "`float`": "a number", "`str`": "a string", "`object`": "an object",
    "`array`": "a list", "`bool`": "true or false", "`null`": "null",
    "`int": "a whole number", "`float": "a number", "`str": "a string", "`object": "an object", "`array": "a list",
    "`bool": "true or false", "or int": "or a whole number", "or float": "or a number", "or str": "or a string",
    "or object": "or an object", "or array": "or a list", "or bool": "or true or false",
    "<=": "of at most", ">=": "of at least", "< ": "below ", "> ": "above ", "`": "",
}  # fmt: skip


def _at(value: Any, place: str) -> Any:
    """Follow `$.a[0].b` into a value; a key that msgspec does not name (`[...]`) is looked for no further."""
    for name, index in re.findall(r"\.([^.\[]+)|\[(\d+|\.\.\.)\]", place):
        try:
            value = value[name] if name else value[int(index)]
        except (KeyError, IndexError, TypeError, ValueError):
            return value
    return value


def _shown(value: Any) -> str:
    if isinstance(value, str):
        return f"a string {json.dumps(value[:40])}"
    if isinstance(value, dict | list):
        return kind_of(value)
    return quoted(value) if isinstance(value, float) else json.dumps(value)[:60]


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
        told = "UTF-16" if raw.startswith(UTF16) else "CP1252"
        raise DataError(file, f"line {at}: {found}; save the file as UTF-8 (iconv -f {told} -t UTF-8)") from None


def kind_of(value: object) -> str:
    """Name the JSON kind of `value` for a message."""
    kinds = {dict: "an object", list: "a list", str: "a string", bool: "true or false", type(None): "null"}
    return kinds.get(type(value), "a number")
