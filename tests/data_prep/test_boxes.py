"""Boxes in texts: read in every common notation, moved between scales, converted by the command, found by the check."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from data_prep.__main__ import main
from data_prep.boxes.box import Box, matched, turned, turned_back
from data_prep.boxes.notation import Marks, box_text, read_boxes
from data_prep.boxes.scale import Scale
from data_prep.check.run import check_records
from data_prep.records.exif import only_orientation
from data_prep.records.picture import decode
from data_prep.records.record import read_records


@pytest.mark.parametrize(
    ("text", "wanted", "marks"),
    [
        ("[0.12, 0.34, 0.56, 0.78]", [(0.12, 0.34, 0.56, 0.78)], Marks.NONE),
        ("[.5,0,1.0,1]", [(0.5, 0, 1, 1)], Marks.NONE),
        ("a van [3, 284, 210, 371] and a car [5,6,7,8].", [(3, 284, 210, 371), (5, 6, 7, 8)], Marks.NONE),
        ('[{"bbox_2d": [3, 284, 210, 371], "label": "van"}]', [(3, 284, 210, 371)], Marks.NONE),
        ("<|box_start|>(12,34),(560,780)<|box_end|>", [(12, 34, 560, 780)], Marks.QWEN),
        ("<ref>dog</ref><box>(12,34),(560,780)</box>", [(12, 34, 560, 780)], Marks.TAGS),
        ("<box>[[12, 34, 560, 780]]</box>", [(12, 34, 560, 780)], Marks.TAGS),
        ("<box>12 34 560 780</box>", [(12, 34, 560, 780)], Marks.TAGS),
        ("(1, 2), (3, 4)", [(1, 2, 3, 4)], Marks.NONE),
        ("(1, 2, 3, 4)", [(1, 2, 3, 4)], Marks.NONE),
        ("seven [1, 2, 3] of [a, b, c, d] (see 4)", [], Marks.NONE),
    ],
)
def test_the_common_notations_are_read(text: str, wanted: list[tuple[float, ...]], marks: Marks) -> None:
    reading = read_boxes(text)
    assert [tuple(box.numbers) for box in reading.boxes] == wanted
    assert {box.marks for box in reading.boxes} <= {marks} and not reading.unread
    for box in reading.boxes:
        assert text[box.start : box.end] == box.text


@pytest.mark.parametrize(
    "text",
    ["<box>left</box>", "<|box_start|>(1,2),(3<|box_end|>", '{"bbox": [1, 2, 3]}', "[0.1, 0.2, 0.3]", "<box>1 2 3"],
)
def test_what_looks_like_a_box_and_is_none_is_told(text: str) -> None:
    reading = read_boxes(text)
    assert not reading.boxes and len(reading.unread) == 1


SIZES = st.tuples(st.integers(20, 5000), st.integers(20, 5000))


@settings(max_examples=200, deadline=None)
@given(SIZES, st.sampled_from(Scale), st.sampled_from(Marks), st.data())
def test_a_box_written_and_read_is_the_same_within_its_rounding(
    size: tuple[int, int], scale: Scale, marks: Marks, data: st.DataObject
) -> None:
    width, height = size
    left, top = data.draw(st.integers(0, width - 10)), data.draw(st.integers(0, height - 10))
    box = Box(left, top, data.draw(st.integers(left + 1, width)), data.draw(st.integers(top + 1, height)))
    assert max(abs(a - b) for a, b in zip(scale.to_pixels(scale.of_pixels(box, size), size), box, strict=True)) < 1e-6
    (read,) = read_boxes(box_text(scale.of_pixels(box, size), scale, marks, 6)).boxes
    back = scale.to_pixels(read.numbers, size)
    rounding = {Scale.THOUSAND: max(size) / 2000}.get(scale, 0.5)
    assert read.marks is marks
    assert max(abs(a - b) for a, b in zip(back, box, strict=True)) <= rounding + 1e-6


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_box_turns_with_its_picture(orientation: int) -> None:
    """A rectangle drawn into the stored pixels is found, in the picture as it is opened, where `turned` says."""
    stored, box = (90, 60), Box(10, 20, 40, 30)
    picture = Image.new("L", stored)
    ImageDraw.Draw(picture).rectangle((10, 20, 39, 29), fill=255)
    stream = io.BytesIO()
    picture.save(stream, "PNG", exif=only_orientation(orientation).removeprefix(b"Exif\0\0"))
    upright = decode(stream, "it")
    assert turned(box, stored, orientation) == Box(*(upright.convert("L").getbbox() or ()))
    assert turned_back(turned(box, stored, orientation), upright.size, orientation) == box


def test_boxes_are_matched_one_to_one() -> None:
    one, far = Box(0, 0, 10, 10), Box(20, 20, 30, 30)
    assert matched([one, far], [far]) == [0.0, 1.0]
    assert matched([one, one], [one]) == [1.0, 0.0]
    assert Box(0, 0, 10, 10).iou(Box(5, 0, 15, 10)) == pytest.approx(1 / 3)
    assert Box(5, 5, 5, 5).iou(Box(0, 0, 10, 10)) == 0


def record(name: str, image: str, *answers: str) -> dict[str, Any]:
    turns = []
    for number, answer in enumerate(answers):
        turns += [{"from": "human", "value": "<image>\nWhere?" if not number else "And?"}]
        turns += [{"from": "gpt", "value": answer}]
    return {"id": name, "image": image, "conversations": turns}


@pytest.fixture
def pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A wide picture, a tall one, and one that is stored lying and stands upright by its EXIF."""
    monkeypatch.chdir(tmp_path)
    for name, size in (("wide.png", (200, 100)), ("tall.png", (100, 400))):
        Image.new("RGB", size, (len(name) * 20, 80, 90)).save(tmp_path / name)
    Image.new("RGB", (200, 100), (9, 9, 200)).save(tmp_path / "turned.jpg", exif=only_orientation(6))
    return tmp_path


