"""When memory runs out: telling it from other errors, giving back what was held, and dividing what there is to do."""

from __future__ import annotations

import gc
import itertools
from collections.abc import Sequence

import torch


def is_out_of_memory(error: BaseException) -> bool:
    """True for CUDA's and MPS's OutOfMemoryError, and for the CPU allocator's plain RuntimeError."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)


def halves(items: Sequence[int], num_parts: int) -> list[list[int]]:
    """`items` in order, in at most `num_parts` runs of nearly the same length, none empty."""
    num_parts = min(num_parts, len(items))
    bounds = [len(items) * part // num_parts for part in range(num_parts + 1)]
    return [list(items[start:end]) for start, end in itertools.pairwise(bounds)]


def free_memory() -> None:
    """Give back what the failed step held; its traceback has to be gone by now."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    elif torch.backends.mps.is_available():
        torch.mps.empty_cache()
