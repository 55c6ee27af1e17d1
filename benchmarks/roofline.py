"""Operations, bytes and memory of a 7B LoRA step, ours beside transformers + peft, counted on a pretended GPU.

Counts hold on any machine. Times are predictions: for each operator the longer of its operations at a card's rate and
its bytes at the card's bandwidth, without launches and without what kernels win by overlapping.

    python benchmarks/roofline.py                    full depth, some minutes of one core
    python benchmarks/roofline.py --layers 2         quick, two layers of the same widths
    python benchmarks/roofline.py --switches         what each switch changes in a decoder layer

Exit codes: 0 done, 1 ours needs more operations or memory than transformers + peft.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_VERBOSITY="error", PYTHONWARNINGS="ignore")
MODEL = "liuhaotian/llava-v1.5-7b"
SWITCHES = (("--fused_norms", "False"), ("--fast_lora", "False"), ("--lora_dropout", "0"))
RATES: Mapping[str, tuple[float, float]] = {
    "H200": (788e12, 4.3e12),
    "A100": (265e12, 1.75e12),
    "4090": (150e12, 0.93e12),
    "T4": (40e12, 0.26e12),
}
"""Operations and bytes a second that large products and copies reach: assumed, by what others publish of each card."""


def main(argv: Sequence[str] | None = None) -> int:
    """Count both, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, help="of the language model and the tower; default: all")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--fp8", action="store_true", help="count a base in fp8 too")
    parser.add_argument("--switches", action="store_true", help="instead: what each switch changes in a layer")
    options = parser.parse_args(argv)
    from llava_finetune.pretended_gpu.guard import load

    load()  # before torch is imported
    from benchmarks.pretended_peers import TRAINERS, step
    from llava_finetune.planning.from_config import read_shape
    from llava_finetune.planning.setting import Setting
    from llava_finetune.pretended_gpu.training import Job

    setting = Setting(
        "lora", batch=options.batch, checkpointing=False, stage=0, text_tokens=44, supervised_tokens=8,
        accumulated=False,
    )  # fmt: skip
    shape = read_shape(MODEL)
    tokens = options.batch * (44 + shape.image_tokens)
    if options.switches:
        print("\n".join(by_switches(setting)))
        return 0
    job = Job(MODEL, setting, layers=options.layers, texts=(44,) * options.batch, steps=1, record=True)
    seen = {TRAINERS[name]: facts(step(job, name)) for name in ("ours", "transformers")}
    if options.fp8:
        small = dataclasses.replace(job, setting=dataclasses.replace(setting, base_dtype="fp8"))
        seen["llava-finetune, base in fp8"] = facts(step(small, "ours"))
    print(f"{options.batch} records of {tokens // options.batch} positions, {options.layers or 'all'} layers\n")
    print("\n".join(counts(seen, tokens)))
    print()
    print("\n".join(classes(seen["llava-finetune"][0])))
    (mine, my_peak), (theirs, their_peak) = list(seen.values())[:2]
    fewer = sum(one.flops for one in mine) <= sum(one.flops for one in theirs)
    return 0 if fewer and my_peak <= their_peak else 1


def facts(seen: Any) -> tuple[Sequence[Any], int]:
    """The operations of a step, and the bytes at its peak."""
    return seen.trace.operations, seen.peak


def by_switches(setting: Any) -> list[str]:
    """What one decoder layer of a step moves and launches, all switches at their defaults and each of SWITCHES alone.

    A layer is half of what two more layers bring.
    """
    from benchmarks.pretended_peers import step
    from llava_finetune.pretended_gpu.training import Job

    lines = ["| a layer, forward and backward | operators | MB moved a token | MB kept a token | H200, predicted |"]
    lines += ["|---" * 5 + "|"]
    for name, flags in {"all switches at their defaults": (), **{" ".join(flags): flags for flags in SWITCHES}}.items():
        few, more = (step(Job(MODEL, setting, layers=number, flags=flags, steps=1, record=True), "ours")
                     for number in (2, 4))  # fmt: skip
        tokens = sum(few.lengths)

        def of_a_layer(value: Callable[[Any], float], few: Any = few, more: Any = more) -> float:
            return (value(more) - value(few)) / 2

        operators = of_a_layer(lambda seen: len(seen.trace.operations))
        moved = of_a_layer(lambda seen: sum(one.read + one.written for one in seen.trace.operations)) / tokens / 1e6
        kept = of_a_layer(lambda seen: sum(one.size for one in seen.held_at_peak() if one.phase == "forward"))
        time = of_a_layer(lambda seen: sum(seconds(one, "H200") for one in seen.trace.operations))
        row = [name, f"{operators:.0f}", f"{moved:.2f}", f"{kept / tokens / 1e6:.3f}", f"{time * 1e3:.2f} ms"]
        lines.append(f"| {' | '.join(row)} |")
    return lines


def counts(seen: Mapping[str, tuple[Sequence[Any], int]], tokens: int) -> list[str]:
    """Operations and bytes of a real token, peak memory, and what each card is predicted to take."""
    head = "".join(f" {card}, predicted |" for card in RATES)
    lines = [f"| | GFLOP a token | MB moved a token | peak GB | operators |{head}", "|---" * (5 + len(RATES)) + "|"]
    for name, (operations, peak) in seen.items():
        flops = sum(one.flops for one in operations) / tokens / 1e9
        moved = sum(one.read + one.written for one in operations) / tokens / 1e6
        times = "".join(f" {sum(seconds(one, card) for one in operations) * 1e3:,.0f} ms |" for card in RATES)
        lines.append(f"| {name} | {flops:.2f} | {moved:.1f} | {peak / 1e9:.2f} | {len(operations):,} |{times}")
    return lines


def seconds(operation: Any, card: str) -> float:
    """The roofline of one operator; products in e4m3 at twice the rate, where a card has them."""
    rate, width = RATES[card]
    doubled = 2 if "scaled_mm" in operation.name and card in ("H200", "4090") else 1
    return max(operation.flops / rate / doubled, (operation.read + operation.written) / width)


def classes(operations: Sequence[Any]) -> list[str]:
    """Where the predicted time goes: products together, all else by its operator."""
    found: dict[str, Counter[str]] = {card: Counter() for card in RATES}
    moved: Counter[str] = Counter()
    for one in operations:
        kind = "products" if one.flops else one.name
        moved[kind] += one.read + one.written
        for card in RATES:
            found[card][kind] += seconds(one, card)  # type: ignore[assignment]
    lines = [
        f"| operator | GB |{''.join(f' {card} ms, predicted |' for card in RATES)}",
        "|---" * (2 + len(RATES)) + "|",
    ]
    for kind, _ in found["H200"].most_common(12):
        times = "".join(f" {found[card][kind] * 1e3:,.1f} |" for card in RATES)
        lines.append(f"| {kind} | {moved[kind] / 1e9:.1f} |{times}")
    return lines


if __name__ == "__main__":
    raise SystemExit(main())
