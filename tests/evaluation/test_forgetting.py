"""What is forgotten is counted on what the base knew; the rest is left out, and said."""

from __future__ import annotations

from typing import Any

import pytest

from llava_finetune.evaluation.forgetting import kept_of
from llava_finetune.evaluation.intervals import wilson


def said(*answers: str) -> list[dict[str, Any]]:
    return [{"id": f"g-{n}", "turn": 0, "answer": one, "reference": "right"} for n, one in enumerate(answers)]


def test_only_what_the_base_knew_counts() -> None:
    kept = kept_of(said("right", "right", "wrong", "Right."), said("right", "wrong", "right", "right"))
    assert (kept.count, kept.num_known, kept.num_kept) == (4, 3, 2)
    assert kept.interval == wilson(2, 3)
    text = kept.in_words()
    assert text.startswith("2 of the 3 general questions that the base could answer are still answered (66.7%, 95 % ")
    assert text.endswith("; the 1 that the base could not answer are left out")


def test_a_base_that_knows_nothing_shows_nothing() -> None:
    kept = kept_of(said("wrong", "wrong"), said("right", "wrong"))
    assert kept.share == 1.0 and kept.advice() == ""
    assert "answers none of the 2 general questions" in kept.in_words()


@pytest.mark.parametrize(("lost", "share"), [(0, ""), (1, ""), (8, ":0.1,"), (20, ":0.3,")])
def test_replay_is_proposed_where_something_is_surely_lost(lost: int, share: str) -> None:
    before = said(*["right"] * 40)
    advice = kept_of(before, said(*["wrong"] * lost, *["right"] * (40 - lost))).advice()
    assert (share in advice) if share else advice == ""
