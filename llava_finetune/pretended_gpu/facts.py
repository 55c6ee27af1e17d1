"""What a pretended run showed, as plain data that outlives its process."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from llava_finetune.pretended_gpu.allocator import replay
from llava_finetune.pretended_gpu.ledger import Block
from llava_finetune.pretended_gpu.operations import Operation
from llava_finetune.pretended_gpu.training import Seen

PARTS = ("weights", "adapters", "gradients", "optimizer", "activations", "temporary", "rest")


@dataclass(frozen=True)
class Facts:
    """Of the last step: bytes at the peak by part, waits by (phase, kind, place), kernels. Of the run: the rest.

    `reserved` is what the caching allocator holds at most in the whole run. `dtypes` counts parameters by (frozen or
    trained, type). `mixed` are operators over tensors of two devices.
    """

    peak: int
    reserved: int
    parts: Mapping[str, int]
    waits: Mapping[tuple[str, str, str], int]
    mixed: Mapping[tuple[str, str], int]
    dtypes: Mapping[tuple[str, str], int]
    operations: tuple[Operation, ...]
    lengths: tuple[int, ...]
    output: str

    def flops(self, *phases: str) -> int:
        """Floating point operations of the last step, or of some of its phases."""
        return sum(one.flops for one in self.operations if not phases or one.phase in phases)

    def product_types(self) -> set[str]:
        """The types of all matrix products' factors."""
        return {str(dtype) for one in self.operations if one.flops for dtype in one.dtypes if dtype.is_floating_point}


def facts_of(seen: Seen) -> Facts:
    """The facts of a run that has ended."""
    trace = seen.trace
    return Facts(
        peak=seen.peak,
        reserved=replay(trace.ledger.events).peak_reserved,
        parts=parts(seen),
        waits=dict(trace.waits),
        mixed=dict(trace.mixed),
        dtypes=dict(seen.dtypes),
        operations=tuple(trace.operations),
        lengths=tuple(seen.lengths),
        output=seen.output,
    )


def parts(seen: Seen) -> dict[str, int]:
    """Bytes at the peak: of each of PARTS."""
    found: Counter[str] = Counter(dict.fromkeys(PARTS, 0))
    for block in seen.held_at_peak():
        found[_part(block, seen)] += block.size
    return dict(found)


def _part(block: Block, seen: Seen) -> str:
    for name, part in NAMED.items():
        if block.number in seen.named.get(name, ()):
            return part
    if block.phase in ("build", "log"):
        return "rest"
    return "temporary" if block.phase in ("backward", "optimizer") else "activations"


NAMED = {"frozen": "weights", "trained": "adapters", "gradients": "gradients", "optimizer": "optimizer"}
