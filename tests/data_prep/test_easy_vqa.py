"""easy-VQA's questions on a picture know nothing of each other; the first pictures make dialogues where asked."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from data_prep.converters.easy_vqa import main
from data_prep.errors import DataError
from data_prep.records.record import read_records
from tests.data_prep.conftest import draw

ROWS = [
    ["is there a circle?", "no", 0],
    ["what color is the shape?", "blue", 0],
    ["is there not a red shape?", "yes", 0],
    ["what shape is in the image?", "triangle", 0],
    ["is there a circle?", "yes", 1],
    ["what color is the shape?", "red", 1],
]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    for split, first in (("train", 0), ("test", 7)):
        for number in range(2):
            draw(tmp_path / f"source/{split}/images/{number}.png", first + number, (64, 64))
        (tmp_path / f"source/{split}/questions.json").write_text(json.dumps(ROWS))
    return tmp_path / "source"


def converted(source: Path, output: Path, *flags: str) -> list[dict[str, object]]:
    assert main(["--source", str(source), "--output-dir", str(output), "--check", "none", *flags]) == 0
    return list(read_records(output / "train.json"))


def test_turns_are_independent_and_in_the_order_of_the_file(source: Path, tmp_path: Path) -> None:
    first, second = converted(source, tmp_path / "out")
    assert first["independent_turns"] is second["independent_turns"] is True
    assert [turn["value"] for turn in first["conversations"]][1::2] == ["no", "blue", "yes", "triangle"]  # type: ignore[attr-defined]
    assert first["question_types"] == ["shape present", "color", "color absent", "shape"]


def test_dialogues_tell_what_the_picture_shows_before_they_ask_whether(source: Path, tmp_path: Path) -> None:
    first, second = converted(source, tmp_path / "out", "--dialogues", "1")
    assert (first["independent_turns"], second["independent_turns"]) == (False, True)
    turns = [turn["value"] for turn in first["conversations"]]  # type: ignore[attr-defined]
    assert turns[0] == "<image>\nwhat color is the shape?"
    assert turns[1::2] == ["blue", "triangle", "no", "yes"]
    assert first["question_types"] == ["color", "shape", "shape present", "color absent"]
    assert all(record["independent_turns"] for record in read_records(tmp_path / "out/test.json"))


def test_questions_that_are_no_rows_are_named(source: Path, tmp_path: Path) -> None:
    (source / "train/questions.json").write_text(json.dumps([*ROWS, ["what?", "blue"]]))
    with pytest.raises(DataError, match=r"questions.json.*row 7: expected \[question, answer, picture number\]"):
        main(["--source", str(source), "--output-dir", str(tmp_path / "out")])


def test_a_file_that_was_cut_off_is_named_with_the_place(source: Path, tmp_path: Path) -> None:
    questions = source / "train/questions.json"
    questions.write_text(json.dumps(ROWS)[:-40])
    with pytest.raises(DataError, match=r"train/questions\.json.*line 1"):
        main(["--source", str(source), "--output-dir", str(tmp_path / "out")])
    assert not (tmp_path / "out/train.json").exists()
