"""The encoding of a text file: told by its first bytes, else UTF-8; anything else is named, never guessed in silence.

    encoding_of(Path("pets.csv"), None)      # "utf-8-sig"

A file of a German, Chinese or Japanese Windows is refused with what its first such line reads as in each likely
encoding, so that `--encoding` can name the right one: the wrong one would be taught as it stands.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from pathlib import Path

from data_prep.errors import DataError, printable

MARKS = {
    codecs.BOM_UTF32_LE: "utf-32", codecs.BOM_UTF32_BE: "utf-32", codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16",
}  # fmt: skip
"""What a file begins with, longer marks first."""
READS_ALL = "mac_roman"
"""Has a letter for every byte, so that it reads what is no text as well."""
LIKELY = ("cp1252", "gb18030", "cp932", "cp949", "big5", "cp1251", "cp1250", READS_ALL)
"""Western Europe; China; Japan; Korea; Taiwan; Cyrillic; Central Europe: Windows' own encodings there; a Mac."""
NOT_OF_FILES = frozenset({"undefined", "idna", "punycode"})
"""Encodings of host names, and of nothing."""
CHUNK = 1 << 20
SHOWN = 4
AROUND = 12


class NotUtf8(DataError):
    """A text that is not UTF-8; `readings`: likely encodings, each with what a part of the text reads as in it."""

    def __init__(self, path: Path, problem: str, readings: tuple[tuple[str, str], ...]) -> None:
        """Keep the readings for who lets somebody choose."""
        self.readings = readings
        super().__init__(path, problem)


def encoding_of(path: Path, asked: str | None, option: str = "--encoding") -> str:
    """Return the encoding of a text file: the one asked for, its byte order mark's, or UTF-8.

    Raises DataError for an unknown name, and NotUtf8 with the likely encodings for other text; `option` is the option
    that names one, "" where the command has none.
    """
    with path.open("rb") as stream:
        head = stream.read(4096)
    if asked:
        return _checked(path, _known(path, asked))
    if mark := next((name for begin, name in MARKS.items() if head.startswith(begin)), None):
        return _checked(path, mark)
    if head and max(head[::2].count(0), head[1::2].count(0)) > len(head) // 5:
        return _checked(path, "utf-16-le" if head[1::2].count(0) else "utf-16-be")
    bad = _not_utf8(path)
    if bad is None:
        return "utf-8-sig"
    number, line, place = bad
    readings = tuple(_readings(line, place))
    advice = _advice(path, readings, option)
    raise NotUtf8(path, f"line {number}: byte 0x{line[place]:02x} is not UTF-8; {advice}", readings)


def _known(path: Path, asked: str) -> str:
    """Return Python's name of a text encoding; raise DataError for others, of which `hex` and `zip` give no text."""
    try:
        found = codecs.lookup(asked)
        if found._is_text_encoding and found.name not in NOT_OF_FILES:
            return found.name
    except (LookupError, ValueError):  # half of a surrogate pair, a NUL
        pass
    names = ", ".join(("utf-8", "utf-16", *LIKELY))
    raise DataError(path, f"no encoding {printable(asked)[:40]!r}; there are {names}, and all that Python knows")


def _checked(path: Path, name: str) -> str:
    """Return the name of an encoding in which the whole file can be read; raise DataError with the place."""
    decoder, number = codecs.getincrementaldecoder(name)(), 1
    with path.open("rb", buffering=0) as stream:
        while True:
            chunk = stream.read(CHUNK)
            try:
                number += decoder.decode(chunk, not chunk).count("\n")
            except UnicodeDecodeError as error:
                number += error.object[: error.start].decode(name, "replace").count("\n")
                raise DataError(path, f"line {number}: not {name} ({error.reason}); name another --encoding") from None
            if not chunk:
                return name


def _not_utf8(path: Path) -> tuple[int, bytes, int] | None:
    """Return number and bytes of the first line that is not UTF-8, and the place of its first such byte."""
    decoder, before = codecs.getincrementaldecoder("utf-8")(), 0
    with path.open("rb", buffering=0) as stream:
        while True:
            chunk = stream.read(CHUNK)
            try:
                decoder.decode(chunk, not chunk)
            except UnicodeDecodeError as error:
                at = before + len(chunk) - len(error.object) + error.start
                return _line_at(path, at)
            if not chunk:
                return None
            before += len(chunk)


def _line_at(path: Path, at: int) -> tuple[int, bytes, int]:
    with path.open("rb") as stream:
        raw = stream.read(at)
        rest = stream.read(CHUNK)
    ends = b"\n" if b"\n" in raw or b"\n" in rest else b"\r"
    begin = max(raw.rfind(ends) + 1, at - CHUNK)
    return raw.count(ends) + 1, raw[begin:] + rest.split(ends)[0], at - begin


def _advice(path: Path, readings: tuple[tuple[str, str], ...], option: str) -> str:
    if not readings:
        return "it is no text in a usual encoding; save it as UTF-8"
    if not option:
        named = f"iconv -f {readings[0][0].upper()} -t UTF-8 {path} > utf8-{path.name}"
        return f"save it as UTF-8 ({named}, where {_quoted(readings[0][1])} is right)"
    shown = ", ".join(f"{option} {name} reads {_quoted(text)}" for name, text in readings)
    return f"save it as UTF-8, or name its encoding: {shown}"


def _quoted(text: str) -> str:
    return f'"{printable(text)}"'


def _readings(line: bytes, place: int) -> Iterator[tuple[str, str]]:
    """Yield the likeliest encodings, and what the part around the byte reads as in each; equal ones once."""
    from charset_normalizer import from_bytes

    sample = line[:CHUNK]
    ranked = [found.encoding for found in from_bytes(sample, steps=1, chunk_size=len(sample), cp_isolation=[*LIKELY])]
    if "cp1250" in ranked and "cp1252" not in ranked:  # where both read the same the other is left out
        ranked.insert(ranked.index("cp1250"), "cp1252")
    seen: set[str] = set()
    for name in [*ranked, *(name for name in LIKELY if name not in (*ranked, READS_ALL))]:
        try:
            before, after = line[:place].decode(name), line[place:].decode(name)
        except UnicodeDecodeError:
            continue
        text = f"{before[-AROUND:]}{after[:AROUND]}".strip()
        if text not in seen and len(seen) < SHOWN:
            seen.add(text)
            yield name, text
