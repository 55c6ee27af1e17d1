"""Small changes to the scores that other tests did not notice."""

from __future__ import annotations

import numpy as np
import pytest

from llava_finetune.errors import UserError
from llava_finetune.evaluation.intervals import NUM_RESAMPLES, PairedTest, _resampled_means, bootstrap
from llava_finetune.evaluation.metrics import LONGEST_TEXT, MOST_WORDS, is_right, kept_for, length_fault, text_prior


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


@pytest.mark.parametrize(("p", "words"), [(0.0005, "p < 0.001"), (0.001, "p = 0.001"), (0.0314, "p = 0.031")])
def test_a_small_p_value_is_told_as_a_bound_and_others_as_they_are(p: float, words: str) -> None:
    test = PairedTest(0.032, (0.01, 0.054), p, 100, "exact McNemar")
    assert test.in_words() == f"+3.2 points (95 % interval +1.0 to +5.4, {words})"


def test_each_question_of_a_record_keeps_what_belongs_to_it() -> None:
    record = {
        "id": "r", "answers": [["red"] * 10, ["two"] * 10], "question_types": ["what", "how many"],
        "question_ids": ["val-7", "none"],
    }  # fmt: skip
    assert kept_for(record, 0) == {"answers": ["red"] * 10, "question_type": "what", "question_id": 7}
    assert kept_for(record, 1) == {"answers": ["two"] * 10, "question_type": "how many", "question_id": "none"}
    with pytest.raises(UserError, match='record "r": answers: 2 entries, and no entry for question 3'):
        kept_for(record, 2)


def test_the_prior_of_an_unknown_question_is_that_of_its_first_two_words() -> None:
    def asked(question: str, answer: str) -> dict[str, object]:
        turns = [{"from": "human", "value": f"<image>\n{question}"}, {"from": "gpt", "value": answer}]
        return {"id": question, "image": "a.jpg", "conversations": turns}

    records = [asked(f"Is it {word}?", "yes") for word in ("red", "blue", "old", "new")]
    records += [asked(f"What colour has {word}?", "Green.") for word in ("it", "he")]
    told = text_prior(records, [{"question": "What colour is it?", "answer": "", "reference": "red"}])
    assert [prediction["answer"] for prediction in told] == ["Green."]
    assert text_prior(records, [{"question": "Where is it?", "answer": "", "reference": "x"}])[0]["answer"] == "yes"


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("a " * MOST_WORDS, None),
        ("a " * (MOST_WORDS + 1), "5,001 words; at most 5,000 can be scored"),
        ("a" * LONGEST_TEXT, None),
        ("a" * (LONGEST_TEXT + 1), "100,001 characters; at most 100,000 can be scored"),
    ],
)
def test_a_text_may_be_as_long_as_is_said_and_not_a_word_longer(text: str, fault: str | None) -> None:
    assert length_fault(text) == fault
