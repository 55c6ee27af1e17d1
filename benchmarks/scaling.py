"""Tokens per second of many GPUs, computed on paper from stated inputs: where communication begins to dominate.

Nothing here is measured. Inputs: operations per token, a GPU's sustained rate, bytes each ZeRO stage moves, bandwidths.
Compute and communication overlap in the best case and add up in the worst: both are printed.

    python benchmarks/scaling.py --sustained 4e14 --within 4e11 --between 5e10
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass

TOKENS_PER_SAMPLE = 640


@dataclass(frozen=True)
class Work:
    """One training mode: operations per token, and weights that are sent as gradients or gathered."""

    name: str
    flops_per_token: float
    trained: float
    frozen: float


#: LLaVA-1.5-7B: 6.476e9 weights in the layers; LoRA r 128 on all of them adds 3.2e8; head and tower are left out.
MODES = (
    Work("LoRA r 128", 4 * 6.476e9 + 6 * 3.198e8, 3.198e8 + 2.1e7, 6.76e9),
    Work("full", 6 * 6.476e9, 6.76e9, 0.3e9),
)
BYTES = 2  # bf16


def moved(work: Work, stage: int, ranks: int, accumulation: int) -> float:
    """Bytes that one rank sends per optimizer step, in rings.

    ZeRO-2: gradients reduced and scattered each micro-batch, trained weights gathered once a step. ZeRO-3: besides, all
    weights gathered before the forward and before the backward of each micro-batch.
    """
    share = (ranks - 1) / ranks
    gradients = accumulation * work.trained * BYTES * share
    if stage == 2:
        return gradients + work.trained * BYTES * share
    return gradients + accumulation * 2 * (work.trained + work.frozen) * BYTES * share


def rates(work: Work, stage: int, ranks: int, options: argparse.Namespace) -> tuple[float, float, float]:
    """Tokens/s when communication overlaps fully, when not at all, and communication's share of compute."""
    tokens = options.batch * options.accumulation * TOKENS_PER_SAMPLE
    compute = tokens * work.flops_per_token / options.sustained
    slowest = options.within if ranks <= options.per_node else options.between
    talk = moved(work, stage, ranks, options.accumulation) / slowest
    return ranks * tokens / max(compute, talk), ranks * tokens / (compute + talk), talk / compute


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table. Exit code 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sustained", type=float, default=4e14, help="operations/s that one GPU sustains")
    parser.add_argument("--within", type=float, default=4e11, help="bytes/s per GPU inside of a machine")
    parser.add_argument("--between", type=float, default=5e10, help="bytes/s per GPU between machines")
    parser.add_argument("--per_node", type=int, default=8)
    parser.add_argument("--batch", type=int, default=16, help="samples per GPU and micro-batch")
    parser.add_argument("--accumulation", type=int, default=1)
    options = parser.parse_args(argv)
    print("| mode | ZeRO | GPUs | tokens/s, overlapped | tokens/s, not overlapped | communication / compute |")
    print("|---" * 6 + "|")
    for work in MODES:
        for stage in (2, 3):
            for ranks in (8, 64, 512):
                best, worst, share = rates(work, stage, ranks, options)
                print(f"| {work.name} | {stage} | {ranks} | {best:,.0f} | {worst:,.0f} | {share:.2f} |")
    print(
        f"\ncomputed, not measured: {options.sustained:.1e} op/s per GPU, {options.within:.1e} B/s per GPU inside of a "
        f"machine of {options.per_node}, {options.between:.1e} B/s between; micro-batch {options.batch} x "
        f"{TOKENS_PER_SAMPLE} tokens, accumulation {options.accumulation}; latency and stragglers are left out.\n"
        "Communication dominates where the last column is over 1."
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
