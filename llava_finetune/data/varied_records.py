"""Records whose pictures vary from epoch to epoch: what `--augment` trains on.

dataset = VariedRecords(records, encoder, False, Augmentation(frozenset({"flip"}), seed=42))
dataset.begin_epoch(3); dataset[7]
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from data_prep.records.record import DataError, open_image
from data_prep.records.usable import taught
from llava_finetune.data.augmentation import Augmentation
from llava_finetune.data.dataset import Encoder, RecordDataset
from llava_finetune.data.example import Example
from llava_finetune.data.unreadable_pictures import PictureLost


class VariedRecords(RecordDataset):
    """A RecordDataset that changes pictures, and boxes with them, by the epoch that all loading processes share."""

    def __init__(
        self, records: Sequence[Mapping[str, Any]], encoder: Encoder, real_lengths: bool, augmentation: Augmentation
    ) -> None:
        super().__init__(records, encoder, real_lengths)
        self._encoder = encoder
        self.augmentation = augmentation
        # Workers may stay alive for the whole run: they read it here, in memory that is shared.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    def begin_epoch(self, epoch: int) -> None:
        """From now on records are as epoch `epoch` (from 0) teaches them."""
        self._epoch.fill_(epoch)

    def __getitem__(self, index: int) -> Example:
        record = taught(self.records[index])
        try:
            paths = self._encoder.paths(record)
            images = [open_image(path) for path in paths]
        except DataError as error:
            raise PictureLost(f"record {record.get('id')!r}: {error}") from None
        varied = self.augmentation.varied(record, images, index, int(self._epoch))
        pictures = [self._encoder.prepared(path, image) for path, image in zip(paths, varied.images, strict=True)]
        # A batch holds each picture once, by its path: one that was changed for this record is no other record's.
        own = [replace(one, path=f"{one.path} as record {index} has it") for one in pictures]
        return self._encoder.example(varied.record, index, own if varied.done else pictures)
