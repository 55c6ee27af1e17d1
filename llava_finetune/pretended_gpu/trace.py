"""A dispatch mode over fake tensors of `cuda:0`: what they hold, what is computed with them, what waits for them.

Nothing has a value here, so whatever a program reads back is made up: 1 for a number, True for a truth. Each such read
is a wait of the host for the GPU and is noted with its place in the code.

    trace = Trace()
    with pretend(card, trace.observer), FakeTensorMode(allow_non_fake_inputs=True), trace: ...
"""

from __future__ import annotations

import contextlib
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import Any
from unittest import mock

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from llava_finetune.pretended_gpu.device import Observer
from llava_finetune.pretended_gpu.ledger import Ledger
from llava_finetune.pretended_gpu.operations import Operation, on_gpu, operation_of

aten = torch.ops.aten
COPIES = (aten.copy_, aten._to_copy)
MASKS = (torch.bool, torch.uint8)
UNSEEN = ("/torch/", "/pretended_gpu/", "/unittest/", "<frozen", "<string>", "/contextlib.py", "/functools.py")


class Trace(TorchDispatchMode):
    """`ledger` of memory, `waits` by (phase, kind, place), `mixed` operators, and `operations` while `recording`.

    `true_in_mask`: how much is true in a mask of a shape, None: all; asked by `index` or `nonzero`. `is_true`: what is
    read of a truth at a place.
    """

    def __init__(
        self,
        true_in_mask: Callable[[tuple[int, ...], str], int | None] = lambda shape, asked: None,
        is_true: Callable[[str], bool] = lambda place: True,
    ) -> None:
        super().__init__()
        self.ledger = Ledger()
        self.waits: Counter[tuple[str, str, str]] = Counter()
        self.mixed: Counter[tuple[str, str]] = Counter()
        self.operations: list[Operation] = []
        self.recording = False
        self.step = 0
        self.stage = "build"
        self.recomputing = False
        self.lengths: Sequence[int] = ()
        self.true_in_mask = true_in_mask
        self.is_true = is_true
        self.observer = Observer(self._wait, lambda: self.ledger.now, lambda: self.ledger.peak)

    @property
    def phase(self) -> str:
        """`stage`; inside of autograd's backward pass `backward`, or `recompute` where a checkpoint runs again."""
        if torch._C._current_graph_task_id() == -1:
            return self.stage
        return "recompute" if self.recomputing else "backward"

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if torch.is_inference_mode_enabled() and function.namespace == "aten":  # composite ones arrive whole there
            with self:
                made = function.decompose(*args, **kwargs)
            if made is not NotImplemented:
                return made
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        is_on_gpu = any(tensor.device.type == "cuda" for tensor in tensors)
        packet = function._overloadpacket
        if packet is aten._local_scalar_dense:
            return self._read(function, args[0])
        if packet in COPIES:
            self._copy(packet, args, kwargs)
        elif len({tensor.device.type for tensor in tensors if tensor.ndim}) > 1:
            self.mixed[str(packet), place()] += 1
        if is_on_gpu and packet in (aten.nonzero, aten.equal):
            self._wait(str(packet))
            return self._indices(args[0], "nonzero") if packet is aten.nonzero else True
        if is_on_gpu and packet is aten.index:
            args = self._indexed(args)
        out = function(*args, **kwargs)
        self._note(function, args, kwargs, out, is_on_gpu)
        return out

    def _note(self, function: Any, args: Any, kwargs: Any, out: Any, is_on_gpu: bool) -> None:
        made = on_gpu(out)
        if not made and not is_on_gpu:
            return
        phase = self.phase
        for tensor in made:
            self.ledger.add(tensor, str(function._overloadpacket), phase, self.step)
        if self.recording:
            where = "" if phase in ("backward", "optimizer") else place()
            found = operation_of(function, args, kwargs, out, self.lengths, phase=phase, place=where)
            if found:
                self.operations.append(found)

    def _read(self, function: Any, tensor: torch.Tensor) -> Any:
        """A number that the program reads from a tensor."""
        if tensor.device.type == "cuda":
            self._wait("item")
        if type(tensor) is torch.Tensor:
            return function(tensor)
        known = getattr(tensor, "constant", None)
        if known is not None:
            return known.item()
        if tensor.dtype == torch.bool:
            return self.is_true(place())
        return 1.0 if tensor.dtype.is_floating_point else 1

    def _copy(self, packet: Any, args: Any, kwargs: Any) -> None:
        """A copy between host and GPU waits, unless it is told not to."""
        in_place = packet is aten.copy_
        source = args[1] if in_place else args[0]
        target = args[0].device if in_place else torch.device(kwargs.get("device") or source.device)
        if {source.device.type, target.type} != {"cpu", "cuda"}:
            return
        at_once = args[2] if in_place and len(args) > 2 else kwargs.get("non_blocking", False)
        if not at_once:
            what = "a number" if source.numel() == 1 else "a tensor"
            self._wait(f"copy {what} {source.device.type} to {target.type}")

    def _indices(self, mask: torch.Tensor, asked: str) -> torch.Tensor:
        """Where a mask is true: so often as `true_in_mask` says, or everywhere."""
        number = self.true_in_mask(tuple(mask.shape), asked)
        shape = (mask.numel() if number is None else number, mask.ndim)
        return torch.zeros(shape, dtype=torch.int64, device=mask.device)

    def _indexed(self, args: Any) -> Any:
        """Indexing by a mask waits for how much is true in it."""
        if not any(one is not None and one.dtype in MASKS for one in args[1]):
            return args
        self._wait("index by a mask")
        indices: list[Any] = []
        for one in args[1]:
            if one is not None and one.dtype in MASKS:
                indices += self._indices(one, "index").unbind(1)
            else:
                indices.append(one)
        return (args[0], indices)

    def _wait(self, kind: str) -> None:
        self.waits[self.phase, kind, place()] += 1


@contextlib.contextmanager
def marks_recomputation(trace: Trace) -> Iterator[None]:
    """Inside, `trace` knows when a checkpointed part of the forward pass runs again."""
    from torch.utils import checkpoint

    class Marked(checkpoint._recomputation_hook):
        def __enter__(self) -> Any:
            trace.recomputing = True
            return super().__enter__()

        def __exit__(self, *error: Any) -> Any:
            trace.recomputing = False
            return super().__exit__(*error)

    with mock.patch.object(checkpoint, "_recomputation_hook", Marked):
        yield


def place() -> str:
    """`file:function` of the innermost frame that is neither torch's nor of this package."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        name = frame.f_code.co_filename
        if not any(part in name for part in UNSEEN):
            return f"{_short(name)}:{frame.f_code.co_name}"
        frame = frame.f_back
    return "autograd"


def _short(name: str) -> str:
    for mark in ("/site-packages/", "/build/patched/"):
        if mark in name:
            return name.split(mark)[-1]
    return name[name.rindex("llava_finetune/") :] if "llava_finetune/" in name else name
