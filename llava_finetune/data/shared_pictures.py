"""Records about the same pictures become one sequence, in which the pictures stand once.

A question of VQA is 50 tokens behind 576 of its picture. Of the records of a batch that name the same pictures, what
they begin with, system prompt and pictures, is kept once; each record branches off after it and sees nothing of the
others. The loss of each record is what it is alone: positions go on from the shared beginning in every branch.

    examples = share_pictures([dataset[0], dataset[1]])
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import torch
from torch.utils.data import Sampler

from data_prep.records.marks import IGNORE_INDEX, IMAGE_TOKEN_INDEX
from llava_finetune.data.example import Example
from llava_finetune.planning.picture_batches import PictureKey, order


def share_pictures(examples: Sequence[Example]) -> list[Example]:
    """The examples of a batch, those about the same pictures as one each, in the order of the first of each.

    Each says in `owners` which records of the batch it holds. A record whose pictures do not stand before its first
    own word stays alone, and so does a record of text.
    """
    groups: dict[object, list[tuple[int, Example]]] = {}
    for number, example in enumerate(examples):
        paths = tuple(picture.path for picture in example.pictures)
        groups.setdefault(paths or number, []).append((number, example))
    return [merged for group in groups.values() for merged in _merged(group)]


def _merged(group: Sequence[tuple[int, Example]]) -> list[Example]:
    """One example of several records about the same pictures, or each alone where they do not begin alike."""
    alone = [replace(example, owners=(number,)) for number, example in group]
    if len(group) == 1:
        return alone
    paths = [(number, path) for number, example in group for path in example.paths()]
    shared = _shared([path for _, path in paths])
    first = group[0][1]
    if int((first.input_ids[:shared] == IMAGE_TOKEN_INDEX).sum()) < len(first.pictures):
        return alone
    ids, labels = [first.input_ids[:shared]], [first.labels[:shared]]
    branches: list[int] = []
    start = shared
    for _, path in paths:
        branches.append(start)
        ids.append(path.input_ids[shared:])
        labels.append(path.labels[shared:])
        start += len(path.input_ids) - shared
    return [
        replace(
            first,
            input_ids=torch.cat(ids),
            labels=torch.cat(labels),
            length=start + sum(first.image_tokens) - len(first.image_tokens),
            branches=tuple(branches),
            text_is_cut=any(example.text_is_cut for _, example in group),
            owners=tuple(number for number, _ in paths),
        )
    ]


def _shared(paths: Sequence[Example]) -> int:
    """How many tokens all paths begin with, of which none is taught, and none teaches a path's first taught one."""
    most = min(_before_answer(path) for path in paths)
    first = paths[0].input_ids[:most]
    for path in paths[1:]:
        differs = (path.input_ids[: len(first)] != first).nonzero()
        first = first[: int(differs[0])] if len(differs) else first
    return len(first)


def _before_answer(path: Example) -> int:
    taught = (path.labels != IGNORE_INDEX).nonzero()
    return max(0, (int(taught[0]) if len(taught) else len(path.input_ids)) - 1)


class PictureSampler(Sampler[int]):  # type: ignore[misc]  # torch is not followed
    """All records in an order that depends on seed and epoch alone, with those about the same pictures in one batch.

    A batch has as many records as without it; see planning/picture_batches.py. `epoch` is asked when one begins.
    """

    def __init__(self, keys: Sequence[PictureKey], batch: int, seed: int, epoch: Callable[[], int]) -> None:
        self.keys = keys
        self.batch = batch
        self.seed = seed
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.keys)

    def __iter__(self) -> Iterator[int]:
        return iter(order(self.keys, self.batch, self.seed, self.epoch()))