def write(path: Path, *records: dict[str, Any]) -> str:
    path.write_text(json.dumps(records))
    return str(path)


def run(*words: object) -> int:
    return main(["boxes", *map(str, words), "--image-folder", ".", "--output", "out.json"])


def answers() -> list[str]:
    return [turn["value"] for one in read_records("out.json") for turn in one["conversations"][1::2]]


@pytest.mark.parametrize(
    ("scale", "wanted"),
    [
        ("normalised", "at [0.250, 0.500, 0.500, 1.000]."),
        ("square", "at [0.250, 0.500, 0.500, 0.750]."),
        ("1000", "at [250, 500, 500, 1000]."),
        ("pixels", "at [50, 50, 100, 100]."),
    ],
)
def test_every_scale_becomes_every_other(pictures: Path, scale: str, wanted: str) -> None:
    write(pictures / "a.json", record("a", "wide.png", "at [50, 50, 100, 100]."), record("text", "wide.png", "a dog"))
    assert run("a.json", "--from", "pixels", "--to", scale) == 0
    assert answers() == [wanted, "a dog"]
    first, second = read_records("out.json")
    assert first["box_scale"] == scale and "box_scale" not in second
    Path("out.json").rename("again.json")
    assert run("again.json", "--to", "pixels") == 0
    assert answers() == ["at [50, 50, 100, 100].", "a dog"]


