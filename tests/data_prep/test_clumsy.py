"""Clumsy and hostile input of kinds that others have sent: nothing is lost in silence, nothing is a fault of ours."""

import asyncio
import json
import os
import random
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import openpyxl
import pytest
from PIL import Image

from data_prep.__main__ import main
from data_prep.boxes.notation import read_boxes
from data_prep.check.inspect import inspect_picture
from data_prep.check.mend import mend
from data_prep.converters import captions_template
from data_prep.converters.delimited import delimited_rows
from data_prep.converters.options import require_place
from data_prep.converters.rows import Reading, read_rows
from data_prep.converters.texts import texts_of
from data_prep.detection.yolo import read_labels
from data_prep.errors import DataError
from data_prep.generate.endpoint import Endpoint, NotNow
from data_prep.generate.validate import Invalid, turns_of
from data_prep.records.json_text import json_in
from data_prep.records.picture import stored_size
from data_prep.records.record import open_image, read_records
from data_prep.tools import presence
from data_prep.tools.presence import SAMPLINGS, Album, Fact
from tests.data_prep.conftest import record

DEEP = "[" * 450 + "1" + "]" * 450
"""Python's reader takes it, and one call for each level is more than Python makes."""
TABLE = ["table", "t.csv", "--images", "photos", "--output", "o.json", "--check", "none"]


