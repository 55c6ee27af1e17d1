"""The VQA accuracy equals the official scorer's, on 10,000 answer sets and in every quirk.

Two oracles: scores that the published scorer gave to the sets when it was run on them once (`official_vqa_scores.json`,
numbers only), and the published procedure followed step by step below, which also runs on sets that nobody has seen.
"""

from __future__ import annotations

import json
import random
import re

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llava_finetune.evaluation.vqa_scorer import CONTRACTIONS, NUMBER_WORDS, clean, official_percent, question_accuracy
from tests.evaluation.answer_sets import SHORTENED, AnswerSet, make_answer_sets
from tests.evaluation.record_official_scores import LETTERS, NUM_SETS, RECORD, sha256

RECORDED = json.loads(RECORD.read_text("utf-8"))
MARKS = [";", "/", "[", "]", '"', "{", "}", "(", ")", "=", "+", "\\", "_", "-", ">", "<", "@", "`", ",", "?", "!"]


@pytest.fixture(scope="module")
def sets() -> list[AnswerSet]:
    return make_answer_sets(NUM_SETS)


def stepwise_clean(text: str) -> str:
    """The published clean-up, one step after the other on the whole text."""
    result = text
    for mark in MARKS:
        gone = mark + " " in text or " " + mark in text or bool(re.search("[0-9\u0660-\u0669\uff10-\uff19],\\d", text))
        result = result.replace(mark, "" if gone else " ")
    parts, removed = list(result), 0
    for place, character in enumerate(result):
        followed_by_digit = place + 1 < len(result) and re.match(r"\d", result[place + 1]) is not None
        if character == "." and not followed_by_digit and removed < 32:
            parts[place], removed = "", removed + 1
    words = []
    for word in "".join(parts).lower().split():
        word = NUMBER_WORDS.get(word, word)
        if word in ("a", "an", "the"):
            continue
        words.append(CONTRACTIONS.get(word, word))
    return " ".join(words)


def stepwise_accuracy(answer: str, references: list[str]) -> float:
    """The published averaging: for every reference left out, a third for each of the others that matches, at most 1."""
    answer = answer.replace("\n", " ").replace("\t", " ").strip()
    entries = [{"id": i, "text": r.replace("\n", " ").replace("\t", " ").strip()} for i, r in enumerate(references)]
    if len({entry["text"] for entry in entries}) > 1:
        answer = stepwise_clean(answer)
        for entry in entries:
            entry["text"] = stepwise_clean(str(entry["text"]))
    total = 0.0
    for left_out in entries:
        others = [entry for entry in entries if entry["id"] != left_out["id"]]
        total += min(1, len([entry for entry in others if entry["text"] == answer]) / 3)
    return total / len(entries)


def test_scores_equal_those_of_the_published_scorer_on_ten_thousand_sets(sets):
    assert sha256(sets) == RECORDED["sets_sha256"], "the recorded scores belong to other sets"
    recorded = [RECORDED["values"][LETTERS.index(letter)] for line in RECORDED["scores"] for letter in line]
    ours = [question_accuracy(answer, references) for answer, references in sets]
    different = [(s, a, b) for s, a, b in zip(sets, ours, recorded, strict=True) if abs(a - b) > 1e-12]
    assert not different, f"{len(different)} differ, the first: {different[0]}"
    assert official_percent(ours) == RECORDED["overall"]
    assert len(set(ours)) > 5 and 20 < RECORDED["overall"] < 80, "the sets tell right from wrong"


def test_cleaned_texts_equal_those_of_the_published_scorer(sets):
    texts = [text for answer, references in sets for text in (answer, *references)]
    assert set(SHORTENED) <= set(texts), "every contraction is asked for"
    assert sha256([clean(text) for text in texts]) == RECORDED["cleaned_sha256"]


def test_scores_equal_the_published_procedure_on_sets_with_every_contraction():
    pick = random.Random(1)
    for word, long in [*CONTRACTIONS.items(), ("Im", "I'm"), ("let's", "let's"), ("she's", "she's")]:
        references = [pick.choice([word, long, word.upper(), f"the {word}", f"{long}."]) for _ in range(10)]
        for answer in (word, long, long.upper()):
            assert question_accuracy(answer, references) == stepwise_accuracy(answer, references)


@settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.text(alphabet=st.sampled_from("aT 1,.'-/!?\n\tn\u0663\u00a0"), max_size=12), st.data())
def test_scores_equal_the_published_procedure_on_any_text(answer, data):
    near = st.sampled_from([answer, answer.lower(), answer.replace(".", ""), f"the {answer}", "no"])
    references = data.draw(st.lists(near | st.text(max_size=6), min_size=1, max_size=10))
    assert question_accuracy(answer, references) == pytest.approx(stepwise_accuracy(answer, references), abs=1e-12)


@pytest.mark.parametrize(("matches", "accuracy"), [(0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (10, 1.0)])
def test_matches_among_ten_references_give_the_known_scores(matches, accuracy):
    references = ["red"] * matches + [f"other{n}" for n in range(10 - matches)]
    assert question_accuracy("red", references) == pytest.approx(accuracy)


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("The two dogs.", "2 dogs"),
        ("none", "0"),
        ("1,000", "1000"),
        ("black-white", "black white"),
        ("black- white", "black white"),
        ("t-shirt, red", "t shirt red"),
        ("3.5", "3.5"),
        (".5", ".5"),
        ("5.", "5"),
        ("dont", "don't"),
        ("Im", "im"),
        ("somebody'd", "somebodyd"),
        ("." * 40, "." * 8),
    ],
)
def test_quirks_of_the_published_clean_up_are_kept(text, cleaned):
    assert clean(text) == cleaned


def test_references_that_all_agree_are_compared_as_they_stand():
    assert question_accuracy("yes", ["Yes"] * 10) == 0.0
    assert question_accuracy("Yes", ["Yes"] * 10) == 1.0
    assert question_accuracy("yes", ["Yes"] * 9 + ["no"]) == 1.0


def test_a_question_without_references_is_refused():
    with pytest.raises(ValueError, match="needs at least one reference answer; this question has none"):
        question_accuracy("yes", [])


def test_the_mean_is_rounded_as_the_scorer_prints_it():
    assert official_percent([1.0, 0.3, 0.0]) == 43.33
