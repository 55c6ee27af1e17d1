"""Loss of each record of a set, in batches. An evaluation's loss is their mean; the hardest records have the highest.

found = record_losses(lambda batch: model(**batch), dataset, range(len(dataset)), collator, batch_size=32)
found[3].mean                                     # mean loss per supervised token of the fourth record
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from llava_finetune.data.collator import Collator, ModelInputs, model_inputs
from llava_finetune.data.dataset import Encoder, RecordDataset
from llava_finetune.data.example import Example
from llava_finetune.model.families.encoder import FamilyCollator, FamilyEncoder


@dataclass(frozen=True)
class RecordLoss:
    """Summed cross entropy of a record's supervised tokens, how many there are, and whether its end was cut off."""

    total: float
    num_tokens: int
    is_cut: bool = False

    @property
    def mean(self) -> float:
        """Mean loss per supervised token, 0 without one."""
        return self.total / max(1, self.num_tokens)


def record_losses(
    forward: Callable[[ModelInputs], Any],
    dataset: Any,
    indices: Sequence[int],
    collator: Collator | FamilyCollator,
    batch_size: int,
    num_counted: int | None = None,
) -> dict[int, RecordLoss]:
    """The loss of the records at `indices`, by index; a model in evaluation mode.

    The first `num_counted` indices count (None: all). The rest are passes that other ranks wait for: nothing is taught
    in them and they are not in the result.
    """
    num_counted = len(indices) if num_counted is None else num_counted
    found: dict[int, RecordLoss] = {}
    for first in range(0, len(indices), batch_size):
        chosen = indices[first : first + batch_size]
        examples = [dataset[index] for index in chosen]
        num_own = max(0, num_counted - first)
        examples[num_own:] = [example.untaught() for example in examples[num_own:]]
        rows = forward(model_inputs(collator(examples)))["row_losses"].tolist()
        parts = [[row] for row in rows] if collator.unpadded else _parts(examples, rows)
        for example, index, part in list(zip(examples, chosen, parts, strict=True))[:num_own]:
            total, count = (sum(values) for values in zip(*part, strict=True))
            found[index] = RecordLoss(total, int(count), example.is_cut(collator.max_length))
    return found


def with_losses(
    loaded: Any, questions: Sequence[Any], predictions: Sequence[Any], image_folder: Path | None, batch_size: int
) -> list[Any]:
    """The predictions of a loaded model, each with its record's mean loss per answer token in `loss`."""
    encoder, collator = _readers(loaded, image_folder)
    records = list({id(one.record): one.record for one in questions}.values())
    places = {id(record): place for place, record in enumerate(records)}

    def forward(batch: ModelInputs) -> Any:
        if (images := batch.get("images")) is not None:
            seen = [image.to(loaded.device, loaded.dtype) for image in images]
            batch["images"] = torch.stack(seen) if isinstance(images, torch.Tensor) else seen
        moved = {key: value.to(loaded.device) if hasattr(value, "to") else value for key, value in batch.items()}
        return loaded.model(**moved)

    if loaded.family is None:
        loaded.model.config.tokenizer_padding_side = "right"
    with torch.inference_mode():
        losses = record_losses(forward, RecordDataset(records, encoder), range(len(records)), collator, batch_size)
    return [
        {**one, "loss": losses[places[id(question.record)]].mean}
        for one, question in zip(predictions, questions, strict=True)
    ]


def _readers(loaded: Any, folder: Path | None) -> tuple[Any, Any]:
    """What makes examples of records, and batches of examples, for a loaded model."""
    if loaded.family is not None:
        return FamilyEncoder(loaded.family, folder), FamilyCollator(loaded.family)
    tower = loaded.model.get_vision_tower()
    side = tower.config.image_size
    encoder = Encoder(loaded.tokenizer, loaded.template, loaded.image_processor, loaded.model.config, folder, tower)
    return encoder, Collator(loaded.tokenizer.pad_token_id, torch.zeros(3, side, side))


def mean_loss(found: Iterable[RecordLoss]) -> float:
    """Mean loss per supervised token over records: the same for any number of ranks and any batch size."""
    every = list(found)
    return sum(one.total for one in every) / max(1, sum(one.num_tokens for one in every))


def _parts(examples: Sequence[Example], rows: Sequence[Any]) -> list[Sequence[Any]]:
    """The padded rows of each example: one, or one for each of its independent questions."""
    parts, start = [], 0
    for example in examples:
        end = start + max(1, len(example.branches))
        parts.append(rows[start:end])
        start = end
    return parts
