"""Examples become one batch; a record that teaches nothing within the model's length is refused by its id.

batch = Collator(pad_token_id=0)([dataset[0], dataset[1]])
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

import torch

from data_prep.records.marks import IGNORE_INDEX
from llava_finetune.data.example import Example
from llava_finetune.data.layout import Layout, lay_out, unique_pictures
from llava_finetune.data.shared_pictures import share_pictures
from llava_finetune.errors import UserError


class ModelInputs(TypedDict, total=False):
    """What the model's forward takes: tokens (int64, B x T), a mask (bool), and the pictures.

    `images` is a float32 tensor, or a list where shapes differ; `layout` is there in unpadded batches (see layout.py).
    """

    input_ids: torch.Tensor
    labels: torch.Tensor
    attention_mask: torch.Tensor
    images: torch.Tensor | list[Any]
    image_sizes: list[tuple[int, int]]
    layout: Layout


class Batch(ModelInputs, total=False):
    """The model's inputs, and what the trainer counts and names. It takes its own part out before the forward pass.

    A dict with typed keys rather than a dataclass: transformers and accelerate move a batch to the device and spread it
    over the forward's arguments as a mapping, and make the moved one by `type(batch)(pairs)`.
    """

    record_ids: list[str]
    record_indices: list[int]
    num_tokens: int
    num_pictures: int
    num_cut: int
    path_counts: torch.Tensor


def model_inputs(batch: Batch) -> ModelInputs:
    """The part of a batch that the model takes: all but the trainer's, for a family of transformers' own has others."""
    kept_back = Batch.__annotations__.keys() - ModelInputs.__annotations__.keys()
    return {key: value for key, value in batch.items() if key not in kept_back}  # type: ignore[return-value]


@dataclass(frozen=True)
class Collator:
    """Pad examples to one batch, as upstream does: right padding, pictures in order, a zero picture for text.

    With `unpadded` there is a `layout` too, and each different picture once; with `shared` records about the same
    pictures are one sequence (see shared_pictures.py). Padded, independent questions take a row each.
    """

    pad_token_id: int
    blank: torch.Tensor | None = None
    max_length: int | None = None
    unpadded: bool = False
    shared: bool = False

    def __call__(self, examples: Sequence[Example]) -> Batch:
        record_ids = [example.id for example in examples]
        record_indices = [example.index for example in examples]
        if not self.unpadded:
            examples = [path for example in examples for path in example.paths()]
        elif self.shared:
            examples = share_pictures(examples)
        pad = torch.nn.utils.rnn.pad_sequence
        ids = pad([example.input_ids for example in examples], True, self.pad_token_id)[:, : self.max_length]
        labels = pad([example.labels for example in examples], True, IGNORE_INDEX)[:, : self.max_length]
        lengths = torch.tensor([len(example.input_ids) for example in examples])
        batch: Batch = {
            "input_ids": ids,
            "labels": labels,
            # By length, not by `ne(pad)`: a tokenizer whose pad is also its end token would lose the taught end.
            "attention_mask": torch.arange(ids.shape[1])[None, :] < lengths[:, None],
            "record_ids": record_ids,
            "record_indices": record_indices,
            "num_tokens": sum(example.length for example in examples),
        }
        if self.blank is None:
            return batch
        if self.unpadded:
            pictures = unique_pictures(examples)
            batch["layout"] = lay_out(examples, pictures, self.max_length)
            images, sizes = pictures.pixels, pictures.sizes
            if not sizes:
                images, sizes = [self.blank], [self._blank_size]
        else:
            images, sizes = self._in_order(examples)
        same = len(images) > 0 and all(image.shape == images[0].shape for image in images)
        batch["images"], batch["image_sizes"] = torch.stack(images) if same else images, sizes
        return batch

    @property
    def _blank_size(self) -> tuple[int, int]:
        return (self.blank.shape[-1], self.blank.shape[-2])  # type: ignore[union-attr]

    def _in_order(self, examples: Sequence[Example]) -> tuple[list[Any], list[tuple[int, int]]]:
        """Pixels and sizes as often as they are named; for a record of text alone a blank, which adds no token."""
        images: list[Any] = []
        sizes: list[tuple[int, int]] = []
        for example in examples:
            images += [picture.pixels for picture in example.pictures] or [self.blank]
            sizes += [picture.size for picture in example.pictures] or [self._blank_size]
        return images, sizes


class TeachingCollator:
    """A collator that refuses a batch in which a record teaches nothing within the model's length, by its id."""

    def __init__(self, collator: Callable[[Sequence[Example]], Batch], max_length: int | None) -> None:
        self.collator = collator
        self.max_length = max_length

    def __call__(self, examples: Sequence[Example]) -> Batch:
        mute = [example.id for example in examples if not example.num_taught(self.max_length)]
        if mute:
            raise UserError(
                f"records without a supervised token within --model_max_length {self.max_length} (pictures count): "
                f"{', '.join(mute)}. Shorten them or raise --model_max_length; python -m data_prep show prints them"
            )
        batch = self.collator(examples)
        batch["num_pictures"] = sum(len(example.pictures) for example in examples)
        batch["num_cut"] = sum(example.is_cut(self.max_length) for example in examples)
        return batch
