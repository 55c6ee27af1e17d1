"""The journal: a line for each answer that was paid for, written the moment it comes, so that a killed run goes on.

    with Journal(Path("generated.journal.jsonl")) as journal:
        if task.key not in journal: journal.add({"key": task.key, "turns": [["What?", "A dog."]]})

A line that a killed run left half-written is cut off. A key is the hash of everything an answer depends on.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Annotated, Any

from msgspec import Meta, Struct

from data_prep.errors import DataError
from data_prep.files import write_problem
from data_prep.records.json_text import conform, parse_json, require_regular

Entry = dict[str, Any]


class Answered(Struct):
    """A line of the journal: the turns that an answer gave, or why it gave none."""

    key: str
    turns: list[Annotated[list[str], Meta(min_length=2, max_length=2)]] | None
    problem: str | None = None


def key_of(*parts: Any) -> str:
    """Return the hash of `parts` (any JSON)."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


class Journal:
    """Entries by key, on disk as JSON lines; the last entry of a key counts."""

    def __init__(self, path: Path) -> None:
        """Keep the path; nothing is opened yet."""
        self.path = path
        self.entries: dict[str, Entry] = {}
        self._stream: IO[bytes] | None = None

    def __enter__(self) -> Journal:
        """Read what is there, cut off a half line, and open for more; one run at a time."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if self.path.exists():
                require_regular(self.path)
            self._stream = self.path.open("a+b")
        except OSError as error:
            raise DataError(self.path, write_problem(error)) from None
        _lock(self._stream, self.path)
        self._stream.seek(0)
        raw = self._stream.read()
        whole = raw.rfind(b"\n") + 1
        self._stream.truncate(whole)
        for number, line in enumerate(raw[:whole].splitlines(), 1):
            entry = self._parsed(line, number)
            self.entries[entry["key"]] = entry
        return self

    def _parsed(self, line: bytes, number: int) -> Entry:
        try:
            entry = parse_json(line, self.path, number)
            conform(entry, Answered, self.path)
        except (ValueError, DataError):
            raise DataError(
                self.path, f"line {number}: not a line of a journal; mend it or move the file away"
            ) from None
        return dict(entry)

    def __exit__(self, *error: object) -> None:
        if self._stream:
            self._stream.close()

    def __contains__(self, key: str) -> bool:
        return key in self.entries

    def add(self, entry: Mapping[str, Any]) -> None:
        """Write one entry through to the system: a killed process does not lose it."""
        assert self._stream
        try:
            self._stream.write(json.dumps(entry).encode() + b"\n")
            self._stream.flush()
        except OSError as error:
            raise DataError(self.path, write_problem(error)) from None
        self.entries[entry["key"]] = dict(entry)


def _lock(stream: IO[bytes], path: Path) -> None:
    try:
        import fcntl
    except ImportError:  # Windows has no flock; two runs at once would only ask twice
        return
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise DataError(path, "another run writes it; wait for that run, or choose another --output") from None
