"""What an operator costs on a GPU: floating point operations by torch's own formulas, and bytes that its kernel moves.

Attention of variable lengths has no formula in torch; it is counted from the lengths. Causal attention is half of the
square, for kernels pass over the blocks above the diagonal; a mask that is handed in spares nothing.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

aten = torch.ops.aten
WRITES_ONLY = {
    "empty_like", "zeros_like", "ones_like", "full_like", "new_zeros", "fill_", "zero_", "random_", "uniform_",
    "bernoulli_",
}  # fmt: skip
MAKES_ROOM = {"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided"}
GATHERS = {"index_select", "embedding"}


@dataclass(frozen=True)
class Operation:
    """One kernel: floating point operations, bytes read and written, the shapes and types of its first tensors."""

    name: str
    flops: int
    read: int
    written: int
    shapes: tuple[tuple[int, ...], ...]
    dtypes: tuple[torch.dtype, ...]
    phase: str
    place: str


def operation_of(
    function: Any, args: Any, kwargs: Any, out: Any, lengths: Sequence[int], **about: str
) -> Operation | None:
    """The cost of one call, of which `about` tells the phase and place; None for a view, which runs no kernel."""
    name = str(function._overloadpacket).removeprefix("aten.")
    if is_view(function) or name.startswith("prim."):  # a question about a tensor runs nothing
        return None
    tensors, made = on_gpu((args, kwargs)), on_gpu(out)
    written = sum(map(moved_bytes, made)) or (moved_bytes(tensors[0]) if tensors else 0)
    read = sum(map(moved_bytes, tensors))
    if name in MAKES_ROOM:
        read = written = 0
    elif name in WRITES_ONLY:
        read = 0
    elif name in GATHERS:
        read = written
    first = tensors[: 2 if name == "_scaled_mm" else 3]  # its scales are no factors
    flops = _flops(function, args, kwargs, out, lengths)
    shapes, dtypes = tuple(tuple(one.shape) for one in first), tuple(one.dtype for one in first)
    return Operation(name, flops, read, written, shapes, dtypes, **about)


def on_gpu(tree: Any) -> list[torch.Tensor]:
    """The tensors of `cuda` among arguments or results."""
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor) and leaf.device.type == "cuda"]


def moved_bytes(tensor: torch.Tensor) -> int:
    """Bytes that lie behind a tensor: an expanded dimension counts once."""
    size = tensor.element_size()
    for length, stride in zip(tensor.shape, tensor.stride(), strict=True):
        size *= length if stride else 1
    return size


@functools.cache
def is_view(function: Any) -> bool:
    """Whether an operator hands on its input's storage and runs nothing."""
    unmarked = (aten.detach, aten.alias, aten._unsafe_view, aten.view, aten._reshape_alias, aten.lift_fresh)
    returns = function._schema.returns
    aliased = any(one.alias_info is not None and not one.alias_info.is_write for one in returns)
    return aliased or function._overloadpacket in unmarked


def _flops(function: Any, args: Any, kwargs: Mapping[str, Any], out: Any, lengths: Sequence[int]) -> int:
    packet, name = function._overloadpacket, str(function._overloadpacket)
    if "varlen_attn" in name:
        query = args[1] if "backward" in name else args[0]
        products = 5 if "backward" in name else 2
        return products * query.shape[1] * query.shape[2] * sum(length * length for length in lengths)
    if packet in (aten.addmm, aten.addmm_):  # torch's formula knows neither the second nor an output's type
        return 2 * args[1].shape[0] * args[1].shape[1] * args[2].shape[1]
    formula = flop_registry.get(packet)
    flops = int(formula(*args, **kwargs, out_val=out)) if formula else 0
    named = dict(zip((one.name for one in function._schema.arguments), args, strict=False)) | dict(kwargs)
    return flops // 2 if named.get("is_causal") else flops
