"""The elements of a JSON list in a file, found piece by piece: memory does not grow with the file.

for start, size, line in elements(Path("records.json")):
    ...     # the element's first byte, its number of bytes, the line (from 1) on which it begins
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from data_prep.errors import DataError
from data_prep.records.json_text import BOM, broken_json, decode_utf8, kind_of, read_json

CHUNK = 1 << 20
LONGEST_WORD = 16
"""Characters: an error so near the end of what was read may be the end of what was read (`tru`, `\\u00`)."""
WHITE_SPACE = " \t\n\r"


def elements(file: Path) -> Iterator[tuple[int, int, int]]:
    """Yield first byte, number of bytes and line of each element.

    Raises DataError (line and column) where the text is not one JSON list, or not UTF-8.
    """
    with file.open("rb", buffering=0) as stream:
        window = _Window(stream, file)
        try:
            if window.character() != "[":
                raise DataError(file, _not_a_list(file))
            window.pass_to(window.at + 1)
            while window.character() != "]":
                start, line = window.byte, window.line
                window.pass_to(window.end_of_element())
                yield start, window.byte - start, line
                if window.character() == ",":
                    window.pass_to(window.at + 1)
                    if window.character() == "]":
                        raise window.error("a comma before the closing ]")
                elif window.character() != "]":
                    raise window.error("expected a comma or ]")
            window.pass_to(window.at + 1)
            if window.character():
                raise window.error("text after the closing ]")
        except json.JSONDecodeError as error:
            raise DataError(file, broken_json(window.placed(error))) from None


class _Window:
    """The part of a file that is looked at, as text; `at`, `byte` and `line` are the place in it, in the file."""

    def __init__(self, stream: BinaryIO, file: Path) -> None:
        """Nothing is read yet."""
        self.text, self.at, self.byte, self.line = "", 0, 0, 1
        self._column = 1  # of the text's first character
        self._stream, self._file, self._ended = stream, file, False
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._json = json.JSONDecoder(parse_int=str)  # only the end is asked for, and digits may be thousands

    def character(self) -> str:
        """Pass over white space; return the character after it, "" at the end of the file."""
        while (first := self.text[self.at : self.at + 1]) in WHITE_SPACE:
            self.pass_to(json.decoder.WHITESPACE.match(self.text, self.at).end())  # type: ignore[attr-defined]
            if self.at == len(self.text):
                if self._ended:
                    return ""
                self._read_on()
        return first

    def end_of_element(self) -> int:
        """Return where the element at the place ends."""
        while True:
            try:
                _, end = self._json.raw_decode(self.text, self.at)
                if end <= len(self.text) - LONGEST_WORD or self._ended:  # else a number may go on: 1. or 1e+
                    return end
            except RecursionError:
                raise self.error("nested too deeply") from None
            except json.JSONDecodeError as error:
                cut_off = error.msg.startswith("Unterminated") or error.pos > len(self.text) - LONGEST_WORD
                if self._ended or not cut_off:
                    raise
            self._read_on()

    def pass_to(self, place: int) -> None:
        """Move on in the text."""
        passed = self.text[self.at : place]
        self.byte += len(passed) if passed.isascii() else len(passed.encode())
        self.line += passed.count("\n")
        self.at = place

    def error(self, message: str) -> json.JSONDecodeError:
        """Return an error at the place."""
        return json.JSONDecodeError(message, self.text, self.at)

    def placed(self, error: json.JSONDecodeError) -> json.JSONDecodeError:
        """Give an error of the text the file's line and column."""
        error.lineno = self.line + self.text.count("\n", self.at, error.pos)
        newline = self.text.rfind("\n", 0, error.pos)
        error.colno = error.pos - newline if newline >= 0 else self._column + error.pos
        return error

    def _read_on(self) -> None:
        """Drop what was passed and read as much again as is left, at least a megabyte."""
        newline = self.text.rfind("\n", 0, self.at)
        self._column = self.at - newline if newline >= 0 else self._column + self.at
        self.text, self.at = self.text[self.at :], 0
        raw = self._stream.read(max(CHUNK, len(self.text)))
        self._ended = not raw
        try:
            self.text += self._decoder.decode(raw, self._ended)
        except UnicodeDecodeError as error:
            decode_utf8(error.object, self._file, self.line + self.text.count("\n"))
            raise
        if not self.byte and self.text.startswith("\ufeff"):
            self.text, self.byte = self.text[1:], len(BOM)


def _not_a_list(file: Path) -> str:
    value = read_json(file)
    keys = f" with the keys {', '.join(list(value)[:5])}" if isinstance(value, dict) else ""
    return f"expected a list of records, found {kind_of(value)}{keys}; put the records into one list [...]"
