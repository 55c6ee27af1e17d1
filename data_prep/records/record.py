"""Records: LLaVA's human/gpt layout as plain dicts, read with random access and written whole or not at all.

A file of a million records opens in seconds because only the places of the records are kept, not the records:

    records = read_records("records.jsonl")      # also records.json, a list
    records[123]["conversations"][0]["value"]    # '<image>\\nWhat is the hairstyle of the blond called?'

A record, as LLaVA (docs/Finetune_Custom_Data.md of haotian-liu/LLaVA) reads it:

    {"id": "okvqa-516065", "image": "COCO_train2014_000000051606.jpg",
     "conversations": [{"from": "human", "value": "<image>\\nWhat is the hairstyle of the blond called?"},
                       {"from": "gpt", "value": "pony tail"}],
     "answers": ["pony tail", "pony tail", "..."]}
"""

from __future__ import annotations

import json
import os
from array import array
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, overload

from data_prep.errors import DataError, PictureError, PictureFault, quoted, shortened
from data_prep.files import atomic_file
from data_prep.records.json_list import elements
from data_prep.records.json_text import BOM, kind_of, parse_json, require_regular
from data_prep.records.marks import IMAGE_TOKEN
from data_prep.records.picture import MAX_PIXELS, open_image, resolve_image

__all__ = [
    "IMAGE_TOKEN",
    "MAX_PIXELS",
    "DataError",
    "PictureError",
    "PictureFault",
    "Record",
    "Records",
    "conversation",
    "images_of",
    "open_image",
    "read_records",
    "resolve_image",
    "write_records",
]

Record = dict[str, Any]


