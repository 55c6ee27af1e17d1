"""Pickles: files of torch.save, which could run code while they are read, and here cannot.

state = load_pickle(Path("runs/mine/non_lora_trainables.bin"))     # tensors by name
"""

from __future__ import annotations

import importlib
import re
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

from data_prep.records.json_text import require_regular
from llava_finetune.errors import UserError

if TYPE_CHECKING:
    import torch


def load_pickle(path: Path) -> dict[str, torch.Tensor]:
    """A `.bin` state dict on the CPU, mapped from disk, read with `weights_only` so that no code in it can run."""
    import torch

    require_file(path)
    try:
        # Files from before PyTorch 1.6 are no zip archives and cannot be mapped.
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:
        raise UserError(
            f"{path}: refused: it is not a plain and whole file of tensors ({_in_words(error)}); "
            "a pickle can run code, so only weights are read from .bin files"
        ) from error
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise UserError(f"{path}: refused: expected tensors by name, found something else; copy the file again")
    return dict(state)


def _in_words(error: Exception) -> str:
    """What torch found, without its advice to read the file all the same."""
    said = str(error).strip()
    if asked := re.search(r"Unsupported (?:global|class) (?:GLOBAL )?([\w.]+)", said):
        return f"it asks for {asked[1]}"
    if not said or "weights_only" in said.splitlines()[0]:
        return "no file of tensors can be read from it"
    return said.splitlines()[0][:200]


DEEPSPEED = ("deepspeed.runtime.", "deepspeed.utils.tensor_fragment.")
"""Where the classes stand of which DeepSpeed's states are made (loss scalers, stages, addresses of fragments)."""
NUMPY = frozenset(
    f"{package}.{name}"
    for package in ("numpy.core.multiarray", "numpy._core.multiarray", "numpy")
    for name in ("_reconstruct", "ndarray", "dtype", "scalar")
) | frozenset(f"numpy.dtypes.{name}DType" for name in ("UInt32", "Int64", "Float64", "Float32", "Int32", "Bool"))
"""What transformers' random states are made of, besides what torch itself knows."""


def refuse_code(folder: Path) -> None:
    """Raise UserError for a file of a checkpoint that asks for code while it is read, before any of them is loaded.

    torch names what a file asks for without doing it. DeepSpeed loads its states with pickle's full power: they are
    looked at here, and nothing but classes of `DEEPSPEED` passes. What is damaged otherwise is for others to tell.
    """
    for file in sorted(folder.rglob("*")):
        if file.suffix in (".pt", ".pth", ".bin") and not file.is_dir():
            _refuse_code_in(file)


def _refuse_code_in(file: Path) -> None:
    require_file(file)
    if zipfile.is_zipfile(file):
        import torch

        try:
            asked = set(torch.serialization.get_unsafe_globals_in_checkpoint(file)) - NUMPY
        except Exception:  # a damaged archive, in whatever words: its hash tells that
            return
        refused = sorted(name for name in asked if not _is_state_of_deepspeed(name))
        what = f"it asks for {refused[0]}" if refused else None
    else:
        with file.open("rb") as stream:
            what = "it is a bare pickle, as torch writes none" if stream.read(1) == b"\x80" else None
    if what:
        raise UserError(
            f"{file}: refused: {what}, and a pickle can run code; it is not what a training wrote: copy the checkpoint "
            "again from where it came from, or go on from another one"
        )


def _is_state_of_deepspeed(name: str) -> bool:
    module, _, attribute = name.rpartition(".")
    if not name.startswith(DEEPSPEED):
        return False
    try:
        return isinstance(getattr(importlib.import_module(module), attribute, None), type)
    except ImportError:
        return False


def require_file(file: Path) -> None:
    """Raise UserError unless it is a regular file."""
    require_regular(file)
