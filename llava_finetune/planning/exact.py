"""`plan --exact`: the plan's bytes beside those of a pretended training of the same model, mode and lengths.

The training is llava_finetune/pretended_gpu's, in a process of its own: planning itself loads no torch. It runs as one
process without DeepSpeed, one step of one batch, with the optimizer's state made before it and, where batches are
accumulated, an earlier one's gradients.

    seen = pretend("liuhaotian/llava-v1.5-7b", Setting("lora", batch=4), accumulation=8)
"""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from llava_finetune.errors import UserError
from llava_finetune.machine import GB
from llava_finetune.parent import bound_to_this
from llava_finetune.planning.memory import estimate
from llava_finetune.planning.setting import Setting
from llava_finetune.planning.shapes import Shape
from llava_finetune.saved.manifest import upstream_stamp

ROWS = {
    "weights, adapters": ("weights", "adapters"),
    "gradients": ("gradients",),
    "Adam": ("optimizer",),
    "activations, logits, temporary": ("activations", "logits", "temporary", "rest"),
}
ACCUMULATED = 2
"""Batches of a step where nothing is proposed: from the second on, gradients lie beside activations."""


def pretend(
    model: str, setting: Setting, accumulation: int, vision_tower: str | None = None
) -> tuple[Setting, dict[str, Any]]:
    """What was pretended, and its facts: peak, reserved, parts, flops, tokens, seconds. UserError says why not."""
    upstream_stamp()  # a stale tree is refused now, and not when torch and the model are there
    alone = replace(setting, stage=0, offload=False, num_gpus=1, accumulated=accumulation > 1)
    values = asdict(alone)
    del values["accumulated"]
    one_step = {"steps": 1, "gradients": accumulation > 1, "record": False}
    job = values | {"model": model, "vision_tower": vision_tower} | one_step
    command = [sys.executable, "-m", "llava_finetune.pretended_gpu", json.dumps(job)]
    done = subprocess.run(command, env=bound_to_this(os.environ), capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1].removeprefix("error: ")
        raise UserError(f"the pretended training of {model} failed: {last}")
    return alone, json.loads(done.stdout.splitlines()[-1])


def lines(shape: Shape, setting: Setting, seen: Mapping[str, Any]) -> list[str]:
    """The table: what the plan counts for one process without DeepSpeed, and what a pretended training held."""
    counted = asdict(estimate(shape, setting))
    checkpointing = "checkpointing" if setting.checkpointing else "no checkpointing"
    how = f"batch {setting.batch}, {checkpointing}{', accumulating' if setting.accumulated else ''}"
    out = [
        f"{setting.mode} in one process without DeepSpeed, {how}, in GB; pretended in {seen['seconds']:.0f} s:",
        f"  {'at the peak':<32}{'counted':>9}{'seen':>9}",
    ]
    for name, parts in ROWS.items():
        both = [sum(sizes.get(part, 0) for part in parts) / GB for sizes in (counted, seen["parts"])]
        out.append(f"  {name:<32}{both[0]:>9.2f}{both[1]:>9.2f}")
    total = sum(counted.values()) - counted["context"] - counted["allocator"]
    out.append(f"  {'all tensors':<32}{total / GB:>9.2f}{seen['peak'] / GB:>9.2f}  {total / seen['peak'] - 1:+.1%}")
    reserved = seen["reserved"] - seen["peak"]
    out.append(f"  {'what the allocator loses':<32}{counted['allocator'] / GB:>9.2f}{reserved / GB:>9.2f}")
    out.append(f"  {'context, not to be pretended':<32}{counted['context'] / GB:>9.2f}{'':>9}")
    return out