class Records(Sequence[Record]):
    """The records of one file, parsed when asked for; memory is 24 bytes a record whatever their size.

    It can be sent to other processes and shared by threads: reads carry their own place in the file.
    """

    def __init__(self, path: Path, starts: array[int], lengths: array[int], lines: array[int]) -> None:
        """Keep where each record starts (byte), how long it is (bytes) and on which line it stands (from 1)."""
        self.path = path
        self._starts, self._lengths, self._lines = starts, lengths, lines
        self._state = _state_of(path)
        self._file: int | None = None

    def __len__(self) -> int:
        return len(self._starts)

    @overload
    def __getitem__(self, index: int) -> Record: ...

    @overload
    def __getitem__(self, index: slice) -> list[Record]: ...

    def __getitem__(self, index: int | slice) -> Record | list[Record]:
        """Return one record, or a list of them for a slice.

        Raises DataError (file, line, column) where the text is not one JSON object.
        """
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        position = index + len(self) if index < 0 else index
        if not 0 <= position < len(self):
            raise IndexError(f"{self.path}: record {index} of {len(self)}")
        return _object_from(self.text(position), self.path, position, self._lines[position])

    def text(self, index: int) -> bytes:
        """Return the bytes of record `index` as they stand in the file."""
        if self._file is None:
            if _state_of(self.path) != self._state:
                raise DataError(self.path, "the file changed after it was opened; open it again")
            self._file = os.open(self.path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
        return os.pread(self._file, self._lengths[index], self._starts[index])

    def line(self, index: int) -> int:
        """Return the line (from 1) on which record `index` begins."""
        return self._lines[index]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_file": None}

    def __del__(self) -> None:
        if getattr(self, "_file", None) is not None:
            os.close(self._file)  # type: ignore[arg-type]


def read_records(path: str | os.PathLike[str]) -> Records:
    """Open a .json list or a .jsonl file of records.

    The file is read once (a list is parsed, piece by piece) in under 40 MB plus 24 bytes a record. Raises DataError for
    a missing file, for broken JSON in a list (line and column), for text that is not UTF-8, and for JSON that is not a
    list of records.
    """
    file = require_regular(Path(path), ".json or .jsonl file")
    return _index_lines(file) if _holds_lines(file) else _index_list(file)


def _holds_lines(file: Path) -> bool:
    """Say whether `file` is JSONL: by its name, and where that says .json, by its first character."""
    if file.suffix.lower() in {".jsonl", ".ndjson"}:
        return True
    with file.open("rb") as stream:
        head = stream.read(4096).removeprefix(BOM).lstrip()
        first_line = head.split(b"\n")[0].strip()
    return head.startswith(b"{") and len(first_line) > 1 and first_line.endswith(b"}")


def _index_lines(file: Path) -> Records:
    starts, lengths, lines = array("Q"), array("Q"), array("Q")
    place = 0
    with file.open("rb", buffering=1 << 20) as stream:
        for number, line in enumerate(stream, 1):
            size = len(line)
            mark = len(BOM) if number == 1 and line.startswith(BOM) else 0
            if size > 2 or line.strip():
                starts.append(place + mark)
                lengths.append(size - mark)
                lines.append(number)
            place += size
    return Records(file, starts, lengths, lines)


def _index_list(file: Path) -> Records:
    starts, lengths, lines = array("Q"), array("Q"), array("Q")
    for start, size, line in elements(file):
        starts.append(start)
        lengths.append(size)
        lines.append(line)
    return Records(file, starts, lengths, lines)


def _object_from(raw: bytes, file: Path, index: int, line: int) -> Record:
    try:
        value = parse_json(raw.rstrip(b"\r\n"), file, line)  # an error at the end stays on its line
    except json.JSONDecodeError as error:
        problem = f"line {line + error.lineno - 1}, column {error.colno}: record {index + 1}: broken JSON ({error.msg})"
        raise DataError(file, f"{problem}; mend that line or delete it") from None
    if not isinstance(value, dict):
        raise DataError(file, f"line {line}: record {index + 1}: expected an object {{...}}, found {kind_of(value)}")
    return value


def _state_of(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns


def write_records(path: str | os.PathLike[str], records: Iterable[Mapping[str, Any]]) -> int:
    """Write `records` to `path` (.json: a list with one record a line; .jsonl) and return how many.

    The file appears whole or not at all. Text stays readable UTF-8. Raises DataError when the disk is full or the
    folder cannot be written.
    """
    file = Path(path)
    lines = file.suffix.lower() in {".jsonl", ".ndjson"}
    count = 0
    with atomic_file(file) as stream:
        stream.write(b"" if lines else b"[")
        for record in records:
            if not lines:
                stream.write(b",\n" if count else b"\n")
            stream.write(record_bytes(record))
            stream.write(b"\n" if lines else b"")
            count += 1
        stream.write(b"" if lines else b"\n]\n")
    return count


def record_bytes(record: Mapping[str, Any]) -> bytes:
    """Return `record` as one line of JSON; half of a surrogate pair, which UTF-8 cannot hold, stays an escape."""
    try:
        return json.dumps(record, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return json.dumps(record).encode()


def images_of(record: Mapping[str, Any]) -> list[str]:
    """Return the picture names of `record`: none, one, or the list.

    Raises DataError when `image` is neither a string, a list of strings, nor absent.
    """
    value = record.get("image")
    if value is None:
        return []
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list) or not all(isinstance(name, str) and name for name in names):
        problem = f'"image" must be a name or a list of names, found {quoted(value, 80)}'
        raise DataError(f'record "{shortened(str(record.get("id")))}"', problem)
    return names


def conversation(turns: Iterable[tuple[str, str]], num_images: int = 1) -> list[dict[str, str]]:
    """Return human/gpt turns for (question, answer) pairs; the first question begins with the image tokens.

    One that has a token for each picture already keeps them where they stand.

    >>> conversation([("What is it?", "a dog")])[0]
    {'from': 'human', 'value': '<image>\\nWhat is it?'}
    """
    built: list[dict[str, str]] = []
    for question, answer in turns:
        is_marked = bool(built) or question.count(IMAGE_TOKEN) == num_images
        marks = "" if is_marked else "\n".join([IMAGE_TOKEN] * num_images)
        text = "\n".join(part for part in (marks, question) if part)
        built += [{"from": "human", "value": text}, {"from": "gpt", "value": answer}]
    return built
