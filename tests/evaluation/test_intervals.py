"""Intervals and paired tests against known values."""

from __future__ import annotations

import random

import pytest

from llava_finetune.evaluation.intervals import binomial_two_sided, bootstrap, mcnemar, paired_bootstrap, wilson


# Newcombe, Statistics in Medicine 17 (1998), table I, method 3.
@pytest.mark.parametrize(
    ("right", "count", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_gives_the_published_values(right, count, low, high):
    assert wilson(right, count) == pytest.approx((low, high), abs=5e-5)


def test_wilson_of_nothing_is_everything():
    assert wilson(0, 0) == (0.0, 1.0)


def test_all_right_stays_within_one():
    low, high = wilson(100, 100)
    assert high == 1.0 and 0.95 < low < 1


def test_the_bootstrap_interval_covers_the_mean_as_often_as_it_says():
    pick = random.Random(3)
    covered = 0
    for trial in range(200):
        low, high = bootstrap([float(pick.random() < 0.3) for _ in range(80)], num_resamples=400, seed=trial)
        covered += low <= 0.3 <= high
    assert 0.88 <= covered / 200 <= 0.99


def test_the_same_seed_gives_the_same_interval():
    values = [0.0, 0.3, 1.0] * 20
    assert bootstrap(values) == bootstrap(values) != bootstrap(values, seed=1)


@pytest.mark.parametrize(("gained", "lost", "p"), [(0, 0, 1.0), (5, 5, 1.0), (10, 2, 0.03857421875), (0, 6, 0.03125)])
def test_the_exact_binomial_gives_known_values(gained, lost, p):
    assert binomial_two_sided(gained, lost) == pytest.approx(p)


def test_the_exact_binomial_takes_thousands():
    assert binomial_two_sided(6000, 0) == 0.0
    assert 0 < binomial_two_sided(2600, 2400) < 0.01


def test_mcnemar_counts_only_changed_answers():
    first = [True] * 50 + [False] * 10 + [True] * 2
    second = [True] * 50 + [True] * 10 + [False] * 2
    test = mcnemar(first, second)
    assert test.difference == pytest.approx(8 / 62)
    assert test.p_value == pytest.approx(0.03857421875)
    assert test.interval[0] > 0
    assert test.in_words().startswith("+12.9 points (95 % interval +")


def test_paired_bootstrap_sees_a_clear_difference_and_no_difference():
    first = [0.0, 0.3, 0.6, 0.9, 1.0] * 20
    clear = paired_bootstrap(first, [min(1.0, value + 0.3) for value in first])
    assert clear.p_value < 0.01 and clear.interval[0] > 0
    assert paired_bootstrap([1.0, 1.0, 1.0], [0.5, 0.6, 0.7]).p_value == 0.25
    assert paired_bootstrap(first, first).p_value == 1.0


def test_different_numbers_of_questions_are_refused():
    with pytest.raises(ValueError, match="a paired test needs the same questions: 1 against 2"):
        mcnemar([True], [True, False])
