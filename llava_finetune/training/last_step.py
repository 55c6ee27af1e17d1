"""An emergency checkpoint of the last whole step after one rank ran out of memory, written without collectives.

The other ranks wait in a collective that never ends, so they cannot save together any more. But until the failed rank
joins in, no optimizer can take another step, so that every rank still holds the last step's values: a thread of each
writes its own part, and the last one seals them.

    last_step = LastStep(trainer)     # on every rank, before the first step
    last_step.begin(global_step)      # at the start of every step
    last_step.save()                  # on the rank that failed: "" when the checkpoint is there, else why not
"""

from __future__ import annotations

import os
import threading
import time
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch

from llava_finetune.errors import OutOfMemoryError
from llava_finetune.saved.checkpoints import STAGING

LISTEN_SECONDS = 0.5
"""Between two looks of a rank for a call of another."""
BEGIN_SECONDS = 300.0
"""A rank that is behind (logging, evaluating) has this long to begin the step that failed on another."""
SAVE_SECONDS = 1800.0
"""All ranks have this long to write their parts."""
LAST_WORDS_SECONDS = 5.0
"""The rank that failed speaks and leaves first: a launcher ends the others when the first has gone."""


class LastStep:
    """Listens for a rank that ran out of memory, and has this rank's part of the last step written then."""

    def __init__(self, trainer: Any) -> None:
        self.trainer = trainer
        self.output = Path(trainer.args.output_dir)
        # Its own connection: the process group's may be held by the thread that waits.
        store = torch.distributed.distributed_c10d._get_default_store().clone()
        self.store = torch.distributed.PrefixStore("last_step", store)
        self.step = -1
        self.event: Any = None
        self.outcome: str | None = None
        self.turn = threading.Lock()
        self.closed = threading.Event()
        threading.Thread(target=self._listen, daemon=True).start()

    def begin(self, step: int) -> None:
        """Step number `step` (counted from 0) begins: weights and optimizer are whole until its gradients are."""
        if torch.cuda.is_available():
            self.event = torch.cuda.Event()
            self.event.record()
        self.step = step

    def save(self) -> str:
        """Have all ranks write the last whole step; every one of them ends then. "" or why it could not be saved."""
        self.store.set("step", str(self.step))
        return self._take_part(self.step)

    def close(self) -> None:
        """Listen no more."""
        self.closed.set()

    def _listen(self) -> None:
        try:
            while not self.store.check(["step"]):
                if self.closed.wait(LISTEN_SECONDS):
                    return
            self._take_part(int(self.store.get("step")))
        except RuntimeError:
            return  # rank 0, which keeps the store, is gone: the run ends without this
        time.sleep(LAST_WORDS_SECONDS)
        os._exit(OutOfMemoryError.exit_code)

    def _take_part(self, step: int) -> str:
        with self.turn:  # the thread that listens and the one that failed may both come
            if self.outcome is None:
                self.outcome = self._write_and_wait(step)
            return self.outcome

    def _write_and_wait(self, step: int) -> str:
        folder = self.output / STAGING / f"checkpoint-{step}"
        try:
            self._write(step, folder)
            if self.store.add("written", 1) == self.trainer.args.world_size:
                if folder.exists():
                    self.trainer.seal_checkpoint(folder)
                self.store.set("end", "")
        except Exception as error:  # whatever torch, DeepSpeed or the disk says: the others must not wait for ever
            self.store.set("end", f"rank {self.trainer.args.process_index}: {type(error).__name__}: {error}")
        deadline = time.monotonic() + SAVE_SECONDS
        while not self.store.check(["end"]):
            if time.monotonic() > deadline:
                return f"not all ranks had written their part after {SAVE_SECONDS:.0f} s"
            time.sleep(0.05)
        return str(self.store.get("end").decode())

    def _write(self, step: int, folder: Path) -> None:
        deadline = time.monotonic() + BEGIN_SECONDS
        while self.step < step and time.monotonic() < deadline:
            time.sleep(0.05)
        if self.step != step:
            raise RuntimeError(f"is at step {self.step + 1}, not at step {step + 1}")
        if (self.output / folder.name).exists():
            return
        folder.mkdir(parents=True, exist_ok=True)
        with self._beside_what_waits():
            self.trainer.write_own_part(folder)

    def _beside_what_waits(self) -> AbstractContextManager[Any]:
        """On a GPU what is copied to the host must not queue up behind the collective that never ends."""
        if self.event is None:
            return nullcontext()
        torch.cuda.set_device(self.trainer.args.device)
        stream = torch.cuda.Stream()
        stream.wait_event(self.event)
        return torch.cuda.stream(stream)
