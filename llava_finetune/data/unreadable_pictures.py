"""A picture that cannot be read during a run costs its record, not the run: the next record is taught in its place.

The check before a run finds what is bad by then; a disk or a network drive can lose a picture afterwards. An error in
one rank's data would end that rank and leave the others waiting for it. Each loss is printed; more than LIMIT in a
process end the run. Both drivers use this: ours by the data set, upstream's by a patch (lost_picture).

    dataset = WithSubstitutes(RecordDataset(records, encoder))
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from PIL import Image
from torch.utils.data import Dataset

from data_prep.records.picture import open_image
from data_prep.records.record import DataError
from llava_finetune.errors import UserError
from llava_finetune.planning.picture_batches import PictureKey

LIMIT = 100


class PictureLost(UserError):
    """A record's picture cannot be read; the message names both."""


class Losses:
    """Counts what one process lost, says it, and ends the run when that is no accident any more."""

    def __init__(self) -> None:
        self.num = 0

    def note(self, what: object) -> None:
        """Say one loss on stderr. Raises UserError beyond LIMIT."""
        self.num += 1
        if self.num > LIMIT:
            raise UserError(
                f"{self.num} pictures could not be read since the run began, at last {what}; the pictures are not what "
                "they were at its start: python -m data_prep check RECORDS --images FOLDER"
            )
        print(
            f"WARNING: {what}; the next record is taught in its place ({self.num} so far)", file=sys.stderr, flush=True
        )


class WithSubstitutes(Dataset[Any]):  # type: ignore[misc]  # torch is not followed
    """`dataset`, in which the next record stands for one whose picture is lost; PictureLost when none is left."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset
        self.losses = Losses()

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        for step in range(len(self)):
            try:
                return self.dataset[(index + step) % len(self)]
            except PictureLost as error:
                lost = error
                self.losses.note(error)
        raise lost

    def begin_epoch(self, epoch: int) -> None:
        """Tell the run's own records which epoch begins, where they change from one to the next."""
        own = getattr(self.dataset, "main", self.dataset)
        if hasattr(own, "begin_epoch"):
            own.begin_epoch(epoch)

    @property
    def records(self) -> Any:
        """The run's own records; general ones beside them (replay) are left out."""
        return getattr(self.dataset, "main", self.dataset).records

    @property
    def modality_lengths(self) -> list[int]:
        """As the data set's own."""
        return self.dataset.modality_lengths  # type: ignore[no-any-return]

    @property
    def picture_keys(self) -> list[PictureKey]:
        """As the data set's own."""
        return self.dataset.picture_keys  # type: ignore[no-any-return]


_LOSSES = Losses()


def open_or_note(path: str) -> Image.Image | None:
    """The picture at `path` as RGB, or None after saying that it is lost."""
    try:
        return open_image(Path(path))
    except DataError as error:
        _LOSSES.note(error)
        return None
