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
import stat
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import xxhash

from data_prep.errors import DataError

LARGE = 100_000_000
"""Bytes of a source beyond which SHA-256, at a gigabyte a second, would slow down what goes on beside it."""


@contextmanager
def atomic_file(path: Path) -> Iterator[IO[bytes]]:
    """Open a file for bytes that replaces `path` when the block ends well, and vanishes when it does not.

    Raises DataError for a full disk, a folder that cannot be written, and a device or FIFO, which would be replaced by
    a file; Ctrl-C leaves nothing behind.
    """
    _require_replaceable(path)
    short = os.fsencode(path.name)[:100].decode("utf-8", "ignore")  # file names end at 255 bytes, not characters
    temporary = path.with_name(f".{short}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb", buffering=1 << 20) as stream:
            yield stream
        temporary.replace(path)
    except OSError as error:
        raise DataError(path, write_problem(error)) from None
    except ValueError as error:
        if "\0" not in str(path):
            raise
        raise DataError(path, f"cannot be written ({error}); choose another name") from None
    finally:
        temporary.unlink(missing_ok=True) if path.parent.is_dir() else None


def _require_replaceable(path: Path) -> None:
    if not path.name:
        raise DataError(path, "is no name of a file; name the file to be written")
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):
        return  # nothing is there, or the write tells what is wrong
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise DataError(path, "is no regular file and would be replaced by one; name another file")


def write_problem(error: OSError) -> str:
    """Say why a file could not be written and what to do."""
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return "the disk is full: nothing was written; free some space or choose another folder"
    return f"cannot be written ({error.strerror or error}); choose another folder"


def write_json(path: Path, value: Any, *, sort_keys: bool = False) -> None:
    """Write `value` as readable JSON, whole or not at all."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, sort_keys=sort_keys) + "\n")


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


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, as hex."""
    return _hex(path, hashlib.sha256())


def without_waiting(path: str, flags: int) -> int:
    """Open at once, for open(..., opener=): without O_NONBLOCK a FIFO waits for somebody at its other end."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0), 0o666)


def _hex(path: Path, digest: Any, stopped: threading.Event | None = None) -> str:
    block = memoryview(bytearray(1 << 18))
    with open(path, "rb", buffering=0, opener=without_waiting) as stream:
        if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
            raise DataError(path, "is a FIFO or a device, expected a regular file; copy the file again")
        while (size := stream.readinto(block)) and not (stopped and stopped.is_set()):
            digest.update(block[:size])
    return str(digest.hexdigest())


def source_entry(path: Path, stopped: threading.Event | None = None) -> dict[str, Any]:
    """Return a source file as a meta file holds it: its path, its bytes, and its SHA-256 or, where large, XXH3-128.

    When `stopped` is set meanwhile, the hash is of the file's beginning.
    """
    size = path.stat().st_size
    large = size > LARGE
    digest = _hex(path, xxhash.xxh3_128() if large else hashlib.sha256(), stopped)
    return {"path": str(path), "bytes": size, "xxh3_128" if large else "sha256": digest}


@contextmanager
def hashing(paths: Sequence[Path]) -> Iterator[Callable[[], list[dict[str, Any]]]]:
    """Hash source files in a thread while the block does something else with them; the value returns their entries.

    Leaving the block ends the thread: Ctrl-C does not wait for gigabytes.
    """
    stopped = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        found = [pool.submit(source_entry, path, stopped) for path in paths]
        try:
            yield lambda: [one.result() for one in found]
        finally:
            stopped.set()
