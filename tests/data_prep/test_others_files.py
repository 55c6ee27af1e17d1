"""What others' exports look like, in small: each comes through whole, or is refused in a line that helps."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from data_prep.__main__ import main
from data_prep.check.run import check_records
from data_prep.errors import PictureError
from data_prep.records.picture import open_image
from data_prep.records.record import Records, read_records
from tests.data_prep.conftest import record

TABLE = ["--images", "photos", "--output", "r.json"]


def converted(*words: str, status: int = 0) -> list[dict[str, Any]]:
    assert main(list(words)) == status
    return list(read_records("r.json"))


def texts(records: list[dict[str, Any]]) -> list[tuple[Any, str, str]]:
    return [(one["image"], *(turn["value"] for turn in one["conversations"])) for one in records]


def error_of(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line that a refused command says."""
    capsys.readouterr()
    try:
        status = main(words)
    except SystemExit as end:
        status = int(end.code or 0)
    said = capsys.readouterr().err.strip()
    assert status in (1, 2) and len(said.splitlines()) == 1, said
    return said


def test_a_picture_merged_over_several_rows_of_excel_is_each_rows(
    sources: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import openpyxl

    book = openpyxl.Workbook()
    for row in (
        ["Our pets", None, None],
        ["image", "question", "answer"],
        ["0.jpg", "What?", "a dog"],
        [None, "Where?", "here"],
        [None, None, None],
        ["1.jpg", "What?", "a cat"],
        [None, "Who?", "Tom"],
    ):
        book.active.append(row)
    for cells in ("A1:C1", "A3:A5", "A6:A7"):
        book.active.merge_cells(cells)
    book.save("t.xlsx")
    assert [(image, answer) for image, _, answer in texts(converted("table", "t.xlsx", *TABLE))] == [
        ("0.jpg", "a dog"), ("0.jpg", "here"), ("1.jpg", "a cat"), ("1.jpg", "Tom")
    ]  # fmt: skip
    assert "2 cells are merged over several rows" in capsys.readouterr().out


def test_nan_in_a_table_is_empty_and_counted(sources: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("t.csv").write_text(
        "image_1,image_2,question,answer\n0.jpg,NaN,W?,a dog\n1.jpg,2.jpg,W?,nan\n3.jpg,nan,W?,Nan\n"
    )
    found = converted("table", "t.csv", "--allow-drops", "0.5", *TABLE)
    assert [(one["image"], one["conversations"][1]["value"]) for one in found] == [("0.jpg", "a dog"), ("3.jpg", "Nan")]
    said = capsys.readouterr().out
    assert "are read as empty (image_2 2, answer 1); where nan is meant, say --keep-nan" in said
    Path("t.jsonl").write_text('{"image": "0.jpg", "question": "W?", "answer": "nan"}\n')
    assert [answer for _, _, answer in texts(converted("table", "t.jsonl", *TABLE))] == ["nan"]


def test_an_answer_nan_is_a_finding(sources: Path) -> None:
    Path("r.json").write_text(
        json.dumps([record("a", "0.jpg", answer="nan"), record("b", "1.jpg", answer="Nan bread")])
    )
    report = check_records("r.json", None)
    assert report.by_kind["answer is nan"].count == 1 and report.ok


@pytest.mark.parametrize("title", ["My pets\n", "My pets,,\n\n", '"My pets, 2024"\nexported on Monday\n'])
def test_a_title_above_the_header_of_a_csv_is_passed_over(
    title: str, sources: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("t.csv").write_text(f"{title}image,question,answer\n0.jpg,W?,a dog\n")
    assert [answer for _, _, answer in texts(converted("table", "t.csv", *TABLE))] == ["a dog"]
    assert f"the columns are named in line {title.count(chr(10)) + 1}" in capsys.readouterr().out


def test_a_title_of_several_cells_is_named_as_what_may_be_wrong(
    sources: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("t.csv").write_text("My pets, 2024\nimage,question,answer\n0.jpg,W?,a dog\n")
    assert "or delete what stands above the columns' names" in error_of(["table", "t.csv", *TABLE], capsys)


@pytest.mark.parametrize("other", ["train.csv", "test.csv"])
def test_two_captions_of_one_picture_are_not_chosen_from_in_silence(
    other: str, sources: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("train.csv").write_text("image,caption\n0.jpg,a dog\n0.jpg,\n0.jpg,a dog \n")
    Path("test.csv").write_text("image,caption\n")
    words = ["captions-template", "photos", "--train", "train.csv", "--test", "test.csv"]
    assert main(words) == 0
    files = {name: Path(name).read_text() for name in ("train.csv", "test.csv")}
    assert any("0.jpg,a dog\n" in text for text in files.values())
    with Path(other).open("a") as stream:
        stream.write("0.jpg,a cat\n" * (2 if "0.jpg" not in files[other] else 1))
    before = Path(other).read_text()
    assert "a second caption of 0.jpg" in error_of(words, capsys)
    assert Path(other).read_text() == before


@pytest.mark.parametrize("strips", [None, 4])
def test_ycbcr_without_compression_is_called_so(strips: int | None, tmp_path: Path) -> None:
    image = Image.effect_noise((64, 48), 50).convert("RGB").convert("YCbCr")
    more = {"strip_size": 64 * 3 * strips} if strips else {}
    image.save(tmp_path / "a.tif", compression="raw", **more)
    with pytest.raises(PictureError, match="a TIFF of YCbCr colours without compression"):
        open_image(tmp_path / "a.tif")
    image.save(tmp_path / "b.tif", compression="tiff_lzw")
    assert open_image(tmp_path / "b.tif").size == (64, 48)


@pytest.mark.parametrize("content", [None, "", " \n", []])
@pytest.mark.parametrize("key", ["messages", "conversations"])
def test_a_question_that_is_null_is_no_question(key: str, content: object, sources: Path) -> None:
    turn = ("role", "content") if key == "messages" else ("from", "value")
    rows = [
        {"images": [f"photos/{number}.jpg"], key: [dict(zip(turn, ("user", asked), strict=True)),
                                                   dict(zip(turn, ("assistant", "a dog"), strict=True))]}
        for number, asked in enumerate(["What?", content])
    ]  # fmt: skip
    Path("t.json").write_text(json.dumps(rows))
    found = converted("hf", "t.json", "--output", "r.json", status=1)
    assert texts(found) == [("photos/0.jpg", "<image>\nWhat?", "a dog")]


@pytest.mark.parametrize("command", ["table t.csv", "check r.json", "easy-vqa", "hf x", "split r.json"])
def test_a_slip_in_a_flag_is_one_line_that_names_the_near_one(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    flag = "--check" if command.startswith(("table", "easy", "hf")) else "--images"
    slip = flag.replace("c", "x", 1) if "check" in flag else "--imagse"
    kind = command.split()[0]
    said = error_of([*command.split(), slip, "full"], capsys)
    end = f"; its flags: python -m data_prep {kind} --help"
    assert said == f"python -m data_prep {kind}: error: no flag {slip}, did you mean {flag}?{end}"


def test_the_parts_of_a_split_are_read_once(sources: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from data_prep.check.run import check_together

    for name, images in (("a", "01"), ("b", "23"), ("c", "14")):
        Path(f"{name}.json").write_text(json.dumps([record(f"{name}{n}", f"{n}.jpg") for n in images]))
    reads: list[tuple[str, int]] = []
    text = Records.text
    monkeypatch.setattr(Records, "text", lambda self, n: (reads.append((self.path.name, n)), text(self, n))[1])
    first, *others = check_together([Path(f"{name}.json") for name in "abc"])
    assert len(set(reads)) == 6 and len(reads) == 7, "once more to name the record of the finding"
    assert first.by_kind["picture in train and test"].count == 1 and not first.ok and all(one.ok for one in others)


def turns(question: object, answer: object, **more: object) -> list[dict[str, object]]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer, **more}]


def told(role: str, **more: Any) -> list[dict[str, Any]]:
    return [{"from": "human", "value": "Q"}, {"from": role, "value": "no", **more}]


ASKED: dict[str, dict[str, Any]] = {
    "a history that is none": {"query": "<img>photos/0.jpg</img>\nWhat?", "response": "a dog", "history": 5},
    "TRL's prompt and completion": {"images": ["photos/0.jpg"], "prompt": turns("What?", "")[:1],
                                    "completion": turns("", "a dog")[1:]},
    "prompt and completion as texts": {"image": "photos/0.jpg", "prompt": "What?", "completion": "a dog"},
    "PaliGemma of Roboflow": {"image": "photos/0.jpg", "prefix": "What?", "suffix": "a dog"},
    "ChartQA": {"imgname": "photos/0.jpg", "query": "What?", "label": "a dog"},
    "Qwen-VL's names in the text": {"conversations": [{"from": "user", "value": "<img>photos/0.jpg</img>\nWhat?"},
                                                      {"from": "assistant", "value": "a dog"}]},
    "ms-swift's names in the query": {"query": "<img>photos/0.jpg</img>\nWhat?", "response": "a dog"},
    "items": {"image": "photos/0.jpg", "items": [{"from": "human", "value": "What?"},
                                                 {"from": "gpt", "value": "a dog"}]},
    "Gemini": {"contents": [{"role": "user", "parts": [{"inlineData": {"mimeType": "image/jpeg", "data": "PICTURE"}},
                                                       {"text": "What?"}]},
                            {"role": "model", "parts": [{"text": "a dog"}]}]},
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(ASKED))
def test_a_row_of_another_tool_is_the_same_question(name: str, sources: Path) -> None:
    picture = base64.b64encode(Path("photos/0.jpg").read_bytes()).decode()
    Path("t.jsonl").write_text(json.dumps(ASKED[name]).replace("PICTURE", picture) + "\n")
    assert [one[1:] for one in texts(converted("hf", "t.jsonl", "--output", "r.json"))] == [("<image>\nWhat?", "a dog")]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"images": ["photos/0.jpg"], "messages": turns("Where?", "<bbox>"), "objects": {"bbox": [[1, 2, 3, 4]]}},
         '<bbox> stands for a value under "objects"'),
        ({"images": ["photos/0.jpg"], "messages": turns("Q", "no", weight=0)}, "an answer with weight 0"),
        ({"images": ["photos/0.jpg"], "messages": turns("Q", "no", loss=False)}, "an answer with loss false"),
        ({"image": "photos/0.jpg", "conversations": told("gpt", train=False)}, "an answer with train false"),
        ({"image": "photos/0.jpg", "conversations": told("function_call", weight=0)}, "an answer with weight 0"),
        ({"id": 1, "data": {"image": "a.jpg"}, "annotations": []}, "Label Studio's own JSON; export it"),
        ({"custom_id": "1", "url": "/v1", "body": {}}, "requests of OpenAI's batches"),
        ({"input": [{"role": "user"}], "thread": 1}, "no layout that is read"),
    ],
)  # fmt: skip
def test_what_a_record_cannot_say_is_not_taught(
    row: dict[str, Any], said: str, sources: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("t.jsonl").write_text(json.dumps(row) + "\n")
    capsys.readouterr()
    assert main(["hf", "t.jsonl", "--output", "r.json"]) == 1
    assert said in capsys.readouterr().err and not Path("r.json").exists()


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        (
            "t.csv",
            "0.jpg,What?,a dog\n1.jpg,What?,a cat\n",
            "put a line with their names above it, such as image,quest",
        ),
        ("t.token", "0.jpg#0\ta dog\n", "rename it to .csv or .tsv"),
        ("t.json", '{"pets": {"file_name": "p.json", "columns": {}}}', "give the file that it names, 'p.json'"),
        (
            "t.json",
            '{"train": [{"image": "0.jpg"}], "test": [{"image": "1.jpg"}]}',
            'no list "dev"; there are train (1)',
        ),
    ],
)
def test_a_table_that_is_none_says_what_to_do(
    name: str, text: str, said: str, sources: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path(name).write_text(text)
    assert said in error_of(["table", name, *TABLE, *(["--sheet", "dev"] if "dev" in said else [])], capsys)


def test_names_in_answers_are_no_pictures(sources: Path) -> None:
    from data_prep.hf.layouts import names_in_questions

    asked, answer = told("gpt")
    row = {"conversations": [{**asked, "value": "<img>a.jpg</img> Q"}, {**answer, "value": "write <img>b.jpg</img>"}]}
    assert list(names_in_questions(row, "conversations")) == ["a.jpg"]


def test_rows_of_pictures_alone_are_told_what_to_do(sources: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("p.jsonl").write_text('{"image": "photos/0.jpg"}\n')
    said = error_of(["hf", "p.jsonl", "--output", "r.json"], capsys)
    assert said.endswith("pictures alone; give a table with a column caption")


def test_archives_and_folders_of_pictures_alone_are_told_what_to_do(
    sources: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("p.zip", "shard-000.tar"):
        Path(name).write_bytes(b"PK\3\4")
    assert "give the folder that it lies in" in error_of(["hf", "shard-000.tar", "--output", "r.json"], capsys)
    assert "unpack it and give the folder" in error_of(["hf", "p.zip", "--output", "r.json"], capsys)
    said = error_of(["table", "table.csv", "--images", "p.zip", "--output", "r.json"], capsys)
    assert "p.zip: a file, expected the folder with the pictures" in said


def test_one_split_of_a_file_is_taken_or_refused_and_a_mixture_is_told(
    sources: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"image": f"photos/{n}.jpg", "question": "Q", "answer": f"a{n}"} for n in range(3)]
    Path("t.json").write_text(json.dumps({"train": rows[:2], "test": rows[2:]}))
    assert len(converted("hf", "t.json", "--output", "r.json")) == 2
    assert 'the list "train" is read, of train (2), test (1)' in capsys.readouterr().out
    named = [{**row, "split": name} for row, name in zip(rows, ("train", "Test", "train"), strict=True)]
    Path("t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in named))
    assert [one["image"] for one in converted("hf", "t.jsonl", "--split", "test", "--output", "r.json")] == [
        "photos/1.jpg"
    ]
    assert len(converted("table", "t.jsonl", "--images", ".", "--output", "r.json")) == 3
    assert "rows of several splits are taken (train 2, test 1)" in capsys.readouterr().out
    assert "no row of the split" in error_of(["hf", "t.jsonl", "--split", "val", "--output", "r.json"], capsys)
    Path("t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert "leave --split out" in error_of(["hf", "t.jsonl", "--split", "test", "--output", "r.json"], capsys)


def rows_of(*splits: str | None) -> list[dict[str, Any]]:
    return [
        {"image": f"photos/{n}.jpg", "question": "Q", "answer": f"a{n}", **({} if split is None else {"split": split})}
        for n, split in enumerate(splits)
    ]


@pytest.mark.parametrize(
    ("key", "said"), [("", "leave --split out"), ("data", "leave --split out"), ("train", "there are train")]
)
def test_a_split_that_nothing_names_is_refused(
    key: str, said: str, sources: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = rows_of(None, None)
    Path("l.json").write_text(json.dumps({key: rows} if key else rows))
    assert said in error_of(["hf", "l.json", "--split", "test", "--output", "r.json"], capsys)
    assert len(converted("hf", "l.json", "--split", "train", "--output", "r.json")) == 2


@pytest.mark.parametrize("name", ["t.jsonl", "t.csv", "t.xlsx", "two.json"])
def test_a_row_is_of_the_split_that_its_column_says_whatever_the_word(
    name: str, sources: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = rows_of("Test", "restval", "", "test_dev", "train")
    if name == "t.jsonl":
        Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif name == "two.json":
        Path(name).write_text(json.dumps({"rows": rows, "licenses": [{"id": 1}]}))
        words = ["hf", name, "--split", "test", "--output", "r.json"]
        assert "name the one to read with --sheet" in error_of(words, capsys)
    else:
        lines = [list(rows[0]), *(list(row.values()) for row in rows)]
        as_csv(lines) if name == "t.csv" else as_book({"Sheet": lines}, name)
    more = ["--sheet", "rows"] if name == "two.json" else []
    for split, taken in (("test", ["a0"]), ("restval", ["a1"])):
        found = converted("hf", name, "--split", split, *more, "--output", "r.json")
        assert [answer for _, _, answer in texts(found)] == taken
        assert "rows whose split is empty are left out (1)" in capsys.readouterr().out


def as_csv(lines: list[list[str]]) -> None:
    Path("t.csv").write_text("".join(",".join(line) + "\n" for line in lines))


def as_book(sheets: dict[str, list[list[str]]], name: str) -> None:
    import openpyxl

    book = openpyxl.Workbook()
    book.remove(book.active)
    for title, lines in sheets.items():
        sheet = book.create_sheet(title)
        for line in lines:
            sheet.append(line)
    book.save(name)


def test_a_split_may_be_a_sheet_and_a_column_of_objects_is_no_list(
    sources: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = rows_of(None, None, None)
    lines = [list(rows[0]), *(list(row.values()) for row in rows)]
    as_book({"train": lines[:2], "Test": [lines[0], *lines[2:]]}, "t.xlsx")
    assert len(converted("hf", "t.xlsx", "--split", "test", "--output", "r.json")) == 2
    assert "leave --split out" in error_of(["hf", "t.xlsx", "--split", "dev", "--output", "r.json"], capsys)
    columns = {name: [row[name] for row in rows] for name in rows[0]} | {"a": [{"b": 1}] * 3, "c": [{"d": 1}] * 3}
    Path("t.json").write_text(json.dumps(columns))
    assert len(converted("hf", "t.json", "--split", "train", "--output", "r.json")) == 3


@pytest.mark.parametrize("more", ["photo.png", "data,annotations"])
def test_a_table_whose_columns_are_known_may_have_others_of_any_name(more: str, sources: Path) -> None:
    cells = ",".join("x" for _ in more.split(","))
    Path("t.csv").write_text(f"image,question,answer,{more}\n0.jpg,W?,a dog,{cells}\n")
    assert [answer for _, _, answer in texts(converted("table", "t.csv", *TABLE))] == ["a dog"]


def test_an_index_before_the_header_is_no_title(sources: Path) -> None:
    cell = json.dumps(turns("<image>What?", "a dog")).replace('"', '""')
    Path("t.csv").write_text(f',messages\n0,"{cell}"\n')
    from data_prep.converters.rows import read_rows as read_table

    assert [list(row) for _, row in read_table(Path("t.csv"))] == [["", "messages"]]


def test_a_table_of_one_column_loses_no_row(sources: Path) -> None:
    from data_prep.converters.rows import read_rows as read_table
    from data_prep.errors import DataError

    Path("t.csv").write_text("caption\na dog\na cat\na dog, asleep\na bird\n")
    with pytest.raises(DataError, match="line 4: 2 cells for 1 columns; put quotes"):
        list(read_table(Path("t.csv")))


def test_paths_of_another_machine_and_names_without_a_width_are_followed(
    sources: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("t.csv").write_text(
        "\u200bimage,question,answer\nC:\\Users\\Jo\\0.jpg,Q,a\n\\\\srv\\x\\1.JPG,Q,b\n/y/2.jpg,Q,c\n"
    )
    assert [one["image"] for one in converted("table", "t.csv", *TABLE)] == ["0.jpg", "1.jpg", "2.jpg"]
    assert "3 names are read as the files that fit them" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "is_clean"),
    [("caf&eacute;", False), ("c\0at", False), ("caf\u00c3\u00a9", False),
     ("it\u00e2\u20ac\u2122s", False),
     ("\ufffd", False), ("a & b; AT&T", True), ("x < 3 > y", True), ("SÃO Paulo, ÂME\n\tok", True), ("<p1>", True),
     ("d\u00e9j\u00c3\xa0 vu", False), ("Vejo voc\u00ea AMANH\u00c3\u2026 AMANH\u00c3\xa0", True)],
)  # fmt: skip
def test_what_copied_texts_bring_along_is_a_finding(text: str, is_clean: bool) -> None:
    from data_prep.check.texts import faults

    found = [fault.kind for fault in faults(record("a", "0.jpg", answer=text))]
    assert found == ([] if is_clean else ["text not clean"])


def test_marks_that_ms_swift_fills_in_are_findings() -> None:
    from data_prep.check.texts import faults

    for mark in ("<bbox>", "<ref-object>"):
        assert [fault.kind for fault in faults(record("a", "0.jpg", answer=mark))] == ["mark of another tool"]


def test_a_box_that_is_written_into_its_marks_is_text(sources: Path) -> None:
    from data_prep.check.texts import faults

    answer = "<ref-object>dog</ref-object><bbox>1,2,3,4</bbox>"
    assert not list(faults(record("a", "0.jpg", answer=answer)))
    Path("t.json").write_text(json.dumps([{"images": ["photos/0.jpg"], "messages": turns("Where?", answer)}]))
    assert [one[2] for one in texts(converted("hf", "t.json", "--output", "r.json"))] == [answer]
