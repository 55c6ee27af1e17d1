"""Two answers to one question, from every layout: what becomes of them, and what gives none and is counted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from data_prep.__main__ import main
from data_prep.check.mend import mend
from data_prep.check.texts import faults
from data_prep.records.preference import pair_of
from data_prep.records.record import read_records
from data_prep.tools.answers import NoPair, answers_in
from tests.data_prep.conftest import draw, write_preferences


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for number in range(3):
        draw(tmp_path / f"photos/{number}.jpg", number)
    write_preferences(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def made(
    capsys: pytest.CaptureFixture[str], source: str, *words: str, code: int = 0
) -> tuple[list[dict[str, Any]], str]:
    assert main(["preferences", source, "--images", "photos", "--output", "out.json", *words]) == code
    found = capsys.readouterr()
    return list(read_records("out.json")), found.out + found.err


@pytest.mark.parametrize(
    ("source", "count", "question", "chosen", "rejected"),
    [
        ("rlaif.jsonl", 3, "What is it?", "a cat", "a dog on a sofa"),
        ("trl.jsonl", 3, "What is it?", "a cat", "a dog on a sofa"),
        ("pope_data.json", 2, "Is there a dog?", "No.", "Yes."),
        ("desc_data.json", 4, "Describe this image in detail.", "A cat.", "A dog."),
    ],
)
def test_every_layout_becomes_sound_pairs(
    source: str, count: int, question: str, chosen: str, rejected: str, folder: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    records, text = made(capsys, source)
    assert len(records) == count and "0 dropped" in text
    pair = pair_of(records[0])
    assert pair.turns == [{"from": "human", "value": f"<image>\n{question}"}]
    assert (pair.chosen, pair.rejected, records[0]["image"]) == (chosen, rejected, "0.jpg")
    assert [fault for record in records for fault in faults(record)] == []
    assert len({record["id"] for record in records}) == count
    # Read again, they stay as they are.
    Path("again.json").write_text(json.dumps(records))
    again, _ = made(capsys, "again.json")
    assert [pair_of(one) for one in again] == [pair_of(one) for one in records]


def test_a_runs_wrong_answers_become_pairs_and_the_rest_is_counted(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [json.loads(line) for line in Path("predictions.jsonl").read_text().splitlines()]
    more = [
        {**rows[0], "id": "cut", "truncated": True, "answer": "yes and"},
        {**rows[0], "id": "among", "reference": "dog", "answers": ["dog", "puppy"], "answer": "Puppy."},
        {**rows[0], "id": "open", "reference": "dog", "answer": "cat"},
        {**rows[0], "id": "nothing", "answer": " "},
    ]
    Path("all.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*rows, *more]))
    test = {"id": "t", "image": "./2.jpg", "conversations": []}
    Path("test.json").write_text(json.dumps([test]))
    records, text = made(capsys, "all.jsonl", "--test", "test.json", "--allow-drops", "0.5")
    assert [(one["rejected"], one["chosen"]) for one in records] == [("yes", "no"), ("cat", "dog")]
    for reason in ("right already 2", "answer cut off 1", "picture of the test records 1", "empty answer 1"):
        assert reason in text, text
    records, _ = made(capsys, "all.jsonl", "--false-yes", "--allow-drops", "0.5")
    assert [one["rejected"] for one in records] == ["yes", "Yes, a dog."]
    _, text = made(capsys, "predictions.jsonl")
    assert "without --test nothing says whether these pictures are held out" in text


def test_what_is_no_pair_is_dropped_by_its_reason_and_fails(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = {"image": "0.jpg", "question": "What?", "chosen": "a cat", "rejected": "a dog"}
    bad = [
        {**good, "rejected": " a  cat"}, {**good, "rejected": None}, {**good, "image": "gone.jpg"},
        {**good, "chosen": ""}, {**good, "question": "<image> <image> What?"}, {**good, "chosen": {"score": 3}},
        {"image": "0.jpg", "chosen": talk("What?", "a cat"), "rejected": talk("Where?", "a dog")},
        {**good, "chosen": talk("Where?", "a cat"), "rejected": talk("Where?", "a dog")},
        {**good, "chosen": talk("What?", "a cat")[1:] * 2, "rejected": talk("What?", "a dog")[1:]},
    ]  # fmt: skip
    Path("bad.json").write_text(json.dumps([good, *bad]))
    records, text = made(capsys, "bad.json", code=1)
    assert len(records) == 1
    for reason in ("chosen is rejected 1", "no two answers 1", "image missing 1", "empty answer 1",
                   "turns not mendable 4", "not a text 1", "9 of 10 rows were dropped"):  # fmt: skip
        assert reason in text, text


def talk(question: str, answer: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def test_two_pairs_of_one_question_are_no_record_twice(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = {"image": "0.jpg", "conversations": [{"from": "human", "value": "<image>\nWhat?"}], "chosen": "a cat"}
    pairs = [{**asked, "id": str(n), "rejected": worse} for n, worse in enumerate(("a dog", "a cow", "a dog"))]
    Path("pairs.json").write_text(json.dumps(pairs))
    main(["check", "pairs.json", "--images", "photos"])
    text = capsys.readouterr().out
    assert text.count("has the same picture and text") == 1 and "record 1 has the same picture" in text


def test_descriptions_that_are_no_lists_are_refused_and_answers_without_a_partner_counted(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("d.json").write_text(json.dumps({"0": {"chosen": ["A cat.", "It."], "rejected": ["A dog."]}}))
    records, text = made(capsys, "d.json", "--allow-drops", "0.5")
    assert len(records) == 1 and "no two answers 1" in text
    Path("out.json").unlink()
    Path("d.json").write_text(json.dumps({"0": {"chosen": "A cat.", "rejected": "A dog."}}))
    assert main(["preferences", "d.json", "--images", "photos", "--output", "out.json"]) == 1
    assert "expected an object with lists" in capsys.readouterr().err and not Path("out.json").exists()


@pytest.mark.parametrize("pattern", ["a.jpg", "{x}.jpg", "{}/{}.jpg", "{"])
def test_a_pattern_of_names_has_one_place(pattern: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["preferences", "pope_data.json", "--images", "photos", "--output", "out.json"]
    assert main([*words, "--image-name", pattern]) == 2
    assert "write {} where the picture's number goes" in capsys.readouterr().err


def test_mending_a_pair_keeps_the_question_that_it_ends_with() -> None:
    turns = [{"from": side, "value": text} for side, text in (("human", "Hi"), ("gpt", "Hello"), ("user", "A dog?"))]
    mended = mend({"conversations": turns, "chosen": "no", "rejected": "yes"}, 0)
    assert not isinstance(mended, str)
    assert [turn["value"] for turn in mended[0]["conversations"]] == ["Hi", "Hello", "A dog?"]


@pytest.mark.parametrize(
    ("prompt", "asked"), [("Hello", ["Hello", "Hi", "What?"]), ("What?\nAnswer briefly.", ["What?"])]
)
def test_a_prompt_may_be_the_beginning_of_both_dialogues_or_say_more(prompt: str, asked: list[str]) -> None:
    def dialogue(answer: str) -> list[dict[str, str]]:
        said = [*asked, answer]
        return [{"role": ("user", "assistant")[place % 2], "content": text} for place, text in enumerate(said)]

    row = {"image": "0.jpg", "prompt": prompt, "chosen": dialogue("a cat"), "rejected": dialogue("a dog")}
    found = answers_in(row)
    assert [text for _, text in found.turns] == [prompt, *asked[1:]]
    assert (found.chosen, found.rejected) == ("a cat", "a dog")
    with pytest.raises(NoPair):
        answers_in({**row, "prompt": "Who?"})


def test_a_system_turn_stands_before_the_first_question(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def turns(*said: tuple[str, str]) -> list[dict[str, str]]:
        return [{"role": role, "content": text} for role, text in said]

    system, asked, good, bad = ("system", "Be brief."), ("user", "What?"), ("assistant", "a cat"), ("assistant", "dog")
    rows = [
        {"chosen": turns(system, asked, good), "rejected": turns(system, asked, bad)},
        {"prompt": turns(system, asked), "chosen": turns(good), "rejected": turns(bad)},
        {"prompt": turns(asked), "chosen": turns(system, good), "rejected": turns(system, bad)},
        {"prompt": "What?", "chosen": turns(system, asked, good), "rejected": turns(system, asked, bad)},
        {"prompt": "What?", "chosen": turns(system, good), "rejected": turns(bad)},
    ]
    Path("rows.json").write_text(json.dumps([{**row, "images": ["0.jpg"]} for row in rows]))
    records, text = made(capsys, "rows.json")
    assert "5 in, 5 converted" in text
    for record in records:
        assert record["conversations"][0]["value"] == "<image>\nBe brief.\nWhat?"
        assert (record["chosen"], record["rejected"]) == ("a cat", "dog")


def asked(number: int, answer: str, reference: str) -> dict[str, Any]:
    """A row of a run's predictions."""
    question = {"id": f"q{number}", "turn": 0, "image": f"{number % 3}.jpg", "question": f"Is it {number}?"}
    return {**question, "answer": answer, "reference": reference}


