"""Lengths of records, to group them by, kept under the hash of their file: a million are read through once.

lengths = kept_lengths(Path("train.jsonl"), 1_000_000, count_words)
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from data_prep.files import sha256_of
from llava_finetune.machine import cache_folder

MANY = 50_000
"""Fewer are counted in half a second."""


def kept_lengths(path: Path, number: int, measure: Callable[[], list[int]]) -> list[int]:
    """What `measure` returns for the `number` records of a file, from an earlier run where it was kept."""
    if number < MANY:
        return measure()
    file = cache_folder("lengths") / f"{sha256_of(path)}.npy"
    with contextlib.suppress(OSError, ValueError, EOFError):
        kept: list[int] = np.load(file).tolist()
        if len(kept) == number:
            return kept
    lengths = measure()
    with contextlib.suppress(OSError):  # no room: counted again next time
        file.parent.mkdir(parents=True, exist_ok=True)
        temporary = file.with_suffix(f".{os.getpid()}.tmp.npy")
        np.save(temporary, np.array(lengths, dtype=np.int32))
        temporary.replace(file)
    return lengths
