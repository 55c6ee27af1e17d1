"""A loaded model's parameters and buffers by module, dtype and device: the check for bf16 throughout.

One vision tower left in fp16 beside a bf16 model fails at the first picture, or worse, does not; this shows it at once.

    llava-finetune doctor --model runs/a
"""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

INTEGERS = ("uint8", "int8", "int64", "int32", "bool")
KEPT_IN_FP32 = ("inv_freq", "original_inv_freq")
"""Buffers that transformers keeps in fp32 on purpose: the frequencies of rotary positions."""


@dataclass(frozen=True)
class Row:
    """Tensors of one part with one dtype on one device, and whether they belong so."""

    part: str
    dtype: str
    device: str
    tensors: int
    parameters: int
    stray: bool
    example: str


def check_model(model: str, base: str | None, dtype: str, device: str, bits: int, *, as_json: bool = False) -> int:
    """Load, print the table, and return 1 where a floating-point tensor has another dtype or device than the model."""
    from llava_finetune.model.loading import load

    loaded = load(model, base=base, dtype=dtype, device=device, bits=bits)
    chosen = str(loaded.dtype).removeprefix("torch.")
    rows = table(loaded.model, chosen, loaded.device.type, quantized=bits != 16)
    if as_json:
        print(json.dumps({"dtype": chosen, "rows": [asdict(row) for row in rows]}, indent=2))
    else:
        print(text(rows, model, chosen))
    return 1 if any(row.stray for row in rows) else 0


def table(model: Any, dtype: str, device: str, *, quantized: bool = False) -> list[Row]:
    """Rows over all parameters and buffers of `model`, whose dtype should be `dtype` (such as "bfloat16")."""
    groups: dict[tuple[str, str, str, bool], list[tuple[str, int]]] = {}
    for name, tensor in _tensors(model):
        kind = str(tensor.dtype).removeprefix("torch.")
        place = tensor.device.type
        stray = _is_stray(name, kind, place, dtype, device, quantized=quantized)
        groups.setdefault((part_of(name), kind, place, stray), []).append((name, tensor.numel()))
    return [
        Row(part, kind, place, len(names), sum(size for _, size in names), stray, names[0][0])
        for (part, kind, place, stray), names in sorted(groups.items())
    ]


def part_of(name: str) -> str:
    """The part of a LLaVA that a parameter belongs to, by its full name."""
    marks = {
        "lora_": "LoRA",
        "vision_tower": "vision tower",
        "mm_projector": "projector",
        "image_newline": "projector",
        "lm_head": "head",
        "embed_tokens": "embeddings",
        "norm": "norms",
        "inv_freq": "rotary positions",
    }
    return next((part for mark, part in marks.items() if mark in name), "language model")


def text(rows: list[Row], model: str, dtype: str) -> str:
    """The table for a person, with a last line that says whether all is well."""
    lines = [f"{'module':<18}{'dtype':<12}{'device':<8}{'tensors':>8}{'values':>16}"]
    for row in rows:
        mark = f"  <- stray: {row.example}" if row.stray else ""
        lines.append(f"{row.part:<18}{row.dtype:<12}{row.device:<8}{row.tensors:>8}{row.parameters:>16,}{mark}")
    strays = Counter[bool]()
    for row in rows:
        strays[row.stray] += row.tensors
    if strays[True]:
        lines.append(
            f"{strays[True]} of {sum(strays.values())} tensors of {model} are not {dtype} on the model's device; "
            f"ask for one dtype: llava-finetune doctor --model {model} --dtype fp32"
        )
    else:
        lines.append(f"all {strays[False]} tensors are {dtype} (integers and rotary frequencies excepted)")
    return "\n".join(lines)


def _tensors(model: Any) -> Iterator[tuple[str, Any]]:
    yield from model.named_parameters()
    yield from model.named_buffers()


def _is_stray(name: str, kind: str, place: str, dtype: str, device: str, *, quantized: bool) -> bool:
    if place != device:
        return True
    if name.rsplit(".", 1)[-1] in KEPT_IN_FP32:
        return kind != "float32"
    if kind in INTEGERS:
        return False
    # Quantised weights carry fp32 statistics; projector, tower and head must be in the model's dtype all the same.
    statistics = quantized and kind == "float32" and part_of(name) in ("language model", "norms")
    return kind != dtype and not statistics
