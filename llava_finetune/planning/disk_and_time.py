"""What a training costs beside memory: the disk by the shapes, and, where the records are known, a predicted time.

cost_lines(read_shape("liuhaotian/llava-v1.5-7b"), Setting("lora"), records=62, epochs=3)
"""

from __future__ import annotations

from llava_finetune.machine import readable
from llava_finetune.planning.activations import sequence_length
from llava_finetune.planning.memory import trainable_parameters
from llava_finetune.planning.setting import Setting
from llava_finetune.planning.shapes import Shape

BYTES_KEPT = 14
"""Bytes of a trained parameter in a checkpoint: itself in 16 bits, its copy and Adam's two moments in 32."""
SET_UP = "8 GB"
"""What scripts/setup.sh takes with CUDA; docs/install.md, docs/training.md and scripts/setup.sh say the same."""
SPEEDS = (60, 15)
"""TFLOP/s that training reaches on one card of today and on one of 2018: a rule of thumb, nothing measured here."""


def cost_lines(shape: Shape, setting: Setting, records: int | None, epochs: int | None) -> list[str]:
    """Lines that tell what a plan takes on the disk, and for how long, as far as arithmetic can say it."""
    weights = shape.language.num_parameters + shape.projector_parameters + shape.vision.num_parameters
    kept = BYTES_KEPT * trainable_parameters(shape, setting)
    lines = [
        f"Disk: about {readable(2 * weights)} for the model and its tower (from the hub that is the download), "
        f"{readable(kept)} for each checkpoint (--save_total_limit keeps 2), {SET_UP} for the set-up"
    ]
    if records and epochs:
        operations = _operations(shape, setting, records * epochs)
        fast, slow = (_told(operations / (speed * 1e12) / 60) for speed in SPEEDS)
        span = fast if fast == slow else f"{fast} to {slow}"
        lines.append(
            f"Time: {span} of training on one card, predicted: {operations:.1e} operations at "
            f"{SPEEDS[0]} to {SPEEDS[1]} TFLOP/s; loading and evaluation come on top"
        )
    return lines


def _operations(shape: Shape, setting: Setting, records: int) -> float:
    """Floating point operations of the language model: 2 a weight and position forward, 2 for what flows back.

    Checkpointing goes forward twice; weights that are trained take 2 more. Records count as the longest.
    """
    passes = 4 + 2 * setting.checkpointing + 2 * (setting.mode == "full")
    return float(passes) * shape.language.num_parameters * records * sequence_length(shape, setting)


def _told(minutes: float) -> str:
    if minutes < 1:
        return "less than a minute"
    return f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.0f} h"
