"""Every allocation of the pretended GPU, in order: what is held, the peak, and what lay there at the peak.

A block is a storage, rounded up to 512 bytes as torch's allocator does. `events` can be replayed by allocator.py.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch

ROUNDED_TO = 512


@dataclass(frozen=True)
class Block:
    """A storage: its number, bytes, the operator that made it, the training's phase and step at that time, its type."""

    number: int
    size: int
    operator: str
    phase: str
    step: int
    dtype: torch.dtype


class Ledger:
    """Live storages of one device. `events` holds (number, bytes): positive when made, negative when freed."""

    def __init__(self) -> None:
        self.now = 0
        self.peak = 0
        self.blocks: list[Block] = []
        self.events: list[tuple[int, int]] = []
        self._numbers: dict[int, int] = {}

    def add(self, tensor: torch.Tensor, operator: str, phase: str, step: int) -> None:
        """Note a tensor's storage, unless it is known."""
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._numbers or not storage.nbytes():
            return
        size = -(-storage.nbytes() // ROUNDED_TO) * ROUNDED_TO
        number = len(self.blocks)
        self.blocks.append(Block(number, size, operator, phase, step, tensor.dtype))
        self.events.append((number, size))
        self._numbers[key] = number
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._free, key, number, size)

    def _free(self, key: int, number: int, size: int) -> None:
        del self._numbers[key]
        self.events.append((number, -size))
        self.now -= size

    def numbers_of(self, tensors: Iterable[Any]) -> set[int]:
        """The numbers of these tensors' storages, of those that are known."""
        keys = (tensor.untyped_storage()._cdata for tensor in tensors)
        return {self._numbers[key] for key in keys if key in self._numbers}

    def peak_after(self, start: int) -> tuple[int, list[Block]]:
        """The most bytes held from event `start` on, and the blocks that were held then."""
        now = most = at = 0
        for index, (_, size) in enumerate(self.events):
            now += size
            if index >= start and now > most:
                most, at = now, index
        live: dict[int, Block] = {}
        for number, size in self.events[: at + 1]:
            if size > 0:
                live[number] = self.blocks[number]
            else:
                del live[number]
        return most, list(live.values())
