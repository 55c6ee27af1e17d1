"""What is a text and what is not: one answer for tables and for Hugging Face data sets, so that no `str()` is taught.

text_of(3.0)                            # '3'
texts_of("['red', 'red', 'blue']")      # ['red', 'red', 'blue']: answers of several people
texts_of([0.12, 0.34, 0.56, 0.78])      # ['[0.12, 0.34, 0.56, 0.78]']: one answer, a box
text_of({"en": "What?"})                # NoText: an object with the keys en
"""

from __future__ import annotations

import ast
import datetime
import math
import re
import struct
import warnings
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

from data_prep.records.json_text import is_deep, json_in

EXACT = 1e22
"""Whole floats below it are written out; above, their digits say more than was measured."""
QUOTED = r"""(?:'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")"""
NUMPY_TEXTS = re.compile(rf"\[\s*{QUOTED}(?:\s+{QUOTED})+\s*\]", re.S)
"""numpy writes texts without commas, which Python would join into one."""
NUMPY_ARRAY = re.compile(r"array\((\[.*\])(?:, *dtype=[\w.]+)?\)", re.S)
WORDS = {"nan": None, "NaN": None, "null": None, "true": True, "false": False}
BRACKETS = ("[]", "()")
LONGEST_LIST = 1_000_000
"""Characters of a cell that is looked at as a list."""


class NoText(ValueError):
    """A value that is no text; the message says what it is."""


def text_of(value: Any) -> str:
    """Return a value as the text that a person sees.

    3.0 is 3, a date 2024-05-01, true true; NaN and nothing are empty; a list of numbers is written as it stands.
    Raises NoText for an object (its keys are named), other lists, bytes and infinity.
    """
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return _number(value)
    return _other(value)


def _other(value: Any) -> str:
    if isinstance(value, Decimal):
        whole = not value.is_finite() or value == value.to_integral_value()
        return _number(float(value)) if whole else format(value.normalize(), "f")
    if isinstance(value, datetime.datetime):
        return value.date().isoformat() if value.time() == datetime.time() else value.isoformat(sep=" ")
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, Mapping):
        raise NoText(f"an object with the keys {', '.join(map(str, value))}" if value else "an empty object")
    if isinstance(value, list | tuple):
        if is_numbers(value):
            return written(value)
        inside = next((one for one in value if one is not None), None)
        raise NoText(f"a list of {len(value)}" + (f" ({kind_of_value(inside)} first)" if inside is not None else ""))
    raise NoText(kind_of_value(value))


def kind_of_value(value: Any) -> str:
    """Name what a value is, for a message."""
    kinds = {str: "a text", dict: "an object", list: "a list", bytes: "bytes", bool: "true or false"}
    return kinds.get(type(value), "a number" if isinstance(value, int | float) else type(value).__name__)


def _number(value: float) -> str:
    if math.isnan(value):
        return ""
    if math.isinf(value):
        raise NoText("infinity")
    if value.is_integer() and abs(value) < EXACT:
        return str(int(value))
    shortest = repr(value)
    return _single(value, shortest) if len(shortest) > 12 else shortest


def _single(value: float, shortest: str) -> str:
    """Return the shortest text of a number that is one of 32 bits: 0.12 is stored as 0.11999999731779099."""
    try:
        if struct.unpack("f", struct.pack("f", value))[0] != value:
            return shortest
    except OverflowError:
        return shortest
    near = (f"{value:.{digits}g}" for digits in range(1, 10))
    return next((text for text in near if struct.unpack("f", struct.pack("f", float(text)))[0] == value), shortest)


def is_numbers(value: Sequence[Any]) -> bool:
    """Say whether a list holds numbers only, or lists of them: a box, a point, a polygon."""
    return len(value) > 0 and all(
        is_numbers(one) if isinstance(one, list | tuple) else isinstance(one, int | float) and not isinstance(one, bool)
        for one in value
    )


def written(value: Sequence[Any]) -> str:
    """Return a list of numbers as JSON writes it, whole numbers whole."""
    parts = [written(one) if isinstance(one, list | tuple) else text_of(one) for one in value]
    if not all(parts):
        raise NoText("a list of numbers with NaN in it")
    return f"[{', '.join(parts)}]"


def texts_of(value: Any) -> list[str]:
    """Return the answers in a cell: none, one, or those of several people (a list, also one written as a text).

    Lists of `{"answer": ...}`, as VQA has them, give their answers; a list of numbers is one answer. Raises NoText as
    `text_of` does.
    """
    found = listed(value) if isinstance(value, str) else value
    if isinstance(found, list | tuple) and not is_numbers(found):
        some = [one["answer"] if isinstance(one, Mapping) and "answer" in one else one for one in found]
        return [text for one in some if (text := text_of(one)).strip()]
    return [text] if (text := text_of(found)).strip() else []


def listed(text: str) -> str | list[Any]:
    """Return the list that a cell writes (JSON, Python, pandas, numpy), or the text where it is meant as it stands.

    A tuple of Python is one: ('red', 'blue').

    Lists of numbers, of lists and of objects without `answer` stay the text that they are: one answer.
    """
    bare = text.strip()
    if found := NUMPY_ARRAY.fullmatch(bare):
        bare = text = found[1]
    if bare[:1] + bare[-1:] not in BRACKETS or len(bare) > LONGEST_LIST:
        return text
    values = parsed_list(bare)
    if values is None or is_numbers(values):
        return text
    if not values and bare == "()":
        return text
    plain = all(not isinstance(one, list | Mapping) or (isinstance(one, Mapping) and "answer" in one) for one in values)
    return values if plain else text


def parsed_list(bare: str) -> list[Any] | None:
    """Return the list that a text in brackets writes as JSON, Python or numpy would; None where it is none."""
    values = json_in(bare)
    if values is None:
        values = _python(bare)
    return values if isinstance(values, list) and not is_deep(values) else None


def _python(bare: str) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of escapes that Python does not know
        try:
            if NUMPY_TEXTS.fullmatch(bare):
                return [ast.literal_eval(one) for one in re.findall(QUOTED, bare, re.S)]
            return _value(ast.parse(bare, mode="eval").body)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            return None


def _value(node: ast.expr) -> Any:
    if isinstance(node, ast.List | ast.Tuple):
        return [_value(one) for one in node.elts]
    if isinstance(node, ast.Name) and node.id in WORDS:
        return WORDS[node.id]
    return ast.literal_eval(node)