def test_one_sided_pairs_are_told_and_balanced(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A measured run on 187 pairs for yes and 57 for no said yes to everything (docs/hallucination.md)."""
    rows = [asked(number, "no", "yes") for number in range(9)] + [
        asked(number, "Yes.", "no") for number in range(9, 12)
    ]
    rows += [asked(12, "red", "blue"), asked(13, "teal", "blue")]
    Path("said.jsonl").write_text("\n".join(map(json.dumps, rows)))
    told = (
        '9 pairs prefer "yes" to "no" and 3 the other way round: DPO learns to say "yes", whatever the picture shows; '
    )
    records, text = made(capsys, "said.jsonl")
    assert len(records) == 14 and told + "--balance keeps as many of both\n" in text
    balanced, text = made(capsys, "said.jsonl", "--balance")
    assert sorted(record["chosen"] for record in balanced) == ["blue"] * 2 + ["no"] * 3 + ["yes"] * 3
    assert "more pairs this way round than the other 6" in text and "prefer" not in text
    assert made(capsys, "said.jsonl", "--balance")[0] == balanced
    Path("yes.jsonl").write_text("\n".join(json.dumps(asked(number, "no", "yes")) for number in range(10)))
    records, text = made(capsys, "yes.jsonl", "--balance")
    assert len(records) == 10 and "0 the other way round" in text and "mix in pairs of the other way round" in text


def test_the_chosen_answer_may_be_the_last_turn_alone() -> None:
    turns = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "a cat"}]
    found = answers_in({"image": "0.jpg", "conversations": turns, "rejected": "a dog"})
    assert (found.turns, found.chosen, found.rejected) == ([("human", "<image>\nWhat?")], "a cat", "a dog")
    with pytest.raises(NoPair):
        answers_in({"image": "0.jpg", "conversations": turns[:1], "rejected": "a dog"})
