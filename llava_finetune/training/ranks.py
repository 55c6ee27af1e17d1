"""The ranks of a run, and how they agree."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch

from llava_finetune.errors import UserError

LONGEST = timedelta(days=7)
"""How long ranks wait for one that checks a million pictures or writes a result; one that ends breaks the connection.

torch's half an hour is for collectives that compute.
"""


class Group:
    """The ranks of a run, talking on the CPU so that no message waits for a GPU; one rank alone needs none."""

    def __init__(self) -> None:
        distributed = torch.distributed
        self.active = distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1
        self.rank = distributed.get_rank() if self.active else 0
        self.size = distributed.get_world_size() if self.active else 1
        self.handle = distributed.new_group(backend="gloo", timeout=LONGEST) if self.active else None

    def any(self, value: bool) -> bool:
        """Whether the value is true on any rank; every rank calls."""
        if not self.active:
            return value
        flag = torch.tensor([int(value)])
        torch.distributed.all_reduce(flag, torch.distributed.ReduceOp.MAX, group=self.handle)
        return bool(flag)

    def gather(self, value: Any) -> list[Any]:
        """Every rank's value, by rank, on every rank."""
        if not self.active:
            return [value]
        out: list[Any] = [None] * self.size
        torch.distributed.all_gather_object(out, value, group=self.handle)
        return out

    def from_first(self, act: Callable[[], Any]) -> Any:
        """What `act` returns on rank 0, on every rank; what it raises there is raised on all of them.

        For what only one may look at and change: the others wait, and do not look at it half changed.
        """
        if not self.active:
            return act()
        told: tuple[Any, str | None] = (None, None)
        try:
            if self.rank == 0:
                told = (act(), None)
        except Exception as error:
            told = (None, str(error) or type(error).__name__)
            raise
        finally:
            value, failed = self.gather(told)[0]
        if failed is not None:
            raise UserError(failed)
        return value

    def wait(self) -> None:
        """Wait until every rank is here."""
        if self.active:
            torch.distributed.barrier(group=self.handle)
