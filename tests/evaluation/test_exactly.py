"""Small changes to the scores that other tests did not notice."""

from __future__ import annotations

import numpy as np
import pytest

from llava_finetune.evaluation.intervals import NUM_RESAMPLES, _resampled_means, bootstrap
from llava_finetune.evaluation.metrics import is_right


@pytest.mark.parametrize("answer", ["red!", "red?", "red,", "re.d", "reds"])
def test_exact_match_forgives_a_period_and_nothing_else(answer: str) -> None:
    assert is_right({"answer": "Red.", "reference": "red"})
    assert not is_right({"answer": answer, "reference": "red"})


def test_the_bootstrap_interval_leaves_two_and_a_half_percent_at_each_end() -> None:
    values = np.arange(50.0)
    low, high = bootstrap(list(values))
    means = _resampled_means(values, NUM_RESAMPLES, 0)
    assert (means < low).mean() == pytest.approx(0.025, abs=0.005)
    assert (means > high).mean() == pytest.approx(0.025, abs=0.005)