def test_marks_are_read_kept_and_written(pictures: Path) -> None:
    text = "<|object_ref_start|>dog<|object_ref_end|><|box_start|>(250,500),(500,1000)<|box_end|>"
    write(pictures / "a.json", record("a", "wide.png", text), record("b", "tall.png", "<box>[[0,0,500,500]]</box>"))
    assert run("a.json", "--to", "pixels") == 0
    assert answers() == ["<|object_ref_start|>dog<|object_ref_end|>[50, 50, 100, 100]", "[0, 0, 50, 200]"]
    assert run("a.json", "--to", "1000", "--marks", "keep") == 0
    assert answers()[0] == text and answers()[1] == "<box>(0,0),(500,500)</box>"
    assert run("a.json", "--to", "normalised", "--marks", "qwen", "--decimals", 2) == 0
    assert answers()[1] == "<|box_start|>(0.00,0.00),(0.50,0.50)<|box_end|>"


def test_coco_order_and_stored_pixels_are_taken_when_said(pictures: Path) -> None:
    write(pictures / "a.json", record("a", "turned.jpg", "[20, 10, 60, 30]"))
    assert run("a.json", "--from", "pixels", "--order", "xywh", "--stored", "--to", "pixels") == 0
    assert answers() == ["[60, 20, 90, 80]"], "20..80 of 200, 10..40 of 100, a quarter turn to the right"


