"""The ranks of a run, and how they agree."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch

from llava_finetune.errors import UserError

LONGEST = timedelta(days=7)
"""How long ranks wait for one that checks a million pictures or writes a result; one that ends breaks the connection.

All other messages keep `--ddp_timeout`, so that a machine that freezes ends the run.
"""


class Group:
    """The ranks of a run, talking on the CPU so that no message waits for a GPU; one rank alone needs none.

    `timeout`: how long a message of every step may take.
    """

    def __init__(self, timeout: timedelta | None = None) -> None:
        distributed = torch.distributed
        self.active = distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1
        self.rank = distributed.get_rank() if self.active else 0
        self.size = distributed.get_world_size() if self.active else 1
        self.handle = distributed.new_group(backend="gloo", timeout=timeout) if self.active else None
        self.patient = distributed.new_group(backend="gloo", timeout=timeout) if self.active else None
        if self.patient is not None:  # once all have met: a machine that freezes before is not waited for so long
            distributed.distributed_c10d._set_pg_timeout(LONGEST, self.patient)

    def any(self, value: bool) -> bool:
        """Whether the value is true on any rank; every rank calls."""
        if not self.active:
            return value
        flag = torch.tensor([int(value)])
        torch.distributed.all_reduce(flag, torch.distributed.ReduceOp.MAX, group=self.handle)
        return bool(flag)

    def gather(self, value: Any, *, patiently: bool = False) -> list[Any]:
        """Every rank's value, by rank, on every rank; `patiently` where rank 0 may still be sending results."""
        return self._gathered(value, self.patient if patiently else self.handle)

    def _gathered(self, value: Any, handle: Any) -> list[Any]:
        if not self.active:
            return [value]
        out: list[Any] = [None] * self.size
        torch.distributed.all_gather_object(out, value, group=handle)
        return out

    def from_first(self, act: Callable[[], Any]) -> Any:
        """What `act` returns on rank 0, on every rank; what it raises there is raised on all of them.

        For what only one may look at and change: the others wait, and do not look at it half changed.
        """
        if not self.active:
            return act()
        told: tuple[Any, str | None, int] = (None, None, 0)
        try:
            if self.rank == 0:
                told = (act(), None, 0)
        except BaseException as error:
            code = 130 if isinstance(error, KeyboardInterrupt) else int(getattr(error, "exit_code", 1))
            told = (None, str(error) or type(error).__name__, code)
            raise
        finally:
            value, failed, code = self._gathered(told, self.patient)[0]
        if failed is not None:
            echo = UserError(failed)
            echo.exit_code = code  # a scheduler requeues on 75, whichever rank is heard first
            raise echo
        return value

    def wait(self) -> None:
        """Wait until every rank is here, also those that write what was trained."""
        if self.active:
            torch.distributed.barrier(group=self.patient)


def start_deepspeed() -> None:
    """DeepSpeed's process group, leaving nothing behind in shared memory when this process ends, killed or not.

    On a CPU each rank makes a buffer of 69 MB below /dev/shm that DeepSpeed never removes: every run would take that
    memory for ever, and a later run that draws the same port would read what the earlier one wrote. Once every rank has
    opened all of them, their names are no longer needed.
    """
    import deepspeed

    deepspeed.init_distributed()
    if torch.distributed.is_initialized() and torch.distributed.get_backend() == "gloo":
        torch.distributed.barrier()
        where = "_".join(os.environ.get(name, "") for name in ("MASTER_ADDR", "MASTER_PORT", "RANK"))
        Path(f"/dev/shm/deepspeed_allreduce_buffer_{os.getuid()}_{where}").unlink(missing_ok=True)
