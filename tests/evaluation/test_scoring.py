"""`evaluate --predictions`: predictions from anywhere, joined to their records, scored, and written for upload."""

from __future__ import annotations

import json

import pytest

from llava_finetune.errors import UserError
from llava_finetune.evaluation.scoring import read_predictions, score_file, upload_rows, write_predictions, write_upload


def record(name, *pairs, **more):
    turns = []
    for question, answer in pairs:
        turns += [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
    return {"id": name, "image": f"{name}.jpg", "conversations": turns, **more}


@pytest.fixture
def records(tmp_path):
    path = tmp_path / "val.json"
    data = [
        record("okvqa-11", ("<image>\nWhat?", "dog"), answers=["dog"] * 4 + ["cat"] * 6, question_id=11),
        record("okvqa-12", ("<image>\nIs it?", "yes"), question_type="is it"),
    ]
    path.write_text(json.dumps(data))
    return path


def written(path, rows, lines=True):
    path.write_text("\n".join(json.dumps(row) for row in rows) if lines else json.dumps(rows))
    return path


LAYOUTS = {
    "ours": [{"id": "okvqa-12", "turn": 0, "answer": "Yes."}, {"id": "okvqa-11", "turn": 0, "answer": "cat"}],
    "official": [{"question_id": 12, "answer": "Yes."}, {"question_id": 11, "answer": "cat"}],
    "upstream": [
        {"question_id": 12, "prompt": "Is it?", "text": "Yes.", "model_id": "m"},
        {"question_id": 11, "prompt": "What?", "text": "cat", "model_id": "m"},
    ],
}


@pytest.mark.parametrize("lines", [True, False], ids=["jsonl", "json"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_scores_the_same(tmp_path, records, layout, lines):
    predictions, scores = score_file(written(tmp_path / "p", LAYOUTS[layout], lines), records)
    assert [item["id"] for item in predictions] == ["okvqa-11", "okvqa-12"]
    assert predictions[1]["image"] == "okvqa-12.jpg" and predictions[1]["type"] == "yes_no"
    assert scores["exact_match"] == 0.5
    assert scores["vqa_accuracy"] == 1.0 and scores["vqa_accuracy_count"] == 1
    assert scores["by_question_type"]["is it"]["exact_match"] == 1.0


def test_predictions_that_carry_their_references_need_no_records(tmp_path):
    rows = [{"id": "a", "turn": 0, "question": "What?", "answer": "red", "reference": "red"}]
    assert score_file(written(tmp_path / "p", rows))[1]["exact_match"] == 1.0


def test_several_turns_of_one_record_are_told_apart(tmp_path):
    data = written(tmp_path / "r.json", [record("a", ("What?", "red"), ("Is it?", "yes"))], lines=False)
    rows = [{"id": "a", "turn": 1, "answer": "yes"}, {"id": "a", "turn": 0, "answer": "blue"}]
    assert [item["answer"] for item in score_file(written(tmp_path / "p", rows), data)[0]] == ["blue", "yes"]


def test_partial_scores_only_what_is_answered(tmp_path, records):
    file = written(tmp_path / "p", LAYOUTS["ours"][:1])
    assert score_file(file, records, partial=True)[1]["count"] == 1


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "no predictions in it; give the file that evaluate wrote"),
        (["red"], "prediction 1 is a str; expected an object with an answer"),
        ([{"id": "okvqa-11", "answer": 3}], "prediction 1 (okvqa-11 turn 0): answer is 3; expected a text"),
        ([{"id": "okvqa-11"}], "answer is null; expected a text"),
        ([{"id": "x", "answer": "a"}], "prediction 1 (x turn 0) belongs to no question of"),
        ([{"id": "okvqa-11", "turn": 4, "answer": "a"}], "(okvqa-11 turn 4) belongs to no question of"),
        (LAYOUTS["ours"] + LAYOUTS["ours"][:1], "prediction 3 answers okvqa-12 turn 0 a second time; keep one"),
        (LAYOUTS["ours"][:1], "1 of 2 questions of"),
    ],
)
def test_predictions_that_do_not_fit_are_refused_by_name(tmp_path, records, rows, message):
    with pytest.raises(UserError) as caught:
        score_file(written(tmp_path / "p.jsonl", rows), records)
    assert message in str(caught.value) and "p.jsonl" in str(caught.value)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"answers": [["dog"], "dog"]}, 'record "a": answers holds a list; expected a list of texts'),
        ({"answers": "dog"}, 'record "a": answers holds a str; expected a list of texts'),
        ({}, 'record "a": turn 0 has an empty answer to compare with'),
    ],
)
def test_records_that_cannot_be_scored_are_refused_by_file_and_record(tmp_path, more, message):
    data = written(tmp_path / "val.json", [record("a", ("What?", "dog" if more else " "), **more)], lines=False)
    with pytest.raises(UserError) as caught:
        score_file(written(tmp_path / "p", [{"id": "a", "answer": "dog"}]), data)
    assert str(caught.value).startswith(f"{data}: 1 of 1 questions cannot be scored, the first: {message}")


