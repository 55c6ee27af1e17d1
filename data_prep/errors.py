"""Errors whose message is the whole story: what, where, expected, found, what to do next.

They are apart from the readers so that pictures and records can raise them without importing each other.

    raise DataError("records.json", 'record "okvqa-1": no text in turn 2; write an answer or drop the record')
"""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from enum import Enum
from itertools import islice
from typing import Any


class UserError(Exception):
    """Something in the input, the machine or the run is wrong; the command says so and ends with `exit_code`."""

    exit_code = 1


class DataError(UserError):
    """Data that cannot be used; the text names the file and, where there is one, the record."""

    def __init__(self, where: object, problem: str) -> None:
        """Join `where` (a file, as its path prints) and `problem`; a line break in a name is shown as an escape."""
        self.where = printable(where)
        self.problem = problem
        super().__init__(f"{self.where}: {problem}")


class UsageError(DataError):
    """A command that was called wrongly."""

    exit_code = 2

    def __init__(self, problem: str) -> None:
        """Keep `problem` as the whole message."""
        super().__init__("", problem)
        self.args = (problem,)

    def __str__(self) -> str:
        return self.problem


class PictureFault(Enum):
    """Why a picture cannot be used; the value is the word that tables and counts show."""

    MISSING = "image missing"
    OUTSIDE = "image outside the folder"
    NOT_A_PICTURE = "not a picture"
    TRUNCATED = "image truncated"
    HUGE = "image too large"
    UNREADABLE = "image unreadable"


class PictureError(DataError):
    """A picture that cannot be used, with its fault as a value for those who count."""

    def __init__(self, where: object, fault: PictureFault, problem: str) -> None:
        """Keep `fault` beside the message."""
        self.fault = fault
        super().__init__(where, problem)


def printable(name: object) -> str:
    """Return `name` as one line of text: control characters and broken Unicode become escapes.

    >>> printable("a\\nb.jpg")
    'a\\\\nb.jpg'
    """
    text = str(name)
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in text)


def shortened(name: str, most: int = 80) -> str:
    """Return a name for a message: a long one, such as a picture as base64, is cut and its length told.

    >>> shortened("a" * 5000, 8)
    'aaaaaaaa... (5,000 characters)'
    """
    return name if len(name) <= most else f"{name[:most]}... ({len(name):,} characters)"


def quoted(value: object, most: int = 60) -> str:
    """Return a value for a message as Python writes it; what is long is cut inside of its quotes and brackets.

    >>> quoted("b" * 5000, 17), quoted({"answers": ["yes"] * 9})
    ("'bbbbbb...bbbbbb'", "{'answers': ['yes', 'yes', 'yes', 'yes', ...]}")
    """
    short = _Short()
    short.maxlevel, short.maxlist = 2, 4
    short.maxlong = short.maxother = most
    short.maxstring = most if isinstance(value, str) else max(most // 2, 17)
    return short.repr(value)


class _Short(reprlib.Repr):
    """As the library's, with the keys of an object in their own order."""

    def repr_dict(self, x: Mapping[Any, Any], level: int) -> str:
        if level <= 0 and x:
            return "{...}"
        pairs = [f"{self.repr1(key, level - 1)}: {self.repr1(x[key], level - 1)}" for key in islice(x, self.maxdict)]
        return "{" + ", ".join([*pairs, *["..."] * (len(x) > self.maxdict)]) + "}"


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or the name of its type where it has none.

    >>> first_line(OSError()), first_line(ValueError("no such column\\nof these: a, b"))
    ('OSError', 'no such column')
    """
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
