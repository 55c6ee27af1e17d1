"""Weights read and written in a stream, one tensor in memory at a time, from safetensors or `.bin` shards.

Why: a 7B model is 13 GB; converting must not need that much memory. `.bin` files are opened with `weights_only`, so a
pickle cannot run code. Files are written by hand (safetensors is a JSON header and the bytes), because the library's
writer holds a whole shard.

    for file in weight_files(folder):
        with open_shard(file) as tensors:
            print([(tensor.name, tensor.shape, tensor.load().mean()) for tensor in tensors])
"""

from __future__ import annotations

import functools
import json
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, BinaryIO

import msgspec
import torch

from data_prep.records.json_text import conform
from llava_finetune.errors import UserError
from llava_finetune.saved.manifest import read_json, write_json
from llava_finetune.saved.model_documents import Count
from llava_finetune.saved.model_files import INDEX_FILES, SINGLE_FILES
from llava_finetune.saved.pickles import load_pickle, require_file
from llava_finetune.saved.sound import header_of, require_inside

DTYPE_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


class HeaderRow(msgspec.Struct):
    """What the header of a safetensors file says of one tensor."""

    dtype: str
    shape: list[Count]
    data_offsets: Annotated[list[Count], msgspec.Meta(min_length=2, max_length=2)]


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a file: its name, shape and dtype are known, its bytes are read by `load()`."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    load: Callable[[], torch.Tensor]


def weight_files(folder: Path) -> list[Path]:
    """The weight files of a model folder, in the index's order.

    Raises UserError for a folder without weights, for a shard that the index names and the folder lacks, and for a
    half-written safetensors file.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; give a folder that holds config.json and weights")
    for name in INDEX_FILES:
        if (folder / name).is_file():
            mapping = read_json(folder / name)["weight_map"]
            require_inside(folder / name, mapping)
            files = [folder / shard for shard in dict.fromkeys(mapping.values())]
            break
    else:
        files = [folder / name for name in SINGLE_FILES if (folder / name).is_file()][:1]
    if not files:
        wanted = ", ".join(SINGLE_FILES + INDEX_FILES)
        raise UserError(f"{folder}: no weights; expected one of {wanted}")
    for path in files:
        _check_whole(path)
    return files


def _check_whole(path: Path) -> None:
    """Raise UserError when a weight file is missing or shorter than its own header says."""
    if not path.is_file():
        if path.exists():
            require_file(path)
        raise UserError(f"{path}: the index names this shard and it is not there; download or copy it again")
    if path.suffix != ".safetensors":
        return
    for name, row in header_of(path).items():
        conform(row, HeaderRow, f"{path}: {name[:80]}")


def open_shard(path: Path) -> AbstractContextManager[list[StoredTensor]]:
    """The tensors of one file, open inside a `with` block."""
    return _OpenShard(path)


class _OpenShard(AbstractContextManager[list[StoredTensor]]):
    def __init__(self, path: Path) -> None:
        self.path = path
        self.stack = ExitStack()

    def __enter__(self) -> list[StoredTensor]:
        if self.path.suffix == ".safetensors":
            return self._safetensors()
        return self._pickle()

    def __exit__(self, *exc: object) -> None:
        self.stack.close()

    def _safetensors(self) -> list[StoredTensor]:
        from safetensors import SafetensorError, safe_open

        names = {value: key for key, value in DTYPE_NAMES.items()}
        try:
            file = self.stack.enter_context(safe_open(self.path, "pt"))
        except SafetensorError as error:
            raise UserError(f"{self.path}: its header is damaged ({error}); download or copy it again") from error
        out = []
        for name in file.keys():  # noqa: SIM118 (not a dict)
            part = file.get_slice(name)
            if part.get_dtype() not in names:
                known = ", ".join(names)
                self.stack.close()
                raise UserError(f"{self.path}: {name[:80]} is of type {part.get_dtype()}; expected one of {known}")
            out.append(
                StoredTensor(
                    name, tuple(part.get_shape()), names[part.get_dtype()], functools.partial(file.get_tensor, name)
                )
            )
        return out

    def _pickle(self) -> list[StoredTensor]:
        state = load_pickle(self.path)
        self.stack.callback(state.clear)
        return [StoredTensor(name, tuple(t.shape), t.dtype, functools.partial(_itself, t)) for name, t in state.items()]


def write_safetensors(path: Path, tensors: Sequence[StoredTensor]) -> None:
    """Write tensors to one safetensors file, loading one at a time; the file appears whole or not at all."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for tensor in tensors:
        count = 1
        for size in tensor.shape:
            count *= size
        end = offset + count * tensor.dtype.itemsize
        header[tensor.name] = {
            "dtype": DTYPE_NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [offset, end],
        }
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    temporary = path.with_name(path.name + ".part")
    with temporary.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for tensor in tensors:
            _write_bytes(file, tensor)
    temporary.replace(path)


def _write_bytes(file: BinaryIO, tensor: StoredTensor) -> None:
    value = tensor.load()
    if tuple(value.shape) != tensor.shape or value.dtype != tensor.dtype:
        raise ValueError(
            f"{tensor.name}: announced {tensor.shape} {tensor.dtype}, got {tuple(value.shape)} {value.dtype}"
        )
    if value.numel():
        file.write(memoryview(value.detach().contiguous().reshape(-1).view(torch.uint8).numpy()))


@dataclass
class ShardWriter:
    """Writes shards into a folder and, at the end, names them and their index as transformers does."""

    folder: Path
    written: list[Path] = field(default_factory=list)
    weight_map: dict[str, int] = field(default_factory=dict)
    total_size: int = 0

    def add_shard(self, tensors: Sequence[StoredTensor]) -> None:
        """Write one shard; an empty one is left out. A name that was written before is an error."""
        if not tensors:
            return
        for tensor in tensors:
            if tensor.name in self.weight_map:
                raise UserError(f"{tensor.name} is in two shards; the source folder mixes two models")
            self.weight_map[tensor.name] = len(self.written)
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"shard-{len(self.written)}.safetensors"
        write_safetensors(path, tensors)
        self.total_size += path.stat().st_size
        self.written.append(path)

    def finish(self) -> None:
        """Give the shards their final names and write the index when there is more than one."""
        count = len(self.written)
        names = ["model.safetensors"]
        if count > 1:
            names = [f"model-{number:05d}-of-{count:05d}.safetensors" for number in range(1, count + 1)]
        for path, name in zip(self.written, names, strict=False):
            path.replace(self.folder / name)
        if count > 1:
            index = {
                "metadata": {"total_size": self.total_size},
                "weight_map": {key: names[number] for key, number in sorted(self.weight_map.items())},
            }
            write_json(self.folder / INDEX_FILES[0], index)


def tensor_inventory(folder: Path) -> Iterator[tuple[str, tuple[int, ...], torch.dtype]]:
    """Names, shapes and dtypes of all stored tensors of a folder."""
    for path in weight_files(folder):
        with open_shard(path) as tensors:
            for tensor in tensors:
                yield tensor.name, tensor.shape, tensor.dtype


def _itself(tensor: torch.Tensor) -> torch.Tensor:
    return tensor
