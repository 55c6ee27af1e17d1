"""Grouping by real length counts the tokens that a record costs, pictures included."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from llava_finetune.data.dataset import RecordDataset


@pytest.mark.parametrize("family", ["llava-1.5", "1.6-vicuna"])
def test_a_records_real_length_is_what_its_example_takes(
    make_model: Callable[..., Any], records: list[dict[str, Any]], family: str
) -> None:
    dataset = RecordDataset(records, make_model(family).encoder, real_lengths=True)
    taken = [dataset[index].length for index in range(len(records))]
    assert [abs(length) for length in dataset.modality_lengths] == taken
    assert [length < 0 for length in dataset.modality_lengths] == ["image" not in record for record in records]
