"""A family's adapter merged: what it is verified on, and the folder in transformers' own layout.

cases = record_cases(loaded.family, records, images, max_length=2048)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from llava_finetune.convert.probes import probes
from llava_finetune.model.families.chat import segments
from llava_finetune.model.families.encoder import FamilyEncoder, encode
from llava_finetune.model.families.family import Family


@dataclass(frozen=True)
class FamilyCase:
    """One conversation as the model takes it; `is_text` marks the positions that are compared."""

    inputs: Mapping[str, torch.Tensor]
    is_text: torch.Tensor


def generated_cases(family: Family, size: int) -> list[FamilyCase]:
    """Conversations and pictures made up on the spot."""
    made = []
    for probe in probes(size):
        open_turn = [{"from": "gpt", "value": None}] if probe.is_open else []
        pieces = segments([*probe.turns, *open_turn], family.render, family.end)
        encoded = encode(family, pieces, family.see(probe.pictures))
        made.append(_case(family, torch.tensor(encoded.input_ids), encoded.seen))
    return made


def record_cases(family: Family, records: Sequence[Any], images: Path | None, max_length: int) -> list[FamilyCase]:
    """Held-out records as cases."""
    examples = [FamilyEncoder(family, images, max_length).example(record, 0) for record in records]
    return [_case(family, one.input_ids, one.seen) for one in examples]


def _case(family: Family, ids: torch.Tensor, seen: Sequence[Any]) -> FamilyCase:
    token = family.tokenizer.convert_tokens_to_ids(family.image_token)
    return FamilyCase(family.batch([ids], [seen]), ids != token)


def family_logits(loaded: Any, case: FamilyCase) -> torch.Tensor:
    """Logits (text positions x vocabulary, fp32, CPU)."""
    with torch.inference_mode():
        moved = {name: value.to(loaded.device) for name, value in case.inputs.items()}
        logits: torch.Tensor = loaded.model(**moved).logits[0].float().cpu()
    return logits[case.is_text]


def write_family(folder: Path, loaded: Any) -> dict[str, torch.Tensor]:
    """Write a merged family's weights, configs and processor files; returns the tensors."""
    model = loaded.model
    model.config.dtype = loaded.dtype
    model.save_pretrained(folder)
    loaded.family.save_processing(folder)
    return dict(model.state_dict())
