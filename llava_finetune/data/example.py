"""A record as the model sees it: token ids, labels and pictures.

example = RecordDataset(records, encoder)[0]
example.is_cut(2048), example.num_taught(2048)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from data_prep.records.marks import IGNORE_INDEX


@dataclass(frozen=True)
class Picture:
    """One picture of a record: its pixels (float32), or in their place the features that the cache knows.

    `key` names it in the cache; None where there is no cache.
    """

    path: str
    size: tuple[int, int]
    pixels: torch.Tensor | None = None
    features: torch.Tensor | None = None
    key: str | None = None


@dataclass(frozen=True, eq=False)
class Example:
    """One record: input_ids and labels (int64, 1-d, -200 for a picture, -100 where nothing is taught).

    `length`: positions, pictures counted; `image_tokens`: those of each picture; `index`: its place in the data set.
    `branches`, where questions are independent, is where each begins (see masking.Encoded). `text_is_cut` says that the
    text alone was longer than allowed. `owners`, in an example made of several records, is the record of each branch,
    by its place in the batch.
    """

    id: str
    input_ids: torch.Tensor
    labels: torch.Tensor
    length: int
    branches: tuple[int, ...] = ()
    text_is_cut: bool = False
    pictures: Sequence[Picture] = ()
    image_tokens: Sequence[int] = ()
    index: int = -1
    owners: tuple[int, ...] = ()

    def paths(self) -> list[Example]:
        """An example of independent questions as one for each: what they share, then the question's own part."""
        if not self.branches:
            return [self]
        out = []
        for start, end in zip(self.branches, [*self.branches[1:], len(self.input_ids)], strict=True):
            kept = torch.cat([torch.arange(self.branches[0]), torch.arange(start, end)])
            length = self.length - len(self.input_ids) + len(kept)
            ids, labels = self.input_ids[kept], self.labels[kept]
            out.append(replace(self, input_ids=ids, labels=labels, length=length, branches=()))
        return out

    def is_cut(self, max_length: int | None) -> bool:
        """Whether the record lost its end: its text was cut when it was encoded, or its pictures push it out."""
        limit = max_length or math.inf
        return self.text_is_cut or any(path.length > limit for path in self.paths())

    def num_taught(self, max_length: int | None) -> int:
        """Supervised tokens that survive the cut at `max_length` positions, pictures counted."""
        total = 0
        for path in self.paths():
            cut = max(0, path.length - max_length) if max_length else 0
            total += int((path.labels[: max(0, len(path.labels) - cut)] != IGNORE_INDEX).sum())
        return total

    def untaught(self) -> Example:
        """The same example, of which nothing is taught."""
        return replace(self, labels=torch.full_like(self.labels, IGNORE_INDEX))
