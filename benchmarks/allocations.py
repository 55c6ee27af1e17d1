"""Measure a computation's peak of tensor memory: on the CPU with real tensors, or at any size with fake ones.

Every storage that an operator returns is counted once and taken off when it is freed, which is what
torch.cuda.max_memory_allocated counts on a GPU (before the allocator's rounding).

    with Allocations(known=model.parameters()) as seen:
        model(batch).loss.backward()
    seen.peak   # bytes, what was there before not counted
"""

import weakref
from collections.abc import Iterable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Allocations(TorchDispatchMode):
    """Counts live bytes of all storages made inside the block; `peak` is the most at any time, `now` what is left."""

    def __init__(self, known: Iterable[torch.Tensor] = ()) -> None:
        super().__init__()
        self.now = 0
        self.peak = 0
        self._known = [tensor.untyped_storage() for tensor in known]  # kept, so that no new storage takes an address
        self._seen = {storage._cdata for storage in self._known}

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor) and leaf.device.type != "meta":  # DeepSpeed keeps shapes so, in no memory
                self._add(leaf)
        return result

    def _add(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._seen:
            return
        size = storage.nbytes()
        self._seen.add(key)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._free, key, size)

    def _free(self, key: int, size: int) -> None:
        self._seen.discard(key)
        self.now -= size
