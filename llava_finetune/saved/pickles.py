"""Pickles: files of torch.save, which could run code while they are read, and here cannot.

state = load_pickle(Path("runs/mine/non_lora_trainables.bin"))     # tensors by name
"""

from __future__ import annotations

import zipfile
from pathlib import Path

import torch

from data_prep.errors import DataError
from data_prep.records.json_text import require_regular
from llava_finetune.errors import UserError


def load_pickle(path: Path) -> dict[str, torch.Tensor]:
    """A `.bin` state dict on the CPU, mapped from disk, read with `weights_only` so that no code in it can run."""
    require_file(path)
    try:
        # Files from before PyTorch 1.6 are no zip archives and cannot be mapped.
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:
        raise UserError(
            f"{path}: refused: it is not a plain and whole file of tensors ({str(error).splitlines()[0]}); "
            "a pickle can run code, so only weights are read from .bin files"
        ) from error
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise UserError(f"{path}: refused: expected tensors by name, found something else; copy the file again")
    return dict(state)


def require_file(file: Path) -> None:
    """Raise UserError unless it is a regular file."""
    try:
        require_regular(file)
    except DataError as error:
        raise UserError(str(error)) from None
