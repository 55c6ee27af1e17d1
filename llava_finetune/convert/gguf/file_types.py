"""The types in which GGUF weights are written, and a torch tensor's bytes in each of them.

Why here: one-dimensional tensors stay F32 and a row that Q8_0's blocks do not divide stays F16, as llama.cpp itself
does; a value that F16 cannot hold stops the export, because it would become infinite without a word.

    FILE_TYPES["q8_0"].of((576, 576))          # GGMLQuantizationType.Q8_0
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import gguf
import numpy
import torch
from gguf import GGMLQuantizationType as Kind

from llava_finetune.errors import UserError

CHUNK_ELEMENTS = 1 << 20
"""How many elements are converted at once: some 20 MB of intermediate values beside the tensor and what is written."""

F16_LARGEST = 65504.0

_PLAIN = MappingProxyType({Kind.F32: torch.float32, Kind.F16: torch.float16, Kind.BF16: torch.bfloat16})


@dataclass(frozen=True)
class FileType:
    """A `--type`: the type of its matrices, llama.cpp's number of the whole, and the type of tower and projector.

    Tower and projector are a small part of the bytes and the patch convolution knows only F32 and F16.
    """

    name: str
    matrices: Kind
    number: int
    tower: Kind

    def of(self, shape: tuple[int, ...]) -> Kind:
        """The type in which the language model's tensor of this shape is written."""
        return fitting(self.matrices, shape)


FILE_TYPES: Mapping[str, FileType] = MappingProxyType(
    {
        each.name: each
        for each in (
            FileType("f32", Kind.F32, int(gguf.LlamaFileType.ALL_F32), Kind.F32),
            FileType("f16", Kind.F16, int(gguf.LlamaFileType.MOSTLY_F16), Kind.F16),
            FileType("bf16", Kind.BF16, int(gguf.LlamaFileType.MOSTLY_BF16), Kind.F16),
            FileType("q8_0", Kind.Q8_0, int(gguf.LlamaFileType.MOSTLY_Q8_0), Kind.F16),
        )
    }
)


def fitting(kind: Kind, shape: tuple[int, ...]) -> Kind:
    """`kind` for a matrix whose rows its blocks divide, F16 for another matrix, F32 for a vector."""
    if len(shape) < 2:
        return Kind.F32
    block, _ = gguf.GGML_QUANT_SIZES[kind]
    return kind if shape[-1] % block == 0 else Kind.F16


def num_bytes(kind: Kind, shape: tuple[int, ...]) -> int:
    """How many bytes a tensor of this shape takes in a file."""
    block, size = gguf.GGML_QUANT_SIZES[kind]
    count = 1
    for length in shape:
        count *= length
    return count // block * size


def to_bytes(value: torch.Tensor, kind: Kind, name: str) -> numpy.ndarray[Any, Any]:
    """The tensor's bytes (uint8, flat) in `kind`. Raises UserError for a value that is not finite there."""
    flat = value.detach().contiguous().reshape(-1)
    out = numpy.empty(num_bytes(kind, tuple(value.shape)), dtype=numpy.uint8)
    block, size = gguf.GGML_QUANT_SIZES[kind]
    for start in range(0, flat.numel(), CHUNK_ELEMENTS):  # a multiple of every block size
        piece = flat[start : start + CHUNK_ELEMENTS]
        made = _converted(piece, kind, name)
        at = start // block * size
        out[at : at + made.size] = made
    return out


def _converted(piece: torch.Tensor, kind: Kind, name: str) -> numpy.ndarray[Any, Any]:
    _check_range(piece, kind, name)
    converted = piece.to(_PLAIN.get(kind, torch.float32))
    if kind in _PLAIN:
        return converted.view(torch.uint8).numpy()
    return gguf.quants.quantize(converted.numpy(), kind).reshape(-1).view(numpy.uint8)


def _check_range(piece: torch.Tensor, kind: Kind, name: str) -> None:
    """Raise UserError for a value that is not finite, or too large for F16."""
    low, high = torch.aminmax(piece)  # NaN where one is in the piece
    largest = max(-float(low), float(high))
    if not math.isfinite(largest):
        raise UserError(f"{name}: holds NaN or infinity; the model is damaged, nothing was written")
    if kind is Kind.F16 and largest > F16_LARGEST:
        raise UserError(
            f"{name}: {largest:.3g} is more than {kind.name} can hold ({F16_LARGEST:.0f}); write the model with "
            f"--type f32"
        )
