"""Layouts of batches: what does not fit together is refused, not cut."""

from __future__ import annotations

import pytest
import torch

from llava_finetune.data.example import Example
from llava_finetune.data.layout import Pictures, lay_out


@pytest.mark.parametrize(("ids", "labels"), [([5, 6, 7], [5, 6]), ([5, 6], [5, 6, 7])])
def test_tokens_and_labels_of_different_numbers_are_refused(ids: list[int], labels: list[int]) -> None:
    example = Example("a", torch.tensor(ids), torch.tensor(labels), len(ids))
    with pytest.raises(ValueError, match=r"zip\(\) argument 2 is (shorter|longer)"):
        lay_out([example], Pictures([], [], [], [], [[]]))
