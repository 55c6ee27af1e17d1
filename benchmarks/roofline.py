"""Operations, bytes and memory of a 7B LoRA step, ours beside transformers + peft, counted on a pretended GPU.

Counts hold on any machine. Times are predictions: for each operator the longer of its operations at a card's rate and
its bytes at the card's bandwidth, without launches and without what kernels win by overlapping.

    python benchmarks/roofline.py                    full depth, some minutes of one core
    python benchmarks/roofline.py --layers 2         quick, two layers of the same widths

Exit codes: 0 done, 1 ours needs more operations or memory than transformers + peft.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_VERBOSITY="error", PYTHONWARNINGS="ignore")
MODEL = "liuhaotian/llava-v1.5-7b"
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
    options = parser.parse_args(argv)
    from llava_finetune.pretended_gpu.guard import load

    load()  # before torch is imported
    from llava_finetune.planning.from_config import read_shape
    from llava_finetune.planning.setting import Setting

    setting = Setting(
        "lora", batch=options.batch, checkpointing=False, stage=0, text_tokens=44, supervised_tokens=8,
        accumulated=False,
    )  # fmt: skip
    shape = read_shape(MODEL)
    tokens = options.batch * (44 + shape.image_tokens)
    seen = {"llava-finetune": ours(setting, options.layers), "transformers + peft": peer(setting, options.layers)}
    if options.fp8:
        seen["llava-finetune, base in fp8"] = ours(dataclasses.replace(setting, base_dtype="fp8"), options.layers)
    print(f"{options.batch} records of {tokens // options.batch} positions, {options.layers or 'all'} layers\n")
    print("\n".join(counts(seen, tokens)))
    print()
    print("\n".join(classes(seen["llava-finetune"][0])))
    (mine, my_peak), (theirs, their_peak) = list(seen.values())[:2]
    fewer = sum(one.flops for one in mine) <= sum(one.flops for one in theirs)
    return 0 if fewer and my_peak <= their_peak else 1


def ours(setting: Any, layers: int | None) -> tuple[Sequence[Any], int]:
    """The operations of the last step of this project's driver, and the bytes at its peak."""
    from llava_finetune.pretended_gpu.training import Job, run

    seen = run(Job(MODEL, setting, layers=layers, record=True))
    return seen.trace.operations, seen.peak


def peer(setting: Any, layers: int | None) -> tuple[Sequence[Any], int]:
    """The same of the loop in benchmarks/gpu_rows.py, whose batches have no padding here."""
    from torch._subclasses.fake_tensor import FakeTensorMode
    from transformers import initialization

    from benchmarks import gpu_rows
    from llava_finetune.planning.from_config import read_shape
    from llava_finetune.pretended_gpu.device import CARDS, pretend
    from llava_finetune.pretended_gpu.kernels import gpu_kernels
    from llava_finetune.pretended_gpu.trace import Trace

    whole = read_shape(MODEL)
    language, vision = whole.language, whole.vision
    if layers:
        language, vision = (dataclasses.replace(one, layers=one_layers) for one, one_layers in
                            ((language, layers), (vision, layers + 1)))  # fmt: skip
    shape = dataclasses.replace(whole, language=language, vision=vision)
    features = setting.batch * whole.image_tokens * language.hidden
    trace = Trace(lambda size: features if len(size) == 3 else None)
    start = 0
    with (
        pretend(CARDS["H200"], trace.observer),
        gpu_kernels(),
        FakeTensorMode(allow_non_fake_inputs=True),
        trace,
        initialization.no_init_weights(),
    ):
        step = gpu_rows.peer_step(shape, setting)
        for number in range(2):
            trace.recording, start = number == 1, len(trace.ledger.events)
            for stage in step():
                trace.stage = stage
    return trace.operations, trace.ledger.peak_after(start)[0]


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
