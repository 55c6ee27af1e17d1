"""What stands in a file, as a seal keeps it: its bytes counted and hashed, and surely on the disk.

A file is hashed right after it was written, out of the system's memory, so that nothing is read from the disk again;
XXH3-128 finds any damage that bad luck does, at several gigabytes a second, and is no proof against a forger.

    settled([folder / "optimizer.pt"])      # [{"bytes": 1024, "xxh3_128": "..."}], after fsync
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import xxhash

BLOCK = 1 << 20
THREADS = 4


def settled(files: Sequence[Path]) -> list[dict[str, Any]]:
    """Size and hash of each file, all of them written to the disk (fsync) before this returns."""
    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(_settle, files))


def _settle(file: Path) -> dict[str, Any]:
    size, digest = _read(file)
    sync(file)
    return {"bytes": size, "xxh3_128": digest}


def digests(files: Sequence[Path]) -> list[str]:
    """The hash of each file."""
    with ThreadPoolExecutor(THREADS) as pool:
        return [digest for _, digest in pool.map(_read, files)]


def _read(file: Path) -> tuple[int, str]:
    digest, block, size = xxhash.xxh3_128(), memoryview(bytearray(BLOCK)), 0
    with file.open("rb", buffering=0) as stream:
        while count := stream.readinto(block):
            digest.update(block[:count])
            size += count
    return size, str(digest.hexdigest())


def sync(path: Path) -> None:
    """Have a file's bytes, or a folder's names, written to the disk; nothing where a system cannot do that."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError:
        return  # Windows opens no folder
    try:
        os.fsync(handle)
    except OSError as error:
        if path.is_file():
            raise OSError(error.errno, f"not written to the disk: {error.strerror}", str(path)) from error
    finally:
        os.close(handle)