def test_what_cannot_be_read_is_listed_and_costs_the_exit_status(
    pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = {
        "reversed": "[90, 10, 20, 30]",
        "outside": "[10, 10, 400, 90]",
        "broken": "<box>[10, 20, 30]</box>",
        "sides": "[150, 60, 40, 30]",
        "shares": "[0.1, 0.2, 0.4, 0.5]",
    }
    write(pictures / "a.json", *(record(name, "wide.png", text) for name, text in bad.items()))
    assert run("a.json", "--from", "pixels", "--to", "1000") == 1
    said = capsys.readouterr()
    assert "no record came out" in said.err and "box not readable 5" in said.err
    write(
        pictures / "a.json",
        record("good", "wide.png", "[1, 2, 30, 40]"),
        record("other", "wide.png", "<loc_1><loc_2><loc_3><loc_4>"),
        *(record(n, "wide.png", t) for n, t in bad.items()),
    )
    assert run("a.json", "--from", "pixels", "--to", "1000") == 1
    said = capsys.readouterr()
    assert "record \"reversed\": '[90, 10, 20, 30]' is reversed" in said.out
    assert "record \"outside\": '[10, 10, 400, 90]' reaches out of its picture of 200 x 100, read as pixels" in said.out
    assert "has not four numbers" in said.out and "as x, y, width, height it fits: --order xywh" in said.out
    assert "'[0.1, 0.2, 0.4, 0.5]' are shares, not pixels" in said.out
    assert "1 record stays as it was: without a box in a notation that is read" in said.out
    assert "--allow-drops 0.72" in said.err and "1 boxes on the scale 1000 (1 from pixels)" in said.out


def test_whole_numbers_that_can_be_either_are_not_guessed(pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(pictures / "a.json", record("a", "wide.png", "[50, 50, 100, 100]"))
    assert run("a.json", "--to", "normalised") == 1
    assert "can be pixels, or thousandths of the picture; say which with --from pixels" in capsys.readouterr().err
    write(pictures / "a.json", record("a", "wide.png", "[50, 50, 900, 800]"), record("b", "tall.png", "[0, 0, 999, 9]"))
    assert run("a.json", "--to", "normalised") == 0
    assert answers()[0] == "[0.050, 0.050, 0.900, 0.800]"
    write(pictures / "a.json", *(record(f"r{n}", "wide.png", f"[{n}, 5, {n + 100}, 90]") for n in range(24)))
    assert run("a.json", "--to", "normalised") == 0
    assert answers()[0] == "[0.000, 0.050, 0.500, 0.900]", "24 boxes inside small pictures are no accident"


def test_several_pictures_leave_a_box_without_its_size(pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    several = {**record("a", "wide.png", "[0.1, 0.1, 0.5, 0.5]"), "image": ["wide.png", "tall.png"]}
    several["conversations"][0]["value"] = "<image>\n<image>\nWhere?"
    write(pictures / "a.json", several)
    assert run("a.json", "--to", "1000") == 0, "shares of a picture are thousandths of it, whatever its size"
    assert run("a.json", "--to", "square") == 1
    assert "2 pictures, and a box does not say which it is of" in capsys.readouterr().err


def test_the_check_finds_bad_boxes_and_no_good_one(pictures: Path) -> None:
    good = [
        record("share", "wide.png", "[0.1, 0.2, 0.9, 1.0]"),
        record("list", "wide.png", "I count [1, 2, 3]."),
    ]
    report = check_records(write(pictures / "good.json", *good), pictures)
    assert not any("box" in found.kind.name for found in report.findings)
    bad = [
        record("reversed", "wide.png", "[0.9, 0.2, 0.1, 0.5]"),
        record("beyond", "wide.png", "[0.1, 0.2, 1.4, 0.5]"),
        record("outside", "wide.png", "[10, 10, 1300, 90]"),
        record("turned", "turned.jpg", "[10, 10, 90, 190]"),
        record("turned-out", "turned.jpg", "[10, 10, 190, 90]"),
        record("broken", "wide.png", "<box>left</box>"),
    ]
    report = check_records(write(pictures / "bad.json", *good, *bad), pictures)
    found = {
        one.kind.name: [place.record for place in one.examples] for one in report.findings if "box" in one.kind.name
    }
    assert found["box reversed"] == ["reversed"]
    assert sorted(found["box outside the picture"]) == ["beyond", "outside", "turned-out"]
    assert found["box not readable"] == ["broken"]
    assert len(found["boxes on several scales"]) == 1
    assert report.ok, "findings to look at: a list of four numbers may be none"


def test_the_check_believes_a_record_that_names_its_scale(pictures: Path) -> None:
    said = {**record("a", "wide.png", "[500, 500, 900, 900]"), "box_scale": "1000"}
    report = check_records(write(pictures / "a.json", said), pictures)
    assert not any("box" in found.kind.name for found in report.findings)


def test_the_answers_of_a_pair_move_with_its_question(pictures: Path) -> None:
    turns = [{"from": "human", "value": "<image>\nWhere?"}]
    pair = {"id": "a", "image": "wide.png", "conversations": turns}
    pair |= {"chosen": [{"role": "assistant", "content": "[50, 50, 100, 100]"}], "rejected": "[0, 0, 100, 50]"}
    write(pictures / "a.json", pair)
    assert run("a.json", "--from", "pixels", "--to", "normalised") == 0
    (moved,) = read_records("out.json")
    assert (moved["chosen"], moved["rejected"]) == ("[0.250, 0.500, 0.500, 1.000]", "[0.000, 0.000, 0.500, 0.500]")
    assert moved["box_scale"] == "normalised"


def test_a_mark_that_is_never_closed_takes_no_text_with_it(pictures: Path) -> None:
    write(pictures / "a.json", record("a", "wide.png", "<box>(250,500),(500,1000) is the <b>dog</b>"))
    assert run("a.json", "--to", "pixels") == 0
    assert answers() == ["[50, 50, 100, 100] is the <b>dog</b>"]


def test_conversations_that_are_no_list_are_told(pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = record("good", "wide.png", "[0.1, 0.1, 0.5, 0.5]")
    write(pictures / "a.json", good, {"id": "b", "conversations": 5}, {"id": "c", "conversations": "a dog"})
    assert run("a.json", "--to", "1000", "--allow-drops", "0.7") == 0
    assert "conversations: expected a list of turns, found 5" in capsys.readouterr().out


@pytest.mark.parametrize("text", ["<box>1{0}2{0}3{0}x</box>", "(1,2){0}x", "[{0}1{0},{0}2{0},{0}x]"])
def test_a_long_gap_is_read_in_time(text: str) -> None:
    """Two ways to match a blank make the cube of these blanks: hours."""
    assert not read_boxes(text.format(" " * 20_000)).boxes
