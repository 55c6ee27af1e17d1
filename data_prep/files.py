"""Files that appear whole or not at all, and their hashes.

with atomic_file(Path("records.json")) as stream:
    stream.write(b"[]")
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from data_prep.errors import DataError


@contextmanager
def atomic_file(path: Path) -> Iterator[IO[bytes]]:
    """Open a file for bytes that replaces `path` when the block ends well, and vanishes when it does not.

    Raises DataError for a full disk or a folder that cannot be written; Ctrl-C leaves nothing behind.
    """
    short = os.fsencode(path.name)[:100].decode("utf-8", "ignore")  # file names end at 255 bytes, not characters
    temporary = path.with_name(f".{short}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb", buffering=1 << 20) as stream:
            yield stream
        temporary.replace(path)
    except OSError as error:
        raise DataError(path, write_problem(error)) from None
    finally:
        temporary.unlink(missing_ok=True) if path.parent.is_dir() else None


def write_problem(error: OSError) -> str:
    """Say why a file could not be written and what to do."""
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return "the disk is full: nothing was written; free some space or choose another folder"
    return f"cannot be written ({error.strerror or error}); choose another folder"


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write `value` as readable JSON, whole or not at all."""
    with atomic_file(path) as stream:
        stream.write((json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode(errors="backslashreplace"))


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8, whole or not at all."""
    with atomic_file(path) as stream:
        stream.write(text.encode(errors="backslashreplace"))


def copy_file(source: Path, target: Path) -> None:
    """Copy the bytes of `source` to `target` as they are; a target of the same bytes is left alone."""
    if target.exists() and target.stat().st_size == source.stat().st_size and sha256_of(target) == sha256_of(source):
        return
    with source.open("rb") as incoming, atomic_file(target) as outgoing:
        shutil.copyfileobj(incoming, outgoing, 1 << 20)


def sha256_of(path: Path, stopped: threading.Event | None = None) -> str:
    """Return the SHA-256 of a file's bytes, as hex (of its beginning, when `stopped` is set meanwhile)."""
    with path.open("rb") as stream:
        digest = hashlib.sha256()
        while (block := stream.read(1 << 20)) and not (stopped and stopped.is_set()):
            digest.update(block)
    return digest.hexdigest()


@contextmanager
def hashing(paths: Sequence[Path]) -> Iterator[Callable[[], list[str]]]:
    """Hash files in a thread while the block does something else with them; the value returns their SHA-256.

    Leaving the block ends the thread: Ctrl-C does not wait for gigabytes.
    """
    stopped = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        found = [pool.submit(sha256_of, path, stopped) for path in paths]
        try:
            yield lambda: [one.result() for one in found]
        finally:
            stopped.set()
