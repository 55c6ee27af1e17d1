"""Mix general records into the training data, so that what the base knew is not forgotten.

mixed(dataset, "general.json:0.1", encoder, seed=42)      # a tenth of what is trained on is general
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from torch.utils.data import Dataset

from data_prep.records.record import read_records
from llava_finetune.data.dataset import Encodes, RecordDataset
from llava_finetune.data.example import Example
from llava_finetune.errors import UserError
from llava_finetune.planning.picture_batches import PictureKey


class Mixed(Dataset[Example]):  # type: ignore[misc]  # torch is not followed
    """Two data sets as one: all of the first, then the drawn records of the second."""

    def __init__(self, main: RecordDataset, general: RecordDataset, drawn: Sequence[int]) -> None:
        self.main, self.general, self.drawn = main, general, list(drawn)

    def __len__(self) -> int:
        return len(self.main) + len(self.drawn)

    def __getitem__(self, index: int) -> Example:
        if index < len(self.main):
            return self.main[index]
        return replace(self.general[self.drawn[index - len(self.main)]], index=index)

    @property
    def modality_lengths(self) -> list[int]:
        """Upstream's measure of every record, as RecordDataset's."""
        general = self.general.modality_lengths
        return [*self.main.modality_lengths, *(general[index] for index in self.drawn)]

    @property
    def picture_keys(self) -> list[PictureKey]:
        """What tells the pictures of every record apart, as RecordDataset's."""
        general = self.general.picture_keys
        return [*self.main.picture_keys, *(general[index] for index in self.drawn)]


def split_spec(spec: str) -> tuple[Path, float]:
    """`FILE:SHARE` as path and share."""
    path, _, share = spec.rpartition(":")
    return Path(path), float(share)


def mixed(main: RecordDataset, spec: str, encoder: Encodes, seed: int) -> Mixed:
    """`main` with so many general records that they are SHARE of the whole; drawn by `seed`, repeated when too few."""
    path, share = split_spec(spec)
    records = read_records(path)
    if not len(records):
        raise UserError(f"--replay {spec}: {path} holds no records")
    wanted = max(1, round(share / (1 - share) * len(main)))
    order = list(range(len(records)))
    random.Random(seed).shuffle(order)
    drawn = [order[index % len(order)] for index in range(wanted)]
    return Mixed(main, RecordDataset(records, encoder), drawn)
