"""Pairs of answers as training examples: what both begin with once, then a branch for each (see masking.Encoded).

System prompt, picture and question are computed once, and neither answer sees the other.

    dataset = RecordDataset(records, pair_encoder(encoder))
    batch = PairCollator(collator, 2048)([dataset[0], dataset[1]])
    batch["path_counts"]             # taught tokens of chosen, rejected, chosen, rejected
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from data_prep.errors import DataError
from data_prep.records.marks import IGNORE_INDEX
from data_prep.records.preference import pair_of
from llava_finetune.data.collator import Batch
from llava_finetune.data.dataset import Encoder, is_independent, require_marks
from llava_finetune.data.example import Example
from llava_finetune.data.masking import Encoded, encode, joined, separate
from llava_finetune.errors import UserError


def last_answer(encoded: Encoded) -> Encoded:
    """The same, of which the last answer alone is taught: what was said before is given, not preferred."""
    start, end = encoded.spans[-1]
    labels = [label if start <= place < end else IGNORE_INDEX for place, label in enumerate(encoded.labels)]
    return replace(encoded, labels=labels, spans=[(start, end)])


@dataclass(frozen=True)
class PairEncoder(Encoder):
    """An encoder of records with `chosen` and `rejected`."""

    def encode(self, record: Mapping[str, Any]) -> Encoded:
        """Both answers as branches behind what they share. Raises UserError that names a record without a pair."""
        try:
            pair = pair_of(record)
        except DataError as error:
            raise UserError(str(error)) from None
        paths = [
            last_answer(self._path({**record, "conversations": pair.answered(answer)}))
            for answer in (pair.chosen, pair.rejected)
        ]
        if paths[0].input_ids == paths[1].input_ids:
            cut = f" within --model_max_length {self.max_length}, which cuts both; raise it" if paths[0].is_cut else ""
            raise UserError(
                f"record {record.get('id')!r}: chosen and rejected are the same tokens{cut}; nothing is preferred"
            )
        return joined(paths)

    def _path(self, record: Mapping[str, Any]) -> Encoded:
        require_marks(record)
        turns = record["conversations"]
        try:
            if is_independent(record, self.independent_turns):
                # A pair prefers its last answer: of questions that know nothing of each other the last alone is seen.
                turns = separate(turns)[-1]
            return encode(turns, self.template, self.tokenizer, self.max_length)
        except UserError as error:
            raise UserError(f"record {record.get('id')!r}: {error}") from None


def pair_encoder(encoder: Encoder) -> PairEncoder:
    """An encoder of pairs with all that `encoder` has."""
    return PairEncoder(**{field.name: getattr(encoder, field.name) for field in dataclasses.fields(encoder)})


class PairCollator:
    """Batches of pairs with `path_counts`; refuses a pair of which an answer is cut off whole, by its id."""

    def __init__(self, collator: Callable[[Sequence[Example]], Batch], max_length: int | None) -> None:
        self.collator = collator
        self.max_length = max_length

    def __call__(self, examples: Sequence[Example]) -> Batch:
        """The batch, with `num_pictures` and `num_cut` for the trainer."""
        counts = [[path.num_taught(self.max_length) for path in example.paths()] for example in examples]
        mute = [example.id for example, two in zip(examples, counts, strict=True) if not all(two)]
        if mute:
            raise UserError(
                f"pairs of which an answer is cut off whole at --model_max_length {self.max_length} (pictures count): "
                f"{', '.join(mute)}. Shorten them or raise --model_max_length"
            )
        batch = self.collator(examples)
        batch["path_counts"] = torch.tensor([count for two in counts for count in two])
        batch["num_pictures"] = sum(len(example.pictures) for example in examples)
        batch["num_cut"] = sum(example.is_cut(self.max_length) for example in examples)
        return batch