def test_a_cut_off_file_is_refused_with_its_line(tmp_path):
    path = tmp_path / "p.jsonl"
    path.write_text('{"id": "a", "answer": "b"}\n{"id": "c", "ans')
    with pytest.raises(UserError, match=r"line 2 is not JSON .* the file may be cut off"):
        read_predictions(path)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"none.jsonl: no such predictions file"):
        read_predictions(tmp_path / "none.jsonl")


def test_predictions_without_references_ask_for_the_records(tmp_path):
    with pytest.raises(UserError, match="has no reference; give the records with --data RECORDS"):
        score_file(written(tmp_path / "p", LAYOUTS["official"]))


def test_predictions_survive_a_round_trip(tmp_path):
    rows = [{"id": "a", "turn": 0, "answer": "caf\u00e9\u2028x"}]
    write_predictions(tmp_path / "sub" / "p.jsonl", rows)
    assert read_predictions(tmp_path / "sub" / "p.jsonl") == rows
    assert [path.name for path in (tmp_path / "sub").iterdir()] == ["p.jsonl"]


def test_the_upload_file_has_the_official_form(tmp_path):
    rows = [{"id": "okvqa-11", "answer": "a"}, {"id": "x", "question_id": 7, "answer": "b"}, {"id": "y", "answer": "c"}]
    write_upload(tmp_path / "u.json", rows)
    assert json.loads((tmp_path / "u.json").read_text()) == [
        {"question_id": 11, "answer": "a"}, {"question_id": 7, "answer": "b"}, {"question_id": "y", "answer": "c"},
    ]  # fmt: skip


def test_two_answers_to_one_question_id_are_refused():
    rows = [{"id": "a-1", "turn": 0, "answer": "a"}, {"id": "a-1", "turn": 1, "answer": "b"}]
    with pytest.raises(UserError, match="one answer per question_id, but 1 stands for a-1 turn 0 and a-1 turn 1"):
        upload_rows(rows)


def test_a_record_of_several_questions_is_scored_question_by_question(tmp_path):
    path = tmp_path / "merged.json"
    merged = record(
        "okvqa-COCO_1", ("<image>\nWhat?", "dog"), ("Which colour?", "red"),
        answers=[["dog"] * 10, ["red"] * 6 + ["blue"] * 4], question_ids=["okvqa-11", "okvqa-12"],
        question_types=["what", "which"], independent_turns=True,
    )  # fmt: skip
    path.write_text(json.dumps([merged]))
    rows = [{"question_id": 11, "answer": "dog"}, {"question_id": 12, "answer": "blue"}]
    predictions, scores = score_file(written(tmp_path / "p", rows), path)
    assert [(one["question_id"], one["answers"][0], one["question_type"]) for one in predictions] == [
        (11, "dog", "what"), (12, "red", "which"),
    ]  # fmt: skip
    assert scores["exact_match"] == 0.5
    assert scores["vqa_accuracy"] == 1.0 and scores["vqa_accuracy_count"] == 2
    assert upload_rows(predictions) == rows


def test_a_list_of_answers_that_is_too_short_is_refused_by_record(tmp_path):
    path = tmp_path / "merged.json"
    path.write_text(json.dumps([record("m", ("<image>\nWhat?", "a"), ("Who?", "b"), answers=[["a"]])]))
    with pytest.raises(UserError, match='record "m": answers: 1 entries, and no entry for question 2'):
        score_file(written(tmp_path / "p", [{"id": "m", "turn": 0, "answer": "a"}]), path)
