"""Let memory run out once: in step 2's second micro-batch, after its backward, when gradients are already there."""

from __future__ import annotations

from typing import Any

import torch
from accelerate import Accelerator

_backward = Accelerator.backward
_calls = 0


def _fail_once(self: Any, loss: Any, **keywords: Any) -> None:
    global _calls
    _calls += 1
    _backward(self, loss, **keywords)
    if _calls == 4:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


Accelerator.backward = _fail_once