def told(words: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """The exit status, and the error if there is one: never a fault of ours."""
    try:
        status = main(words)
    except SystemExit as stop:
        status = int(stop.code or 0)
    error = capsys.readouterr().err
    assert "fault of" not in error
    return status, error


def table(text: str, *more: str) -> list[dict[str, Any]]:
    Path("t.csv").write_text(text, encoding="utf-8", newline="")
    assert main([*TABLE, *more]) == 0
    return list(read_records("o.json"))


def answers(made: list[dict[str, Any]]) -> list[str]:
    return [one["conversations"][1]["value"] for one in made]


def test_a_list_of_any_depth_and_a_tuple_are_read_or_stay_the_text_that_they_are(sources: Path) -> None:
    made = table(f"image,question,answer\n0.jpg,W?,\"{DEEP}\"\n1.jpg,W?,\"('a', 'a', 'b')\"\n2.jpg,W?,()\n")
    assert answers(made) == [DEEP, "a", "()"]
    assert texts_of("(see below)") == ["(see below)"] and json_in(DEEP) is None
    made = table("image,question,answer\n\"('0.jpg', '1.jpg')\",W?,a\n")
    assert made[0]["image"] == ["0.jpg", "1.jpg"]


def test_marks_of_pictures_in_a_tables_questions_stay_where_they_are(
    sources: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = table('image,question,answer\n0.jpg,"<image>\nW?",a\n1.jpg,See <image>: W?,b\n2.jpg,W?,c\n')
    questions = [one["conversations"][0]["value"] for one in made]
    assert questions == ["<image>\nW?", "See <image>: W?", "<image>\nW?"]
    Path("t.csv").write_text("image,question,answer\n0.jpg,<image><image>W?,a\n1.jpg,<image>,b\n2.jpg,W?,c\n")
    assert main(TABLE) == 1
    said = capsys.readouterr()
    assert "t.csv line 2: 2 <image> for 1 pictures" in said.out and "dropped, empty question: t.csv line 3" in said.out


def test_empty_lines_before_the_header_and_commas_in_a_tsv_are_read(sources: Path) -> None:
    assert len(table("\n\nimage,question,answer\n0.jpg,W?,a\n")) == 1
    Path("t.tsv").write_text("image,question,answer\n0.jpg,W?,a\n")
    assert main(["table", "t.tsv", *TABLE[2:]]) == 0


def test_a_file_of_utf16_is_called_so_and_its_rows_are_looked_at(
    sources: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("t.json").write_text("[1, 2]", encoding="utf-16")
    for words, said in (
        (["check", "t.json"], "iconv -f UTF-16 -t UTF-8"),
        (["table", "t.json", *TABLE[2:]], "entry 1: expected an object {...}, found a number"),
    ):
        assert said in told(words, capsys)[1]


@pytest.mark.parametrize(
    "words",
    [
        ["mix", "broken.json", "--output", "broken.json"],
        ["split", "broken.json", "--parts", "broken=0.5", "test=0.5", "--output-dir", "."],
        ["boxes", "broken.json", "--images", "photos", "--to", "square", "--output", "./photos/../broken.json"],
        ["hf", "broken.json", "--output", "broken.json"],
        ["check", "broken.json", "--html", "broken.json"],
        ["check", "broken.json", "--test", "qwen-boxes.json", "--fix", "qwen-boxes.json"],
    ],
)
def test_no_command_writes_over_what_it_reads(
    words: list[str], sources: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {name: Path(name).read_bytes() for name in ("broken.json", "qwen-boxes.json")}
    status, error = told(words, capsys)
    assert status == 2 and "is a file that is read, and would be replaced" in error
    assert {name: Path(name).read_bytes() for name in before} == before


def test_a_part_without_a_record_is_told_before_anything_is_written(
    sources: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("one.json").write_text(json.dumps([record("a", "0.jpg"), record("b", "./0.jpg")]))
    words = ["split", "one.json", "--parts", "train=0.9", "test=0.1", "--output-dir", "out"]
    status, error = told(words, capsys)
    assert status == 1 and "2 records, 1 when those of one picture stay together: none falls to test=0.1" in error
    assert not Path("out").exists()
    Path("one.json").write_text(json.dumps([record("a", "0.jpg"), {"id": "b", "conversations": ["x"]}]))
    assert 'record "b": conversations[0]: expected an object' in told([*words, "--stratify", "answer"], capsys)[1]
    assert told([*words, "--images", "nosuch"], capsys)[0] == 2
    assert told(["split", "one.json", "--parts", "a=0.5", "a.meta=0.5", "--output-dir", "out"], capsys)[0] == 2


def test_a_mixture_has_a_bound(sources: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, error = told(["mix", "broken.json=999999", "broken.json=999999e2", "--output", "o.json"], capsys)
    assert status == 2 and not Path("o.json").exists()
    status, error = told(["mix", *["broken.json=999999"] * 40, "--output", "o.json"], capsys)
    assert status == 2 and "records are asked for, at most 100,000,000 are mixed" in error


def test_a_pattern_of_names_has_a_place_for_the_number(sources: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["--questions", "questions.json", "--annotations", "annotations.json", "--images", "coco"]
    require_place("{:s}.jpg")  # for ids that are texts
    for pattern in ("0.jpg", "{0.real}.jpg", "{}{", "{:0999999999d}.jpg"):
        status, error = told(["okvqa", *asked, "--output", "o.json", "--image-name", pattern], capsys)
        assert status == 2 and "write {} where the picture's number goes" in error


def test_pictures_that_heic_wrote_below_its_folder_are_no_originals(sources: Path) -> None:
    for _ in range(2):
        assert main(["heic", "photos", "--output-dir", "photos/jpeg"]) == 0
    assert not Path("photos/jpeg/jpeg").exists()
    assert main(["heic", "photos/jpeg", "--output-dir", "photos"]) == 0


@pytest.mark.parametrize(
    "text",
    ["image,caption,notes\n0.jpg,a dog,keep me\n", "my only notes\n", "image,caption\ngone.jpg,a cat\n"],
)
def test_a_template_replaces_nothing_but_itself(text: str, sources: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("t.csv").write_text(text)
    status, error = told(["captions-template", "photos", "--train", "t.csv"], capsys)
    assert status == 1 and "lost" in error
    assert Path("t.csv").read_text() == text


@pytest.mark.parametrize(
    "text",
    [
        "image,caption,\n0.jpg,a dog,\n", "image\tcaption\n", "image,caption\n,\n", "image;caption;;\n0.jpg;a dog;;\n",
        "sep=;\nimage;caption\n", "caption,notes,image\na dog,,0.jpg\n",
    ],
)  # fmt: skip
def test_a_template_is_known_again_as_spreadsheets_save_it(text: str, sources: Path) -> None:
    Path("t.csv").write_text(text)
    assert main(["captions-template", "photos", "--train", "t.csv"]) == 0
    assert ("0.jpg,a dog\n" in Path("t.csv").read_text()) == ("a dog" in text)


@pytest.mark.parametrize("header", ["image,caption,,", "image,caption,caption,"])
def test_a_template_loses_no_cell_without_a_name(
    header: str, sources: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("t.csv").write_text(f"{header}\n0.jpg,a dog,keep me,\n")
    assert told(["captions-template", "photos", "--train", "t.csv"], capsys)[0] == 1
    assert "keep me" in Path("t.csv").read_text()


def test_a_template_looks_at_all_names_a_few_times_and_not_for_each_caption(
    sources: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = []

    class Names(list[str]):
        def __iter__(self) -> Iterator[str]:
            looks.append(1)
            return super().__iter__()

    names = Names(f"{number}.jpg" for number in range(50))
    monkeypatch.setattr(captions_template, "pictures_below", lambda folder: names)
    Path("t.csv").write_text("image,caption\n" + "".join(f"{name},a\n" for name in names))
    assert main(["captions-template", "photos", "--train", "t.csv"]) == 0
    assert len(looks) < 10


def test_a_tsv_of_one_column_keeps_its_commas(sources: Path) -> None:
    for text, delimiter in (("caption\na dog, a cat\n", "\t"), ("caption;b\na dog, a cat;\n", "\t")):
        Path("t.tsv").write_text(text)
        assert [row["caption"] for _, row in delimited_rows(Path("t.tsv"), delimiter)] == ["a dog, a cat"]


def test_a_split_says_what_helps_where_pictures_are_too_few(sources: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("r.json").write_text(json.dumps([record("a", "0.jpg"), record("b", "0.jpg")]))
    status, error = told(["split", "r.json", "--parts", "train=0.5", "test=0.5", "--output-dir", "s"], capsys)
    assert status == 1 and "2 parts need as many pictures: add some, or name fewer parts" in error
    assert "larger" not in error


def test_messages_name_their_pictures_by_addresses_of_files_and_in_other_spellings(sources: Path) -> None:
    names = [
        f"file://{sources}/photos/0.jpg",
        "file://photos/1.jpg",
        "photos\\2.jpg",
        "photos/3.JPG",
        "./photos//4.jpg",
    ]
    text = {"type": "text", "text": "W?"}
    said = [[{"type": "image_url", "image_url": name}, text] for name in names]
    answer = {"role": "assistant", "content": "a"}
    rows: list[dict[str, Any]] = [{"messages": [{"role": "User", "content": one}, answer]} for one in said]
    rows.append({"messages": [{"role": "user", "content": "W?"}, answer], "images": [{"bytes": None, "path": None}]})
    Path("m.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main(["hf", "m.jsonl", "--output", "o.json", "--check", "none"]) == 0
    made = [one.get("image") for one in read_records("o.json")]
    assert made == [*(f"photos/{number}.jpg" for number in range(5)), None]
    outside = [{"type": "image", "image": "file:///etc/hostname"}, text]
    Path("m.jsonl").write_text(json.dumps({"messages": [{"role": "user", "content": outside}, answer]}))
    assert main(["hf", "m.jsonl", "--output", "p.json", "--check", "none"]) == 1


def test_rows_without_their_turns_and_texts_of_any_depth_are_dropped_or_kept_as_texts(
    sources: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = {"conversations": [{"from": "human", "value": "<image>W?"}, {"from": "gpt", "value": "a"}]}
    call = {"function": {"name": "f", "arguments": "[" * 5000}}
    calls = [{"role": "user", "content": "<image>W?"}, {"role": "assistant", "content": None, "tool_calls": [call]}]
    for row, more in ((whole, {"more": "[" * 5000}), ({"messages": calls}, {})):
        rows = [{**row, **more, "image": "photos/0.jpg"}, {"image": "photos/1.jpg"}]
        Path("m.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows))
        assert told(["hf", "m.jsonl", "--output", "o.json", "--allow-drops", "1", "--check", "none"], capsys)[0] == 0
        assert len(read_records("o.json")) == 1
    assert isinstance(turns_of('{"description": ' + "9" * 5000 + "}", "detail", "stop", "W?"), Invalid)
    assert isinstance(turns_of('{"a": ' + "[" * 50_000, "detail", "stop", "W?"), Invalid)


def test_a_row_of_several_questions_is_together_already(sources: Path) -> None:
    Path("m.jsonl").write_text('{"image": "photos/0.jpg", "question": ["A?", "B?"], "answer": ["a", "b"]}\n')
    assert main(["hf", "m.jsonl", "--output", "o.json", "--merge-by-image", "--check", "none"]) == 0
    assert len(read_records("o.json")[0]["conversations"]) == 4


def test_a_pipe_named_as_a_table_is_not_waited_for(sources: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("d").mkdir()
    os.mkfifo("d/a.parquet")
    assert told(["hf", "d", "--output", "o.json"], capsys)[0] == 1


def test_a_prediction_with_odd_answers_is_dropped_and_the_others_stay(sources: Path) -> None:
    rows = [json.loads(line) for line in Path("predictions.jsonl").read_text().splitlines()]
    Path("p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*rows, {**rows[0], "answers": 5}]))
    words = ["preferences", "p.jsonl", "--images", "photos", "--output", "o.json", "--check", "none"]
    assert main([*words, "--allow-drops", "1"]) == 0
    assert len(read_records("o.json")) == 2


@pytest.mark.parametrize(
    ("role", "value", "after"),
    [("GPT", "a", "a"), ("Assistant", 3.0, "3"), ("gpt", 2.5, "2.5"), ("gpt", float("nan"), None)],
)
def test_roles_in_capitals_and_numbers_are_mended_as_a_person_writes_them(
    role: str, value: Any, after: str | None
) -> None:
    turns = [{"from": "Human", "value": "<image>\nW?"}, {"from": role, "value": value}]
    mended = mend({"id": "a", "image": "0.jpg", "conversations": turns}, 0)
    if isinstance(mended, str):
        assert after is None and mended == "text not a string"
    else:
        assert mended[0]["conversations"][1] == {"from": "gpt", "value": after}


def test_the_check_counts_records_and_says_how_many_it_shows(sources: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("photos/cut.jpg").write_bytes(Path("photos/0.jpg").read_bytes()[:600])
    some = [record("x" * 9000, "cut.jpg"), record("b", "cut.jpg", answer="a cat")]
    some += [record(f"g{number}", f"gone{number}.jpg") for number in range(6)]
    Path("r.json").write_text(json.dumps(some))
    assert main(["check", "r.json", "--images", "photos", "--html", "c.html"]) == 1
    said = capsys.readouterr().out
    assert "8 records, 0 of 7 pictures decoded" in said
    assert "2  image truncated" in said and "drop the record (in 2 records)" in said
    assert "... the first 3 of 6" in said and len(said) < 5000
    page = Path("c.html").read_text()
    assert "the first 5 of 6" in page and len(page) < 20_000
    assert main(["check", "r.json"]) == 0
    assert "7 pictures named" in capsys.readouterr().out


def test_the_check_counts_a_picture_of_several_records_once_where_it_lists(
    sources: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    some = [record(f"{number}", f"gone{number % 5}.jpg", answer=f"a {number}") for number in range(10)]
    for records, pictures in ((some, 5), ([*some[:3], *some[5:8]], 3)):
        Path("r.json").write_text(json.dumps(records))
        for _ in range(2):  # the second from the cache
            words = ["--images", "photos", "--cache-dir", "cache", "--html", "c.html"]
            assert main(["check", "r.json", *words]) == 1
            said = capsys.readouterr().out
            assert ("... the first 3 of 5" in said) == (pictures == 5) and said.count("the first") == pictures // 5
            assert "the first" not in Path("c.html").read_text()


def test_the_ways_of_drawing_what_is_absent_come_equally_often(sources: Path) -> None:
    some = [record(str(number), f"{number}.jpg", answer=f"thing{number}") for number in range(400)]
    Path("r.json").write_text(json.dumps(some))
    assert main(["probes", "r.json", "--output", "o.json", "--check", "none"]) == 0
    by_kind = Counter(one["question_type"] for one in read_records("o.json"))
    assert by_kind.total() == 800 and max(by_kind.values()) - min(by_kind.values()) <= 2


def test_probes_take_time_that_grows_with_the_records(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presence, "MOST_NEIGHBOURS", 20)

    def seconds(pictures: int) -> float:
        """Of the processor, for 200 probes of each kind among pictures of three things, two of them everywhere."""
        album = Album()
        for number in range(pictures):
            for thing in ("table", "floor", f"thing{number}"):
                album.take(f"{number}.jpg", Fact(None, thing, ("thing",), ""))

        def ask(number: int) -> None:
            name = f"{number}.jpg"
            for sampling in SAMPLINGS:
                assert album.absent(name, album.pictures[name].facts[0], sampling, random.Random(0), set())

        ask(0)  # what is sorted once
        begin = time.process_time()
        for number in range(200):
            ask(number)
        return time.process_time() - begin

    few = min(seconds(1000) for _ in range(3))
    assert min(seconds(16_000) for _ in range(2)) < 6 * few  # with all holders looked at: 16 times and more


def test_a_sheet_that_is_hidden_is_passed_over_and_formulas_without_values_are_named(
    sources: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    book = openpyxl.Workbook()
    book.active.append(["image", "question", "answer"])
    book.active.append(["0.jpg", "W?", "of the hidden sheet"])
    book.active.sheet_state = "hidden"
    for name, answer in (("real", 0.256), ("formulas", "=1+1")):
        sheet = book.create_sheet(name)
        sheet.append(["image", "question", "answer"])
        sheet.append(["0.jpg", "W?", answer])
        sheet.cell(1, 16_384).value = " "  # a stray cell far right
    book["real"]["C2"].number_format = "0.0 %;-0.0 %"
    book.active = 1
    book.save("x.xlsx")
    words = ["table", "x.xlsx", *TABLE[2:]]
    assert main(words) == 0
    assert answers(list(read_records("o.json"))) == ["25.6%"]
    assert 'the sheet "real" is read; others with --sheet: formulas' in capsys.readouterr().out
    assert main([*words, "--sheet", "formulas"]) == 1
    assert "the formulas of answer have no values; open the file in Excel" in capsys.readouterr().out
    words = ["generate", "--captions", "x.xlsx", "--images", "photos", "--model", "m", "--output", "g.json"]
    assert "fault of" not in told(words, capsys)[1]
    assert list(read_rows(Path("x.xlsx"), Reading(option="")))
    assert 'the sheet "real" is read; not formulas; move the one you mean to the front' in capsys.readouterr().out


def test_empty_columns_of_a_sheet_are_no_riddle(sources: Path, capsys: pytest.CaptureFixture[str]) -> None:
    book = openpyxl.Workbook()
    for row in (["image", "question", "answer", "notes", "split"], ["0.jpg", "W?", "a", None, None]):
        book.active.append(row)
    book.save("x.xlsx")
    assert main(["table", "x.xlsx", *TABLE[2:]]) == 0
    assert "x.xlsx" not in capsys.readouterr().out


def test_names_of_files_are_tried_as_they_stand_before_others_are_sought(sources: Path) -> None:
    raw = Path("photos/0.jpg").read_bytes()
    Path("s").mkdir()
    for name in ("1.jpg", "1.jpeg", "50%25.jpg"):
        Path("s", name).write_bytes(raw + name.encode())
    rows = [{"image": name, "question": "W?", "answer": "a"} for name in ("s\\1.jpg", "file://s/50%25.jpg")]
    Path("m.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main(["hf", "m.jsonl", "--output", "o.json", "--images", "i", "--check", "none"]) == 0
    made = [Path("i", one["image"]).read_bytes() for one in read_records("o.json")]
    assert made == [raw + b"1.jpg", raw + b"50%25.jpg"]


def test_an_annotation_whose_image_id_is_none_is_dropped_and_counted(sources: Path) -> None:
    images = [{"id": 1, "file_name": "0.jpg", "width": 80, "height": 60}]
    rows = [{"image_id": n, "caption": "a", "category_id": 1, "bbox": [1, 2, 20, 20]} for n in (1, True, "", [1])]
    whole = {"images": images, "annotations": rows, "categories": [{"id": 1, "name": "dog"}]}
    Path("c.json").write_text(json.dumps(whole))
    for command in ("captions", "coco-boxes"):
        words = [command, "c.json", "--images", "photos", "--output", "o.json", "--check", "none"]
        assert main([*words, "--allow-drops", "1"]) == 0
        assert json.loads(Path("o.meta.json").read_text())["counts"]["dropped"] == {"no image named": 3}


def test_coco_s_pictures_are_found_by_the_paths_of_other_machines_and_ids_may_be_whole_floats(
    sources: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ["photos\\0.jpg", "C:\\d\\photos\\1.jpg", "D:\\train\\2.jpg", "3.JPG", "/data/x/4.jpg"]
    images = [{"id": float(n), "file_name": name, "width": 80, "height": 60} for n, name in enumerate(names)]
    told_of = [{"image_id": n, "caption": "a", "category_id": 1.0, "bbox": [1, 2, 20, 20]} for n in range(5)]
    whole = {"images": images, "annotations": told_of, "categories": [{"id": 1, "name": "dog"}]}
    Path("c.json").write_text(json.dumps(whole))
    for command in ("captions", "coco-boxes"):
        assert main([command, "c.json", "--images", "photos", "--output", "o.json", "--check", "none"]) == 0
        assert [one["image"] for one in read_records("o.json")] == [f"{n}.jpg" for n in range(5)]
        said = capsys.readouterr().out
        assert " names are read as the files that fit them, the first: '/data/x/4.jpg' -> '4.jpg'" in said
    words = ["generate", "--captions", "c.json", "--boxes", "c.json", "--images", "photos", "--model", "m"]
    assert main([*words, "--output", "g.json"]) == 0
    said = capsys.readouterr().out
    assert "15 requests about 5 pictures" in said and "5 names are read as the files that fit them" in said
    whole["images"][0]["id"] = 0.5
    Path("c.json").write_text(json.dumps(whole))
    assert (
        '"id" is a whole number or a text, found 0.5'
        in told(["captions", "c.json", "--images", "photos", "--output", "o.json"], capsys)[1]
    )


def test_classes_of_yolo_may_be_written_as_floats(sources: Path) -> None:
    Path("labels/0.txt").write_text("0.000000 0.35 0.35 0.5 0.5\n")
    words = ["yolo", "labels", "--names", "classes.txt", "--images", "photos", "--output", "o.json", "--check", "none"]
    assert main(words) == 0
    assert read_records("o.json")[0]["conversations"][0]["value"] == "<image>\nWhere is the dog?"


@pytest.mark.parametrize("value", [1e30, -1e30, 0.0, 3.4e38])
def test_a_picture_of_one_value_far_from_every_scale_is_read(value: float, tmp_path: Path) -> None:
    Image.new("F", (9, 9), value).save(tmp_path / "a.tif")
    assert open_image(tmp_path / "a.tif").size == (9, 9)


@pytest.mark.parametrize("kind", ["jpg", "png", "webp", "tif"])
def test_sizes_are_those_of_the_upright_picture_whatever_holds_the_orientation(kind: str, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    more: dict[str, Any] = {"tiffinfo": {0x0112: 6}} if kind == "tif" else {"exif": exif}
    Image.new("RGB", (60, 40), (200, 30, 40)).save(tmp_path / f"a.{kind}", **more)
    assert stored_size(tmp_path / f"a.{kind}") == ((60, 40), 6)
    facts = inspect_picture(str(tmp_path), f"a.{kind}")
    assert (facts.width, facts.height) == (40, 60) == open_image(tmp_path / f"a.{kind}").size and facts.turned


def test_a_colour_that_a_png_names_as_transparent_is_white(tmp_path: Path) -> None:
    Image.new("RGB", (9, 9), (200, 30, 40)).save(tmp_path / "a.png", transparency=(200, 30, 40))
    assert open_image(tmp_path / "a.png").getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize("usage", [None, {"prompt_tokens": None, "completion_tokens": "x"}, {"prompt_tokens": -5}])
@pytest.mark.parametrize("message", [None, {"content": [1]}, {"content": None}])
def test_an_endpoint_may_answer_anything(usage: Any, message: Any, sources: Path) -> None:
    def created(**_: Any) -> Any:
        said = SimpleNamespace(**message) if message else None
        choice = SimpleNamespace(message=said, finish_reason=None)
        counted = SimpleNamespace(**usage) if usage else None

        async def answer() -> Any:
            return SimpleNamespace(choices=[choice], usage=counted)

        return answer()

    endpoint = Endpoint("http://127.0.0.1:9/v1", "m", None)
    endpoint._client = SimpleNamespace(chat=SimpleNamespace(completions=SimpleNamespace(create=created)))
    try:
        reply = asyncio.run(endpoint.ask([]))
    except NotNow:
        assert message is None or message["content"] == [1]
    else:
        assert (reply.text, reply.tokens_in, reply.tokens_out) == ("", 0, 0)


@pytest.mark.parametrize(
    ("address", "key", "said"),
    [
        ("http://x:abc", None, "no address"),
        ("localhost:8000", None, "does not begin with http"),
        ("http://127.0.0.1:9/v1", "sk-1\r", "the key: holds a character"),
    ],
)
def test_what_is_no_address_and_no_key_is_told_at_once(address: str, key: str | None, said: str) -> None:
    with pytest.raises(DataError, match=said):
        Endpoint(address, "m", key)


def test_boxes_are_read_in_time_that_grows_with_the_text() -> None:
    begin = time.monotonic()
    for text, boxes in (("<box>" * 20_000, 0), ("<|box_start|>" * 20_000, 0), ("<box>(1,2),(3,4)</box>" * 5000, 5000)):
        assert len(read_boxes(text).boxes) == boxes
    assert time.monotonic() - begin < 20  # 0.9 s here; with the square it was minutes
    assert read_boxes("<box><box>(1,2),(3,4)</box>").unread == ("<box>",)


def test_the_texts_of_label_files_are_not_held_together(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / f"{name}.txt").write_text("0 0.5 0.5 0.1 0.1")
    labels = iter(read_labels(tmp_path))
    assert next(labels).text
    (tmp_path / "b.txt").write_text("")  # not read yet
    assert not next(labels).text
