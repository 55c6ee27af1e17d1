"""Yes/no questions from one's own labels: true, balanced, the same by seed, and whatever makes none is counted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from data_prep.__main__ import main
from data_prep.records.record import read_records

Turns = list[tuple[str, str]]


def record(name: str, image: Any, *turns: tuple[str, str], **more: Any) -> dict[str, Any]:
    told = [{"from": side, "value": text} for pair in turns for side, text in zip(("human", "gpt"), pair, strict=True)]
    if told and image:
        told[0]["value"] = "<image>\n" + told[0]["value"]
    return {"id": name, "image": image, "conversations": told, **more}


def write(path: Path, records: list[dict[str, Any]]) -> Path:
    path.write_text(json.dumps(records))
    return path


def made(capsys: pytest.CaptureFixture[str], path: Path, *words: object) -> tuple[list[dict[str, Any]], str]:
    output = path.parent / "probes.json"
    code = main(["probes", str(path), "--output", str(output), "--check", "records", *map(str, words)])
    text = capsys.readouterr()
    assert code == 0, text
    return list(read_records(output)), text.out


def asked(records: list[dict[str, Any]], expected: str) -> list[tuple[str, str]]:
    turns = [(one["image"], one["conversations"]) for one in records]
    return [
        (image, turn[0]["value"].removeprefix("<image>\n")) for image, turn in turns if turn[1]["value"] == expected
    ]


COLOURS = ("red", "green", "blue", "white")


def shapes(count: int) -> list[dict[str, Any]]:
    kinds = ("circle", "square", "star")
    return [
        record(f"s{n}", f"{n}.png", ("What colour is it?", COLOURS[n % 4]), ("What shape is it?", kinds[n % 3]))
        for n in range(count)
    ]


def test_every_fact_gives_a_true_and_a_false_question_in_the_three_samplings(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    records, text = made(capsys, write(tmp_path / "r.json", shapes(12)))
    yes, no = asked(records, "yes"), asked(records, "no")
    assert len(yes) == len(no) == 24 and len(set(yes + no)) == 48
    truth = {(one["image"], turn["value"]) for one in shapes(12) for turn in one["conversations"][1::2]}
    for questions, is_true in ((yes, True), (no, False)):
        for image, question in questions:
            answer = question.split("Is the answer ")[1].split("?")[0]
            assert ((image, answer) in truth) == is_true
    kinds = [one["question_type"] for one in records]
    assert {kind: kinds.count(kind) for kind in kinds} == {"random": 16, "popular": 16, "adversarial": 16}
    assert "48 questions, 24 with the answer yes and as many with no" in text
    assert "24 in, 24 converted to 48 records, 0 dropped" in text


def test_the_same_seed_gives_the_same_questions_and_another_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "r.json", shapes(12))
    first, second, other = (made(capsys, path, "--seed", seed)[0] for seed in (3, 3, 4))
    assert first == second != other


def test_things_of_captions_and_boxes_are_asked_about_and_never_called_absent_where_they_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    captions = [
        ("a.png", "A dog on the grass near a tree. It looks very happy today."),
        ("b.png", "There is a dog in the park and a bench with nobody on it."),
        ("c.png", "Two cats sleep on a sofa; there is a lamp, and no dog in sight."),
        ("d.png", "A cat is under the table, in a room with a lamp on it."),
    ]
    records = [record(f"c{n}", image, ("Describe it.", text)) for n, (image, text) in enumerate(captions)]
    records.append(record("b", "e.png", ("Where?", "[0.1, 0.2, 0.3, 0.4]"), objects=[{"label": "zebra", "bbox": []}]))
    found, text = made(capsys, write(tmp_path / "r.json", records))
    yes, no = asked(found, "yes"), asked(found, "no")
    assert ("a.png", "Is there a dog in the image? Answer with yes or no.") in yes
    assert ("e.png", "Is there a zebra in the image? Answer with yes or no.") in yes
    assert all(image != "c.png" or " dog " not in question for image, question in yes), "it says that there is none"
    told = dict(captions) | {"e.png": "zebra"}
    for image, question in no:
        assert question.split("Is there a")[1].split()[0 if "an " not in question else 1] not in told[image].lower()
    assert "no short answer and no thing named" in text and "b turn 0" in text


def test_all_that_makes_no_question_is_counted_and_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    records = [
        *shapes(8),
        record("yn", "yn.png", ("Is it day?", "Yes.")),
        record("text", None, ("Two and two?", "four")),
        record("two", ["a.png", "b.png"], ("Which?", "left")),
        record("alone", "alone.png", ("Who wrote this?", "Goethe")),
        record("again", "0.png", ("What colour is it?", "Red")),
    ]
    train = write(tmp_path / "train.json", [record("t", "./1.png", ("What colour is it?", "purple"))])
    found, text = made(capsys, write(tmp_path / "r.json", records), "--train", train)
    for line in (
        "yes or no already: yn turn 0", "no image named: text", "several pictures: two",
        "no other answer that is surely false: alone turn 0: 'Goethe'", "same as an earlier row: again turn 0",
        "picture of the training records: s1 (1.png)",
    ):  # fmt: skip
        assert line in text, text
    assert all(one["image"] != "1.png" for one in found)
    assert "21 in, 14 converted to 28 records, 7 dropped" in text
    meta = json.loads((tmp_path / "probes.meta.json").read_text())
    assert meta["counts"]["dropped"]["picture of the training records"] == 2


def test_an_answer_that_others_accept_or_a_word_of_the_picture_is_not_called_false(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked_of = "What animal is it?"
    records = [
        record("a", "a.png", (asked_of, "dog"), answers=["dog", "puppy", "wolf"]),
        record("b", "b.png", (asked_of, "puppy")),
        record("c", "c.png", (asked_of, "hot dog")),
        record("d", "d.png", (asked_of, "wolf")),
        record("e", "e.png", (asked_of, "horse")),
    ]
    found, _ = made(capsys, write(tmp_path / "r.json", records), "--per-picture", 0)
    false = [question for image, question in asked(found, "no") if image == "a.png"]
    assert [question.split("answer ")[1].split("?")[0] for question in false] == ["horse"]


def test_the_commonest_and_what_comes_together_are_drawn_as_they_say(tmp_path: Path) -> None:
    import random

    from data_prep.tools.presence import Album, Fact

    album = Album()
    for number, (colour, shape) in enumerate(
        [("red", "circle"), ("blue", "star"), ("blue", "star"), ("green", "circle")]
    ):
        album.take(f"{number}", Fact("colour?", colour, ("colour?",), ""))
        album.take(f"{number}", Fact("shape?", shape, ("shape?",), ""))
    fact = album.pictures["0"].facts[0]
    draw = random.Random(0)
    assert album.absent("0", fact, "popular", draw, set()) == "blue"
    assert album.absent("0", fact, "adversarial", draw, set()) == "green", "it comes together with the circle"
    assert album.absent("0", fact, "popular", draw, {"blue"}) == "green"


def test_records_that_make_no_question_at_all_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "r.json", [record("yn", "yn.png", ("Is it day?", "yes"))])
    assert main(["probes", str(path), "--output", str(tmp_path / "p.json")]) == 1
    assert "no record came out, so nothing was written: 1 in" in capsys.readouterr().err
    assert not (tmp_path / "p.json").exists()


def test_things_are_words_in_utf_8(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts = ("A dog lies on the grass in the sun today.", "A cat sits on the sofa in the house today.")
    records = [record(f"d{n}", f"{n}.png", ("Describe it.", text)) for n, text in enumerate(texts)]
    source, things = write(tmp_path / "r.json", records), tmp_path / "things.txt"
    things.write_bytes(b"\xef\xbb\xbfdog\r\n---\r\ncat\r\n")
    found, _ = made(capsys, source, "--things", things)
    questions = {question for _, question in asked(found, "yes")}
    assert questions == {f"Is there a {thing} in the image? Answer with yes or no." for thing in ("dog", "cat")}
    things.write_bytes(b"dog\nK\xe4fer\n")
    assert main(["probes", str(source), "--output", str(tmp_path / "p.json"), "--things", str(things)]) == 1
    assert "things.txt: line 2: byte 0xe4 is not UTF-8" in capsys.readouterr().err


def test_no_mark_and_no_spelling_tells_what_is_there_from_what_is_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spelled = ("Red.", "red", "BLUE!", "blue.", "\u7ea2\u8272\u3002", "\u84dd\u8272")
    told = [record(f"r{n}", f"{n}.png", ("What colour is it?", answer)) for n, answer in enumerate(spelled)]
    records, _ = made(capsys, write(tmp_path / "r.json", told))
    yes, no = ({question for _, question in asked(records, side)} for side in ("yes", "no"))
    assert len(yes) == 4 and no <= yes
