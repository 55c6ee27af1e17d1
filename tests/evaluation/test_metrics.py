"""Exact match, question types, the text prior and the shape of the Scores dict."""

from __future__ import annotations

import json

import pytest

from llava_finetune.errors import UserError
from llava_finetune.evaluation.metrics import is_right, normalise, question_type, questions_of, score, text_prior
from llava_finetune.saved.documents import read_document
from llava_finetune.saved.run_documents import Scores


def prediction(answer, reference, **more):
    return {
        "id": "r1",
        "turn": 0,
        "image": "a.jpg",
        "question": "What?",
        "answer": answer,
        "reference": reference,
        **more,
    }


def record(question, answer, **more):
    turns = [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
    return {"id": "r", "image": "a.jpg", "conversations": turns, **more}


@pytest.mark.parametrize(
    ("reference", "expected"),
    [
        ("yes", "yes_no"), ("No.", "yes_no"), (" YES ", "yes_no"), ("3", "number"), ("1,000", "number"),
        ("-2.5", "number"), ("twelve", "number"), ("50%", "number"), ("red", "open"), ("yes it is", "open"),
        ("2 dogs", "open"), ("", "open"),
    ],
)  # fmt: skip
def test_the_reference_alone_decides_the_question_type(reference, expected):
    assert question_type(reference) == expected


@pytest.mark.parametrize("answer", ["red", "Red", " red ", "RED.", "red\n"])
def test_case_white_space_and_a_last_period_do_not_matter_to_exact_match(answer):
    assert is_right(prediction(answer, "Red"))


@pytest.mark.parametrize("answer", ["reddish", "a red", "red, I think", "", "re d"])
def test_anything_else_is_wrong(answer):
    assert not is_right(prediction(answer, "red"))


def test_composed_and_decomposed_letters_are_the_same():
    assert normalise("caf\u00e9") == normalise("cafe\u0301")


def test_scores_hold_what_the_report_needs():
    scores = score(
        [
            prediction("red", "red"),
            prediction("blue", "red", image="b.jpg"),
            prediction("yes", "yes", image="b.jpg", truncated=True),
            prediction("3", "three", image=None),
        ]
    )
    assert (scores["exact_match"], scores["count"], scores["num_images"], scores["num_truncated"]) == (0.5, 4, 2, 1)
    low, high = scores["interval"]
    assert 0 < low < 0.5 < high < 1
    assert list(scores["by_type"]) == ["yes_no", "number", "open"]
    assert scores["by_type"]["open"] == {
        "exact_match": 0.5,
        "interval": scores["by_type"]["open"]["interval"],
        "count": 2,
    }
    assert "vqa_accuracy" not in scores and "bleu" not in scores and scores["token_f1"] == 0.5


def test_the_predictions_own_type_counts_before_the_guess():
    assert list(score([prediction("red", "red", type="number")])["by_type"]) == ["number"]


def test_question_types_that_the_data_names_are_scored_apart():
    scores = score([prediction("a", "a", question_type="what is"), prediction("b", "a", question_type="how many")])
    assert {name: group["exact_match"] for name, group in scores["by_question_type"].items()} == {
        "how many": 0,
        "what is": 1,
    }


def test_ten_references_bring_the_official_accuracy():
    answers = ["dog"] * 2 + ["cat"] * 8
    scores = score([prediction("dog", "cat", answers=answers), prediction("cat", "cat", answers=answers)])
    assert scores["exact_match"] == 0.5
    assert scores["vqa_accuracy"] == pytest.approx(0.8)
    assert scores["vqa_accuracy_official"] == 80.0
    assert scores["vqa_accuracy_count"] == 2
    assert scores["by_type"]["open"]["vqa_accuracy"] == pytest.approx(0.8)


def test_three_references_are_too_few_for_the_official_accuracy():
    assert "vqa_accuracy" not in score([prediction("dog", "dog", answers=["dog"] * 3)])


@pytest.mark.parametrize(
    ("answers", "found"), [([{"answer": "dog"}] * 10, "dict"), ("dog", "str"), (["dog", 3], "int")]
)
def test_references_of_a_wrong_type_are_refused_by_record(answers, found):
    with pytest.raises(UserError, match=rf'record "r1": answers holds a {found}; expected a list of texts'):
        score([prediction("dog", "dog", answers=answers)])


@pytest.mark.parametrize("value", [None, 3, ["yes"]])
def test_an_answer_that_is_no_text_is_refused_by_record(value):
    with pytest.raises(UserError, match=r'record "r": turn 0 of gpt holds a \w+; expected a text'):
        list(questions_of(record("Is it?", value)))


def test_long_references_bring_rouge_and_bleu():
    scores = score([prediction("a red bird on a green branch", "a red bird on a branch")] * 3)
    for name in ("token_f1", "rouge_l", "bleu"):
        low, high = scores[f"{name}_interval"]
        assert 0.5 < scores[name] < 1 and low - 1e-6 <= scores[name] <= high + 1e-6


def test_the_scores_of_long_answers_that_are_all_right_are_one_and_can_be_read_again(tmp_path):
    path = tmp_path / "scores-final.json"
    path.write_text(json.dumps(score([prediction(text := "a red bird on a branch", text)] * 3)))
    scores = read_document(path, Scores)
    assert scores["bleu"] == scores["rouge_l"] == scores["token_f1"] == 1
    path.write_text(path.read_text().replace('"bleu": 1.0', '"bleu": 1.0000000000000004'))
    assert read_document(path, Scores)["bleu"] > 1, "as it was written before"


def test_intervals_of_overlap_scores_have_a_width():
    answers = ["a red bird on a green branch", "a bird", "two dogs in the snow", "a man on a horse by the sea"]
    scores = score([prediction(answer, "a red bird sits on a branch in the snow") for answer in answers])
    for name in ("token_f1", "rouge_l", "bleu"):
        low, high = scores[f"{name}_interval"]
        assert low < scores[name] < high and high - low > 0.05


def test_no_predictions_give_an_empty_score_that_is_sure_of_nothing():
    assert score([]) == {
        "exact_match": 0.0, "interval": [0.0, 1.0], "count": 0, "num_images": 0, "num_truncated": 0, "by_type": {},
    }  # fmt: skip


def test_every_answered_turn_is_a_question():
    turns = [
        {"from": "human", "value": "<image>\nWhat shape?"}, {"from": "gpt", "value": "circle"},
        {"from": "human", "value": "What colour?"}, {"from": "gpt", "value": "red"},
    ]  # fmt: skip
    assert list(questions_of({"conversations": turns})) == [(0, "What shape?", "circle"), (1, "What colour?", "red")]


class TestTextPrior:
    TRAIN = (
        record("<image>\nIs it red?", "No"), record("Is it red?\n<image>", "no"), record("is it red?", "yes"),
        record("What colour is it?", "blue", question_type="what colour"),
        record("How many?", "2"), record("How many?", "2"),
    )  # fmt: skip

    def answers(self, *questions, **more):
        predictions = text_prior(self.TRAIN, [prediction("", "x", **more) | {"question": q} for q in questions])
        return [item["answer"] for item in predictions]

    def test_a_known_question_gets_its_commonest_answer_as_first_spelled(self):
        assert self.answers("Is it red?", "<image>\nHow many?") == ["No", "2"]

    def test_an_unknown_question_falls_back_to_its_opening_and_then_to_all(self):
        assert self.answers("Is it green?") == ["No"]
        assert self.answers("Why?") == ["No"]

    def test_a_named_question_type_counts_before_the_opening(self):
        assert self.answers("Is it a colour?", question_type="what colour") == ["blue"]

    def test_the_reference_is_never_consulted(self):
        first = text_prior(self.TRAIN, [prediction("", "yes")])[0]["answer"]
        assert first == text_prior(self.TRAIN, [prediction("", "12")])[0]["answer"]

    def test_the_rest_of_the_question_is_kept(self):
        kept = text_prior(self.TRAIN, [prediction("", "no", answers=["no"], type="yes_no")])[0]
        assert (kept["reference"], kept["answers"], kept["type"], kept["truncated"]) == ("no", ["no"], "yes_no", False)

    def test_training_without_answers_is_refused(self):
        with pytest.raises(ValueError, match="needs training records with answers"):
            text_prior([], [prediction("", "no")])
