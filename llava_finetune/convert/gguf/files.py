"""One GGUF file, written in a stream: what it holds is planned first, then each tensor is read, converted and written.

Why: a 7B model is 13 GB and must not have to fit in memory; the size is known before the first byte, so a disk that is
too small is told before an hour of writing.

    file = GgufFile("llama"); file.writer.add_block_count(32); file.tensors.append(Tensor("output_norm.weight", ...))
    file.write(Path("out/model.gguf"))
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import gguf
import numpy
import torch
from gguf import GGMLQuantizationType as Kind

from llava_finetune.convert.gguf.file_types import num_bytes, to_bytes
from llava_finetune.errors import UserError

HEAD_BYTES = 64_000_000
"""Room for what stands before the tensors: the largest vocabularies with their merges take some 10 MB."""


@dataclass(frozen=True)
class Tensor:
    """A tensor to write: its name in the file, its shape, its type there, and how its value is read."""

    name: str
    shape: tuple[int, ...]
    kind: Kind
    load: Callable[[], torch.Tensor]


@dataclass
class GgufFile:
    """The keys (through `writer`) and the tensors of one file."""

    architecture: str
    tensors: list[Tensor] = field(default_factory=list)
    writer: gguf.GGUFWriter = field(init=False)

    def __post_init__(self) -> None:
        self.writer = gguf.GGUFWriter(path=None, arch=self.architecture)

    @property
    def num_bytes(self) -> int:
        """Bytes of the tensors."""
        return sum(num_bytes(each.kind, each.shape) for each in self.tensors)

    @property
    def size(self) -> int:
        """Bytes on disk, a little more than will be needed."""
        return HEAD_BYTES + self.num_bytes

    def write(self, path: Path, advance: Callable[[int], None]) -> int:
        """Write the file and return its bytes; `advance` hears of every megabyte.

        Raises UserError for two tensors of one name, OSError as the disk does.
        """
        repeated = [name for name, count in Counter(each.name for each in self.tensors).items() if count > 1]
        if repeated:
            raise UserError(f"{path.name}: two tensors for {repeated[0]}; the source folder mixes two models")
        for each in self.tensors:
            size = num_bytes(each.kind, each.shape)
            self.writer.add_tensor_info(each.name, each.shape, numpy.dtype("float32"), size, raw_dtype=each.kind)
        self.writer.write_header_to_file(path)
        self.writer.write_kv_data_to_file()
        self.writer.write_ti_data_to_file()
        done = 0
        for each in self.tensors:
            self.writer.write_tensor_data(to_bytes(each.load(), each.kind, each.name))
            before, done = done, done + num_bytes(each.kind, each.shape)
            advance(done // 1_000_000 - before // 1_000_000)
        self.writer.close()
        return path.stat().st_size
