"""Batches without padding: where every text token and picture feature goes is worked out before the step, on the CPU.

Upstream splices features in Python loops over samples that wait for the device at each `<image>`, pads every sample to
the longest, and runs all layers on the padding. Here the collator lists rows of one table, [text embeddings; picture
features]; the model gathers them in one call and runs its layers on real tokens only. Attention is the one place where
samples are kept apart. The loss is the same; upstream's function is the oracle of the tests.

    layout = lay_out(examples, max_length=2048)
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from llava_finetune.data.masking import IGNORE_INDEX, IMAGE_TOKEN_INDEX


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


def unique_pictures(examples: Sequence[Mapping[str, Any]]) -> Pictures:
    """The pictures of a batch, by their paths."""
    found = {picture.path: picture for example in examples for picture in example["pictures"]}
    encoded = [picture for picture in found.values() if picture.pixels is not None]
    known = [picture for picture in found.values() if picture.pixels is None]
    number = {picture.path: index for index, picture in enumerate([*encoded, *known])}
    return Pictures(
        [picture.pixels for picture in encoded],
        [picture.key for picture in encoded],
        [picture.features for picture in known],
        [picture.size for picture in [*encoded, *known]],
        [[number[picture.path] for picture in example["pictures"]] for example in examples],
    )


def lay_out(
    examples: Sequence[Mapping[str, Any]], batch_pictures: Pictures, max_length: int | None = None
) -> dict[str, Any]:
    """Where the tokens of a batch come from and what is taught; N tokens in all, M of them taught.

    Keys: ids (text tokens), rows (N, into [text; features]), positions (1 x N), lengths (tokens per example) and bounds
    (their sums from 0), masks (one per example, None: causal), taught (M, rows of the hidden states), targets (M),
    num_features; keys and features of the pictures. Examples are cut at `max_length`, pictures counted; an example with
    `branches` (independent turns) in each of its paths.
    """
    counts: dict[int, int] = {}
    for example, pictures in zip(examples, batch_pictures.chosen, strict=True):
        counts.update(zip(pictures, example["image_tokens"], strict=True))
    num_text = sum(int((example["input_ids"] != IMAGE_TOKEN_INDEX).sum()) for example in examples)
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
        for token, label in zip(example["input_ids"].tolist(), example["labels"].tolist(), strict=True):
            if token == IMAGE_TOKEN_INDEX:
                number = next(waiting)
                mine += range(starts[number], starts[number + 1])
                labels += [IGNORE_INDEX] * counts[number]
            else:
                mine.append(len(ids))
                labels.append(label)
                ids.append(token)
        kept, places, mask = _paths(len(mine), len(mine) - len(example["input_ids"]), example["branches"], max_length)
        labels = [labels[place] for place in kept]
        wanted = [place for place in range(1, len(labels)) if labels[place] != IGNORE_INDEX]
        taught += [len(rows) + place - 1 for place in wanted]
        targets += [labels[place] for place in wanted]
        rows += [mine[place] for place in kept]
        lengths.append(len(labels))
        positions.append(places)
        masks.append(mask)
    return {
        "ids": torch.tensor(ids),
        "rows": torch.tensor(rows),
        "positions": torch.cat(positions)[None],
        "lengths": lengths,
        "bounds": torch.tensor([0, *itertools.accumulate(lengths)], dtype=torch.int32),
        "masks": masks,
        "taught": torch.tensor(taught, dtype=torch.int64),
        "targets": torch.tensor(targets, dtype=torch.int64),
        "num_features": starts[-1] - num_text,
        "keys": batch_pictures.keys,
        "features": batch_pictures.features,
    }


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
