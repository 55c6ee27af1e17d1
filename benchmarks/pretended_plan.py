"""What plan counts beside what a pretended training of the whole model holds: a row for each model and mode.

Each row is what `llava-finetune plan --exact` shows: one step in one process without DeepSpeed, records of one picture
and 256 tokens of text, in a process of its own.

    python benchmarks/pretended_plan.py                             all rows, half a minute to two of one core each
    python benchmarks/pretended_plan.py --models 7b --modes qlora,full

Exit codes: 0 all within 5 %, 1 one is not, 2 wrong use.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from llava_finetune.planning.exact import pretend  # noqa: E402
from llava_finetune.planning.from_config import read_shape  # noqa: E402
from llava_finetune.planning.memory import estimate  # noqa: E402
from llava_finetune.planning.proposals import max_length  # noqa: E402
from llava_finetune.planning.setting import Setting  # noqa: E402

TOLERANCE = 0.05
MODELS = {
    "7b": "liuhaotian/llava-v1.5-7b",
    "13b": "liuhaotian/llava-v1.5-13b",
    "1.6-vicuna-7b": "liuhaotian/llava-v1.6-vicuna-7b",
    "1.6-mistral-7b": "liuhaotian/llava-v1.6-mistral-7b",
    "34b": "liuhaotian/llava-v1.6-34b",
}
BATCHES = {"7b": 4, "13b": 4}
MODES = ("lora", "qlora", "full", "pretrain")


def main(argv: Sequence[str] | None = None) -> int:
    """Print a row for each configuration."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default=",".join(MODELS), help="some of them, by commas after each other")
    parser.add_argument("--modes", default=",".join(MODES), help="likewise")
    options = parser.parse_args(argv)
    models, modes = options.models.split(","), options.modes.split(",")
    if unknown := {*models, *modes} - {*MODELS, *MODES}:
        parser.error(f"{', '.join(sorted(unknown))}: expected some of {', '.join([*MODELS, *MODES])}")
    print("| model | mode | batch | checkpointing | accumulated | counted | seen | difference | the allocator loses |")
    print("|---" * 9 + "|", flush=True)
    rows = [row(model, mode, checkpointing) for model in models for mode in modes for checkpointing in (True, False)]
    return 0 if all(abs(difference) <= TOLERANCE for difference in rows) else 1


def row(model: str, mode: str, checkpointing: bool) -> float:
    """Print one configuration; how much more is counted than seen, as a share."""
    shape = read_shape(MODELS[model])
    accumulation = 2 if mode in ("lora", "qlora") and checkpointing else 1
    wanted = Setting(mode, batch=BATCHES.get(model, 1), checkpointing=checkpointing, max_length=max_length(shape))
    setting, seen = pretend(MODELS[model], wanted, accumulation)
    counted = estimate(shape, setting).tensors
    difference = counted / seen["peak"] - 1
    words = [model, mode, str(setting.batch), *("yes" if one else "no" for one in (checkpointing, setting.accumulated))]
    words += [f"{counted / 1e9:.2f} GB", f"{seen['peak'] / 1e9:.2f} GB", f"{difference:+.1%}"]
    print(f"| {' | '.join(words)} | {seen['reserved'] / seen['peak'] - 1:.1%} |", flush=True)
    return float(difference)


if __name__ == "__main__":
    raise SystemExit(main())
