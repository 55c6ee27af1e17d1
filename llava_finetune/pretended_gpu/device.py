"""torch's questions about the GPU, answered for a card that is not there.

What waits for the device (`synchronize`, of device, stream or event) is told to `on_wait` and returns at once.

    with pretend(CARDS["H200"], on_wait=print): ...
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import MappingProxyType, SimpleNamespace
from typing import Any
from unittest import mock

import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

GIB = 2**30


@dataclass(frozen=True)
class Card:
    """A GPU's name, compute capability and bytes."""

    name: str
    capability: tuple[int, int]
    memory: int


CARDS = MappingProxyType(
    {
        "H200": Card("NVIDIA H200", (9, 0), 141 * 10**9),
        "A100": Card("NVIDIA A100-SXM4-80GB", (8, 0), 80 * GIB),
        "4090": Card("NVIDIA GeForce RTX 4090", (8, 9), 24 * GIB),
        "T4": Card("Tesla T4", (7, 5), 16 * GIB),
    }
)


@dataclass(frozen=True)
class Observer:
    """Who is told of waits, and who knows the bytes that are held (now, at most)."""

    on_wait: Callable[[str], None]
    held: Callable[[], int]
    peak: Callable[[], int]


@contextlib.contextmanager
def pretend(card: Card, observer: Observer) -> Iterator[None]:
    """Inside, torch sees one GPU: `card`. FakeTensorMode is the caller's to enter."""
    with contextlib.ExitStack() as stack:
        for name, value in _answers(card, observer).items():
            stack.enter_context(mock.patch.object(torch.cuda, name, value))
        stack.enter_context(mock.patch.object(torch.version, "cuda", "12.9"))
        stack.enter_context(mock.patch.object(FakeTensorMode, "avoid_device_init", True))
        stack.enter_context(mock.patch.object(torch.nn.Module, "_apply", _apply))
        stack.enter_context(mock.patch.object(torch.Tensor, "pin_memory", _pin))
        stack.enter_context(mock.patch.object(torch.Tensor, "is_pinned", lambda tensor: hasattr(tensor, "was_pinned")))
        stack.enter_context(_foreach_takes_fake_tensors())
        yield


def _answers(card: Card, observer: Observer) -> dict[str, Any]:
    properties = SimpleNamespace(
        name=card.name, major=card.capability[0], minor=card.capability[1], total_memory=card.memory,
        multi_processor_count=132, warp_size=32, is_integrated=False, gcnArchName="",
    )  # fmt: skip
    stream, event = _classes(observer)
    state = torch.zeros(16, dtype=torch.uint8)
    return {
        "is_available": lambda: True,
        "is_initialized": lambda: False,  # nothing is to be asked of a driver
        "_lazy_init": _nothing,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "set_device": _nothing,
        "device": lambda *_: contextlib.nullcontext(),
        "get_device_name": lambda *_: card.name,
        "get_device_capability": lambda *_: card.capability,
        "get_device_properties": lambda *_: properties,
        "is_bf16_supported": lambda *_, **__: card.capability >= (8, 0),
        "synchronize": lambda *_: observer.on_wait("synchronize device"),
        "Stream": stream,
        "Event": event,
        "current_stream": lambda *_: stream(),
        "stream": lambda *_: contextlib.nullcontext(),
        "is_current_stream_capturing": lambda: False,
        "empty_cache": _nothing,
        "ipc_collect": _nothing,
        "memory_allocated": lambda *_: observer.held(),
        "max_memory_allocated": lambda *_: observer.peak(),
        "memory_reserved": lambda *_: observer.held(),
        "max_memory_reserved": lambda *_: observer.peak(),
        "reset_peak_memory_stats": _nothing,
        "memory_stats": lambda *_: {},
        "mem_get_info": lambda *_: (card.memory - observer.held(), card.memory),
        "manual_seed": _nothing,
        "manual_seed_all": _nothing,
        "seed_all": _nothing,
        "get_rng_state": lambda *_: state,
        "get_rng_state_all": lambda: [state],
        "set_rng_state": _nothing,
        "set_rng_state_all": _nothing,
    }


def _nothing(*_: Any, **__: Any) -> None:
    """What has no effect on a GPU that is not there."""


def _classes(observer: Observer) -> tuple[type, type]:
    class PretendedEvent:
        """An event that has always come to pass."""

        def __init__(self, *_: Any, **__: Any) -> None:
            pass

        record = wait = _nothing

        def synchronize(self) -> None:
            observer.on_wait("synchronize event")

        def query(self) -> bool:
            return True

        def elapsed_time(self, _: Any) -> float:
            return 1.0

    class PretendedStream:
        """A stream on which nothing waits."""

        def __init__(self, *_: Any, **__: Any) -> None:
            self.device = torch.device("cuda", 0)

        wait_event = wait_stream = _nothing

        def synchronize(self) -> None:
            observer.on_wait("synchronize stream")

        def record_event(self, event: Any = None) -> Any:
            return event or PretendedEvent()

        def __enter__(self) -> PretendedStream:
            return self

        def __exit__(self, *_: Any) -> None:
            pass

    return PretendedStream, PretendedEvent


def _pin(tensor: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
    tensor.was_pinned = True  # type: ignore[attr-defined]
    return tensor


def _apply(module: Any, function: Callable[[Any], Any], recurse: bool = True) -> Any:
    """nn.Module._apply with new parameters in the old ones' places: torch swaps data, which fake tensors refuse."""
    for child in module.children() if recurse else ():
        child._apply(function)
    for name, parameter in module._parameters.items():
        if parameter is None:
            continue
        with torch.no_grad():
            new = function(parameter)
        if new is not parameter:
            module._parameters[name] = torch.nn.Parameter(new, parameter.requires_grad)
    for name, buffer in module._buffers.items():
        if buffer is not None:
            module._buffers[name] = function(buffer)
    return module


@contextlib.contextmanager
def _foreach_takes_fake_tensors() -> Iterator[None]:
    """Optimizers and clipping go over all tensors at once only for types that are listed."""
    from torch.optim import optimizer
    from torch.utils import _foreach_utils

    lists = {id(one): one for one in (optimizer._foreach_supported_types, _foreach_utils._foreach_supported_types)}
    for types in lists.values():
        types.append(FakeTensor)
    try:
        yield
    finally:
        for types in lists.values():
            types.remove(FakeTensor)
