"""Batches without padding: where every text token and picture feature goes is worked out before the step, on the CPU.

Upstream splices features in Python loops over samples that wait for the device at each `<image>`, pads every sample to
the longest, and runs all layers on the padding. Here the collator lists rows of one table, [text embeddings; picture
features]; the model gathers them in one call and runs its layers on real tokens only. Attention is the one place where
samples are kept apart. The loss is the same; upstream's function is the oracle of the tests.

    layout = lay_out(examples, unique_pictures(examples), max_length=2048)
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
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

    ids: text tokens; rows: N, into [text; features]; positions: 1 x N; spans, query_bounds, key_bounds: as Samples has
    them (kernels/unpadded_attention.py); taught: M, rows of the hidden states; targets: M; owners: M, the record that
    each taught token is of, below num_records; keys and features of the pictures.
    """

    ids: torch.Tensor
    rows: torch.Tensor
    positions: torch.Tensor
    spans: Sequence[Sequence[int]]
    query_bounds: torch.Tensor
    key_bounds: torch.Tensor
    taught: torch.Tensor
    targets: torch.Tensor
    owners: torch.Tensor
    num_records: int
    num_features: int
    keys: Sequence[str | None]
    features: Sequence[torch.Tensor]

    @property
    def lengths(self) -> list[int]:
        """Tokens of each sequence."""
        return [sum(spans) for spans in self.spans]

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Layout:
        """The same on another device: what accelerate and the Trainer call for every batch."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Layout:
        """The same in pinned memory: what torch's loader calls."""
        return self._each(torch.Tensor.pin_memory)

    def part(self, first: int, last: int) -> Layout:
        """The sequences from `first` up to `last`: what the layers need of them, not what the head needs."""
        start, end = sum(self.lengths[:first]), sum(self.lengths[:last])
        before, after = (sum(len(spans) for spans in self.spans[:number]) for number in (first, last))
        query, key = self.query_bounds[before : after + 1], self.key_bounds[before : after + 1]
        return replace(
            self,
            positions=self.positions[:, start:end],
            spans=self.spans[first:last],
            query_bounds=query - query[0],
            key_bounds=key - key[0],
        )

    def _each(self, change: Callable[[torch.Tensor], torch.Tensor]) -> Layout:
        changed = {name: change(value) for name, value in vars(self).items() if isinstance(value, torch.Tensor)}
        return replace(self, **changed, features=[change(one) for one in self.features])


def lay_out(examples: Sequence[Example], batch_pictures: Pictures, max_length: int | None = None) -> Layout:
    """The layout of a batch. Examples, or each path of independent turns, are cut at `max_length`, pictures counted."""
    ids = [token for example in examples for token in example.input_ids.tolist() if token != IMAGE_TOKEN_INDEX]
    starts = _picture_starts(examples, batch_pictures, len(ids))
    text = itertools.count()
    rows: list[int] = []
    all_spans: list[list[int]] = []
    taught: list[int] = []
    targets: list[int] = []
    owners: list[int] = []
    positions: list[int] = []
    for number, (example, chosen) in enumerate(zip(examples, batch_pictures.chosen, strict=True)):
        mine, labels = _in_place(example, chosen, starts, text)
        kept, places, spans = _paths(len(mine), len(mine) - len(example.input_ids), example.branches, max_length)
        labels = [labels[place] for place in kept]
        wanted = [place for place in range(1, len(labels)) if labels[place] != IGNORE_INDEX]
        owner = _owners(example.owners or (number,), spans)
        taught += [len(rows) + place - 1 for place in wanted]
        owners += [owner[place] for place in wanted]
        targets += [labels[place] for place in wanted]
        rows += [mine[place] for place in kept]
        positions += places
        all_spans.append([length for length in spans if length])
    return Layout(
        ids=torch.tensor(ids),
        rows=torch.tensor(rows),
        positions=torch.tensor(positions)[None],
        spans=all_spans,
        query_bounds=_sums(length for spans in all_spans for length in spans),
        key_bounds=_sums(
            length + (spans[0] if place else 0) for spans in all_spans for place, length in enumerate(spans)
        ),
        taught=torch.tensor(taught, dtype=torch.int64),
        targets=torch.tensor(targets, dtype=torch.int64),
        owners=torch.tensor(owners, dtype=torch.int64),
        num_records=1 + max((number for example in examples for number in example.owners), default=len(examples) - 1),
        num_features=starts[-1] - len(ids),
        keys=batch_pictures.keys,
        features=batch_pictures.features,
    )


def _picture_starts(examples: Sequence[Example], pictures: Pictures, num_text: int) -> list[int]:
    """The row where each picture's features begin, behind the text's rows, and where the last one's end."""
    counts: dict[int, int] = {}
    for example, chosen in zip(examples, pictures.chosen, strict=True):
        counts.update(zip(chosen, example.image_tokens, strict=True))
    return list(itertools.accumulate((counts[number] for number in range(len(counts))), initial=num_text))


def _in_place(
    example: Example, chosen: Sequence[int], starts: Sequence[int], text: Iterator[int]
) -> tuple[list[int], list[int]]:
    """The row and the label of each position of an example, pictures in their places; `text` counts the text's rows."""
    waiting = iter(chosen)
    rows: list[int] = []
    labels: list[int] = []
    for token, label in zip(example.input_ids.tolist(), example.labels.tolist(), strict=True):
        if token == IMAGE_TOKEN_INDEX:
            picture = next(waiting)
            features = range(starts[picture], starts[picture + 1])
            rows += features
            labels += [IGNORE_INDEX] * len(features)
        else:
            rows.append(next(text))
            labels.append(label)
    return rows, labels


def _sums(lengths: Iterable[int]) -> torch.Tensor:
    """Sums from 0, int32 as the kernels take them."""
    return torch.tensor([0, *itertools.accumulate(lengths)], dtype=torch.int32)


def _owners(owners: Sequence[int], spans: Sequence[int]) -> list[int]:
    """The record of each position; what is shared counts as the first one's."""
    of_spans = [owners[0], *owners] if len(owners) > 1 else list(owners) * len(spans)
    return [owner for owner, length in zip(of_spans, spans, strict=True) for _ in range(length)]


def _paths(
    total: int, added: int, branches: Sequence[int], max_length: int | None
) -> tuple[Sequence[int], Sequence[int], Sequence[int]]:
    """What is kept of an example of `total` positions, each one's place in its own path, and the lengths of its spans.

    `added` positions came in for the pictures, all of them before the first branch. The spans are what is shared and
    each branch. Each path, what is shared and one branch, is cut at `max_length`.
    """
    if not branches:
        kept = range(total)[:max_length]
        return kept, kept, [len(kept)]
    bounds = [0, *(start + added for start in branches), total]
    room = total if max_length is None else max_length
    indices: list[int] = []
    places: list[int] = []
    spans: list[int] = []
    for number, (start, end) in enumerate(itertools.pairwise(bounds)):
        before = bounds[1] if number else 0
        length = max(0, min(end - start, room - before))
        indices += range(start, start + length)
        places += range(before, before + length)
        spans.append(length)
    return indices, places, spans
