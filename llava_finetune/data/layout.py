"""Batches without padding: where every text token and picture feature goes is worked out before the step, on the CPU.

Upstream splices features in Python loops over samples that wait for the device at each `<image>`, pads every sample to
the longest, and runs all layers on the padding. Here the collator lists rows of one table, [text embeddings; picture
features]; the model gathers them in one call and runs its layers on real tokens only. Attention is the one place where
samples are kept apart. The loss is the same; upstream's function is the oracle of the tests.

    layout = lay_out(examples, unique_pictures(examples), max_length=2048)
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from data_prep.records.marks import IGNORE_INDEX, IMAGE_TOKEN_INDEX
from llava_finetune.data.example import Example


@dataclass(frozen=True)
class Pictures:
    """Each different picture of a batch once: those to be encoded, then those whose features are known.

    pixels and keys (names for the cache, or None) of the first, features of the second, sizes of both; `chosen` has the
    numbers of every example's pictures.
    """

    pixels: list[torch.Tensor]
    keys: list[str | None]
    features: list[torch.Tensor]
    sizes: list[tuple[int, int]]
    chosen: list[list[int]]


def unique_pictures(examples: Sequence[Example]) -> Pictures:
    """The pictures of a batch, by their paths."""
    found = {picture.path: picture for example in examples for picture in example.pictures}
    encoded = [picture for picture in found.values() if picture.pixels is not None]
    known = [picture for picture in found.values() if picture.pixels is None]
    number = {picture.path: index for index, picture in enumerate([*encoded, *known])}
    return Pictures(
        [picture.pixels for picture in encoded if picture.pixels is not None],
        [picture.key for picture in encoded],
        [picture.features for picture in known if picture.features is not None],
        [picture.size for picture in [*encoded, *known]],
        [[number[picture.path] for picture in example.pictures] for example in examples],
    )


@dataclass(frozen=True, eq=False)
class Layout:
    """Where the tokens of a batch come from and what is taught; N tokens in all, M of them taught.

    ids: text tokens; rows: N, into [text; features]; positions: 1 x N; lengths: tokens per example; bounds: their sums
    from 0; masks: one per example, None for causal; taught: M, rows of the hidden states; targets: M; keys and features
    of the pictures.
    """

    ids: torch.Tensor
    rows: torch.Tensor
    positions: torch.Tensor
    lengths: Sequence[int]
    bounds: torch.Tensor
    masks: Sequence[torch.Tensor | None]
    taught: torch.Tensor
    targets: torch.Tensor
    num_features: int
    keys: Sequence[str | None]
    features: Sequence[torch.Tensor]

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Layout:
        """The same on another device: what accelerate and the Trainer call for every batch."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Layout:
        """The same in pinned memory: what torch's loader calls."""
        return self._each(torch.Tensor.pin_memory)

    def part(self, first: int, last: int) -> Layout:
        """The examples from `first` up to `last`: what the layers need of them, not what the head needs."""
        start, end = sum(self.lengths[:first]), sum(self.lengths[:last])
        return replace(
            self,
            positions=self.positions[:, start:end],
            lengths=self.lengths[first:last],
            bounds=self.bounds[first : last + 1] - start,
            masks=self.masks[first:last],
        )

    def _each(self, change: Callable[[torch.Tensor], torch.Tensor]) -> Layout:
        changed = {name: change(value) for name, value in vars(self).items() if isinstance(value, torch.Tensor)}
        masks = [mask if mask is None else change(mask) for mask in self.masks]
        return replace(self, **changed, masks=masks, features=[change(one) for one in self.features])


def lay_out(examples: Sequence[Example], batch_pictures: Pictures, max_length: int | None = None) -> Layout:
    """The layout of a batch. Examples, or each path of independent turns, are cut at `max_length`, pictures counted."""
    counts: dict[int, int] = {}
    for example, pictures in zip(examples, batch_pictures.chosen, strict=True):
        counts.update(zip(pictures, example.image_tokens, strict=True))
    num_text = sum(int((example.input_ids != IMAGE_TOKEN_INDEX).sum()) for example in examples)
    starts = [
        num_text,
        *(num_text + end for end in itertools.accumulate(counts[number] for number in range(len(counts)))),
    ]
    ids: list[int] = []
    rows: list[int] = []
    lengths: list[int] = []
    taught: list[int] = []
    targets: list[int] = []
    masks: list[torch.Tensor | None] = []
    positions: list[torch.Tensor] = []
    for example, pictures in zip(examples, batch_pictures.chosen, strict=True):
        waiting = iter(pictures)
        mine: list[int] = []
        labels: list[int] = []
        for token, label in zip(example.input_ids.tolist(), example.labels.tolist(), strict=True):
            if token == IMAGE_TOKEN_INDEX:
                number = next(waiting)
                mine += range(starts[number], starts[number + 1])
                labels += [IGNORE_INDEX] * counts[number]
            else:
                mine.append(len(ids))
                labels.append(label)
                ids.append(token)
        kept, places, mask = _paths(len(mine), len(mine) - len(example.input_ids), example.branches, max_length)
        labels = [labels[place] for place in kept]
        wanted = [place for place in range(1, len(labels)) if labels[place] != IGNORE_INDEX]
        taught += [len(rows) + place - 1 for place in wanted]
        targets += [labels[place] for place in wanted]
        rows += [mine[place] for place in kept]
        lengths.append(len(labels))
        positions.append(places)
        masks.append(mask)
    return Layout(
        ids=torch.tensor(ids),
        rows=torch.tensor(rows),
        positions=torch.cat(positions)[None],
        lengths=lengths,
        bounds=torch.tensor([0, *itertools.accumulate(lengths)], dtype=torch.int32),
        masks=masks,
        taught=torch.tensor(taught, dtype=torch.int64),
        targets=torch.tensor(targets, dtype=torch.int64),
        num_features=starts[-1] - num_text,
        keys=batch_pictures.keys,
        features=batch_pictures.features,
    )


def _paths(
    total: int, added: int, branches: Sequence[int], max_length: int | None
) -> tuple[Sequence[int], torch.Tensor, torch.Tensor | None]:
    """What is kept of an example of `total` positions, each one's place in its own path, and who may look at whom.

    `added` positions came in for the pictures, all of them before the first branch. Each path, what is shared and one
    branch, is cut at `max_length`. The mask, bool T x T, is None where it is the plain causal one.
    """
    if not branches:
        kept = range(total)[:max_length]
        return kept, torch.arange(len(kept)), None
    bounds = [0, *(start + added for start in branches), total]
    room = total if max_length is None else max_length
    indices: list[int] = []
    places: list[int] = []
    path: list[int] = []
    for number, (start, end) in enumerate(itertools.pairwise(bounds)):
        before = bounds[1] if number else 0
        length = max(0, min(end - start, room - before))
        indices += range(start, start + length)
        places += range(before, before + length)
        path += [number] * length
    owner = torch.tensor(path)
    seen = (owner[None, :] == 0) | (owner[None, :] == owner[:, None])
    return indices, torch.tensor(places), seen.tril()
