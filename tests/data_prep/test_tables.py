"""What others' tables look like: encodings and line ends of Windows, Excel of a lab, JSON of every shape, COCO."""

import codecs
import json
import re
import zipfile
from pathlib import Path
from typing import Any

import openpyxl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.__main__ import main
from data_prep.converters import cells
from data_prep.converters.rows import Reading, read_rows
from data_prep.errors import DataError
from data_prep.records.marks import NO_VALUE
from data_prep.records.record import read_records

TEXTS = {
    "cp1252": "Welche Gr\u00f6\u00dfe hat der \u00c4pfel?",
    "gb18030": "\u8fd9\u662f\u4ec0\u4e48\u52a8\u7269\uff1f",
    "cp932": "\u3053\u308c\u306f\u4f55\u3067\u3059\u304b",
    "cp949": "\uc774\uac83\uc740 \ubb34\uc5c7\uc785\ub2c8\uae4c",
    "big5": "\u9019\u662f\u4ec0\u9ebc\u52d5\u7269",
    "cp1251": "\u0427\u0442\u043e \u044d\u0442\u043e \u0437\u0430 \u0437\u0432\u0435\u0440\u044c",
    "cp1250": "Jaki to \u017c\u00f3\u0142ty pies",
}  # fmt: skip


def table(name: str, *more: str, code: int = 0) -> list[dict[str, Any]]:
    words = ["table", name, "--image-folder", "photos", "--output", "r.json", "--check", "none", *more]
    assert main(words) == code
    return list(read_records("r.json")) if Path("r.json").exists() else []


def turns(records: list[dict[str, Any]]) -> list[tuple[str, str]]:
    return [
        (one["conversations"][0]["value"].replace("<image>\n", ""), one["conversations"][1]["value"]) for one in records
    ]


@pytest.mark.parametrize("encoding", sorted(TEXTS))
def test_an_encoding_of_windows_is_named_by_the_error_and_read_with_it(
    sources: Path, capsys: pytest.CaptureFixture[str], encoding: str
) -> None:
    text = TEXTS[encoding]
    Path("t.csv").write_bytes(f"image,question,answer\r\n0.jpg,{text},ja\r\n".encode(encoding))
    table("t.csv", code=1)
    told = capsys.readouterr().err
    assert re.search(r"^error: t\.csv: line 2: byte 0x[0-9a-f]{2} is not UTF-8; save it as UTF-8, or name", told)
    readings = dict(re.findall(r'--encoding (\S+) reads "([^"]*)"', told))
    right = [name for name, shown in readings.items() if shown in f"0.jpg,{text},ja"]
    assert right, readings
    assert turns(table("t.csv", "--encoding", right[0])) == [(text, "ja")]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("ends", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", [",", ";", "\t", "|"])
def test_every_unicode_every_line_end_and_every_delimiter_is_read(
    sources: Path, encoding: str, ends: str, mark: str
) -> None:
    begin = codecs.BOM_UTF16_LE if encoding == "utf-16-le" else b""
    lines = [f"image{mark}question{mark}answer", f'0.jpg{mark}"Was, {mark} ist{ends}das?"{mark}K\u00e4se', ""]
    Path("t.csv").write_bytes(begin + ends.join(lines).encode(encoding))
    assert turns(table("t.csv")) == [(f"Was, {mark} ist{ends}das?", "K\u00e4se")]


def test_excel_s_line_that_names_the_delimiter_is_no_header(sources: Path) -> None:
    Path("t.csv").write_text("sep=;\nimage;question;answer\n0.jpg;What, then?;a\n")
    assert list(read_rows(Path("t.csv"))) == [("line 3", {"image": "0.jpg", "question": "What, then?", "answer": "a"})]
    assert turns(table("t.csv")) == [("What, then?", "a")]


def test_a_long_cell_and_empty_cells_at_the_end_of_lines_are_read(sources: Path) -> None:
    long = "word " * 60_000
    Path("t.csv").write_text(f"image,question,answer,,\n0.jpg,What?,{long},,\n1.jpg,Who?,b\n")
    assert [answer for _, answer in turns(table("t.csv"))] == [long, "b"]


@pytest.mark.parametrize(
    ("name", "raw", "told"),
    [
        ("t.csv", b"PK\x03\x04...", "a packed file, such as Excel's; name it .xlsx"),
        ("t.csv", b"\xd0\xcf\x11\xe0\xa1\xb1", "an old Excel file, or one with a password; save it as .xlsx"),
        ("t.xlsx", b"\xd0\xcf\x11\xe0\xa1\xb1", "an old Excel file, or one with a password; save it as .xlsx"),
        ("t.xlsx", b"image,question", "not an Excel file (File is not a zip file); save it again as .xlsx"),
        ("t.ods", b"PK", "a table of an unknown kind (.ods); save it as .xlsx"),
        ("t.csv", b'image,question,answer\n0.jpg,"What?,a\n', "broken CSV (unexpected end of data); look for a quote"),
        ("t.json", b'{"a": 1}', "an object with the keys a; put the rows into one list"),
        ("t.json", b'{"train": [{"image": 1}], ', "broken JSON"),
        ("t.json", b'{"one": [{"image": 1}], "two": [{"image": 1}]}', "several lists in one object: one (1), two (1)"),
        ("t.json", b'{"questions": [{"question": 1}]}', "official VQA questions; python -m data_prep vqa"),
        ("t.json", b'{"images": [], "annotations": [{"bbox": [1]}]}', "COCO's boxes; python -m data_prep coco-boxes"),
    ],
)  # fmt: skip
def test_a_file_of_another_kind_is_called_by_its_name(
    sources: Path, capsys: pytest.CaptureFixture[str], name: str, raw: bytes, told: str
) -> None:
    Path(name).write_bytes(raw)
    table(name, code=1)
    assert f"error: {name}: " in (error := capsys.readouterr().err)
    assert told in error


def write_excel(rows: list[list[Any]], formats: dict[str, str] | None = None) -> None:
    book = openpyxl.Workbook()
    assert book.active is not None
    for row in rows:
        book.active.append(row)
    for place, text in (formats or {}).items():
        book.active[place].number_format = text
    book.save("t.xlsx")


def rewrite(pattern: bytes, by: bytes, part: str = "sheet1.xml") -> None:
    """Replace a pattern in a part of t.xlsx."""
    with zipfile.ZipFile("t.xlsx") as packed:
        parts = {one.filename: packed.read(one) for one in packed.infolist()}
    with zipfile.ZipFile("t.xlsx", "w", zipfile.ZIP_DEFLATED) as packed:
        for name, raw in parts.items():
            packed.writestr(name, re.sub(pattern, lambda _: by, raw, count=1) if name.endswith(part) else raw)


HEADER = ["image", "question", "answer"]
ROWS = [[f"{n}.jpg", f"What {n}?", f"thing {n}"] for n in range(6)]


@pytest.mark.parametrize("size", ["A1", "A1:C3", "A1:B7", "A1:XFD1048576", ""])
def test_a_sheet_is_read_to_its_end_whatever_it_says_of_its_size(sources: Path, size: str) -> None:
    write_excel([HEADER, *ROWS])
    rewrite(rb'<dimension ref="[^"]*" ?/>', f'<dimension ref="{size}"/>'.encode() if size else b"")
    assert turns(table("t.xlsx")) == [(row[1], row[2]) for row in ROWS]


def test_cells_are_read_as_excel_shows_them(sources: Path, capsys: pytest.CaptureFixture[str]) -> None:
    title = [["My data, 2024"], []]
    cells = [
        ["0.jpg", "Which?", 7],
        ["1.jpg", "How much?", 0.25],
        ["2.jpg", "Lost?", "#N/A"],
        ["3.jpg", "Is it?", True],
    ]
    write_excel([*title, HEADER, *cells], {"C4": "0000", "C5": "0%"})
    records = table("t.xlsx", "--allow-drops", "0.25")
    assert turns(records) == [("Which?", "0007"), ("How much?", "25%"), ("Is it?", "true")]
    said = capsys.readouterr().out
    assert "t.xlsx: the columns are named in row 3" in said
    assert "dropped, empty answer: t.xlsx row 6" in said


SHAPES = {
    "a list under a key": {"version": "1", "data": [{"image": "0.jpg", "question": "What?", "answer": "a"}]},
    "pandas, columns": {"image": {"0": "0.jpg"}, "question": {"0": "What?"}, "answer": {"0": "a"}},
    "pandas, index": {"7": {"image": "0.jpg", "question": "What?", "answer": "a"}},
    "pandas, split": {"columns": ["image", "question", "answer"], "index": [0], "data": [["0.jpg", "What?", "a"]]},
    "lists": {"image": ["0.jpg"], "question": ["What?"], "answer": ["a"]},
    "by picture": {"0.jpg": {"question": "What?", "answer": "a"}},
    "one row": {"image": "0.jpg", "question": "What?", "answer": "a"},
    "train and test": {"test": [{"image": "9.jpg"}], "train": [{"image": "0.jpg", "question": "What?", "answer": "a"}]},
}


@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
@pytest.mark.parametrize("shape", SHAPES)
def test_rows_are_found_in_json_of_every_shape(sources: Path, shape: str, encoding: str, indent: int | None) -> None:
    Path("t.json").write_bytes(json.dumps(SHAPES[shape], indent=indent).encode(encoding))
    assert turns(table("t.json")) == [("What?", "a")]


def captions(source: str, folder: str) -> list[tuple[str, str]]:
    words = [
        "captions",
        source,
        "--image-folder",
        folder,
        "--output",
        "r.json",
        "--check",
        "none",
        "--allow-drops",
        "0.9",
    ]
    assert main(words) == 0
    return [(one["image"], one["conversations"][1]["value"]) for one in read_records("r.json")]


def test_coco_s_captions_make_a_record_each(sources: Path) -> None:
    names = [f"COCO_train2014_{n:012d}.jpg" for n in range(3)]
    assert captions("captions_train.json", "coco") == [(names[n % 3], f"a thing {n}") for n in range(6)]


def test_a_text_beside_each_picture_is_its_caption(sources: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("photos/0.txt").write_text("a red box\n")
    Path("photos/1.jpg.txt").write_text("a blue box")
    Path("photos/2.caption").write_bytes("\ufeffein K\u00e4se".encode())
    assert captions("photos", "photos") == [("0.jpg", "a red box"), ("1.jpg", "a blue box"), ("2.jpg", "ein K\u00e4se")]
    assert "3 dropped (empty answer 3)" in capsys.readouterr().out
    assert main(["hf", "photos", "--output", "r.json"]) == 1
    told = capsys.readouterr().err
    assert "pictures with a text beside each; python -m data_prep captions photos --images photos" in told
    assert main(["captions", "coco", "--image-folder", "coco", "--output", "r.json"]) == 1
    assert "coco: no text beside its pictures (a.txt beside a.jpg); give a table of captions" in capsys.readouterr().err


@pytest.mark.parametrize(
    "cell",
    ["0.jpg; 1.jpg", "0.jpg,1.jpg", "0.jpg|1.jpg", "0.jpg 1.jpg", "0.jpg\n1.jpg", '["0.jpg", "./1.jpg"]'],
)  # fmt: skip
def test_a_cell_names_several_pictures(sources: Path, cell: str) -> None:
    Path("t.jsonl").write_text(json.dumps({"image": cell, "question": "Same?", "answer": "no"}))
    (record,) = table("t.jsonl")
    assert record["image"] == ["0.jpg", "1.jpg"]
    assert record["conversations"][0]["value"] == "<image>\n<image>\nSame?"


def test_columns_of_pictures_that_count_on_are_one_list(sources: Path) -> None:
    Path("t.csv").write_text("image_1,image_2,image_3,question,answer\n0.jpg,1.jpg,,Same?,no\n2.jpg,,,What?,a\n")
    assert [record["image"] for record in table("t.csv")] == [["0.jpg", "1.jpg"], "2.jpg"]


def test_a_list_with_a_picture_that_is_missing_is_dropped_by_its_name(sources: Path) -> None:
    Path("t.csv").write_text("image,question,answer\n0.jpg,What?,a\n0.jpg;gone.jpg,Same?,no\n")
    table("t.csv", "--allow-drops", "0.5")
    dropped = json.loads(Path("r.meta.json").read_text())["counts"]["first_dropped"]
    assert dropped == {"image missing": ["t.csv line 3: 0.jpg;gone.jpg"]}


def test_choices_are_listed_with_their_question(sources: Path) -> None:
    Path("t.csv").write_text("image,question,A,B,C,answer\n0.jpg,Which?,cat,dog,,B\n1.jpg,Which?,cat,dog,cow,cow\n")
    end = "Answer with the option's letter from the given choices directly."
    assert turns(table("t.csv")) == [
        (f"Which?\nA. cat\nB. dog\n{end}", "B"), (f"Which?\nA. cat\nB. dog\nC. cow\n{end}", "C"),
    ]  # fmt: skip


def test_an_object_is_refused_by_its_keys_and_a_dot_reaches_into_it(
    sources: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    row = {"image": "0.jpg", "query": {"de": "Was?", "en": "What?"}, "answers": [{"text": "a"}, {"text": "a"}]}
    Path("t.jsonl").write_text(json.dumps(row))
    table("t.jsonl", code=1)
    told = capsys.readouterr().err
    assert 'column "query" holds an object with the keys de, en; name the one to take, for example' in told
    command = re.findall(r"--question-column \S+", told)[0].split()
    table("t.jsonl", *command, code=1)
    told = capsys.readouterr().err
    assert 'column "answers" holds objects with the keys text' in told
    command += re.findall(r"--answer-column \S+", told)[0].split()
    assert turns(table("t.jsonl", *command)) == [("Was?", "a")]


def test_dialogues_and_pictures_in_cells_are_sent_to_the_command_that_reads_them(
    sources: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import base64
    import shlex

    raw = base64.b64encode(Path("photos/0.jpg").read_bytes()).decode()
    talk = [{"role": "user", "content": "<image>What?"}, {"role": "assistant", "content": "a"}]
    rows = ({"messages": talk, "images": ["photos/0.jpg"]}, {"image": raw, "question": "What?", "answer": "a"})
    for row in (*rows, {**rows[1], "image": f"data:image/jpeg;base64,{raw}"}):
        Path("t.json").write_text(json.dumps([row]))
        table("t.json", code=1)
        told = capsys.readouterr().err
        assert len(told) < 300
        words = shlex.split(told[told.index("python -m data_prep hf") :].partition(" writes")[0])[3:]
        assert main([*words, "--check", "records"]) == 0
        assert turns(list(read_records("r.json"))) in ([("<image>What?", "a")], [("What?", "a")])
        Path("r.json").unlink()


@pytest.mark.parametrize(("share", "code"), [("0.1", 1), ("0.5", 0), ("50%", 0), ("1", 0)])
def test_more_loss_than_allowed_is_a_failure_that_names_the_first(
    sources: Path, capsys: pytest.CaptureFixture[str], share: str, code: int
) -> None:
    Path("t.csv").write_text("image,question,answer\n0.jpg,What?,a\ngone.jpg,What?,b\n1.jpg,,c\n2.jpg,What?,d\n")
    assert len(table("t.csv", "--allow-drops", share, code=code)) == 2
    out, error = capsys.readouterr()
    assert "  dropped, image missing: t.csv line 3: gone.jpg\n  dropped, empty question: t.csv line 4\n" in out
    if code:
        told = "2 of 4 rows were dropped, more than the 10% allowed (the first: image missing: t.csv line 3: gone.jpg; "
        assert told in error
        assert "--allow-drops 0.50" in error


ENCODINGS = st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-32"])
CELLS = st.text(
    st.characters(codec="utf-8", exclude_categories=("Cs",), exclude_characters="\0"), min_size=1, max_size=20
)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(CELLS, CELLS), min_size=1, max_size=4), ENCODINGS, st.sampled_from(["\n", "\r\n", "\r"]))
def test_what_a_csv_holds_comes_back(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]], encoding: str, ends: str
) -> None:
    import csv
    import io

    text = io.StringIO()
    writer = csv.writer(text, lineterminator=ends, quoting=csv.QUOTE_ALL)
    writer.writerows([("one", "two"), *rows])
    path = tmp_path_factory.mktemp("csv") / "t.csv"
    path.write_bytes(text.getvalue().encode(encoding))
    read = [(row["one"], row["two"]) for _, row in read_rows(path)]
    told = [row for row in rows if any(cell.strip() for cell in row)]
    assert read == [tuple("" if cell in NO_VALUE else cell for cell in row) for row in told]


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=200), st.sampled_from([".csv", ".tsv", ".json", ".jsonl", ".xlsx", ".parquet"]))
def test_any_bytes_are_rows_or_one_message(tmp_path_factory: pytest.TempPathFactory, raw: bytes, ending: str) -> None:
    path = tmp_path_factory.mktemp("any") / f"t{ending}"
    path.write_bytes(raw)
    for reading in (Reading(), Reading(encoding="latin-1")):
        try:
            list(read_rows(path, reading))
        except DataError as error:
            assert str(error).startswith(str(path))
            assert "\n" not in str(error)


def test_a_table_without_a_row_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.chdir(tmp_path)
    Path("pics").mkdir()
    for content in (b"", b"image,question,answer\n", b"\0" * 1000):
        Path("t.csv").write_bytes(content)
        assert main(["table", "t.csv", "--images", "pics", "--output", "out.json"]) == 1
        assert "t.csv: " in capsys.readouterr().err and not Path("out.json").exists()


@pytest.mark.parametrize("title", [[["My garden", "2024"]], [["My garden", 2024, "Ann"], [], ["page 1"]]])
def test_a_title_of_several_cells_is_no_header(
    sources: Path, title: list[list[Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    write_excel([*title, ["Image", "Question", "Answer", "more"], *ROWS])
    assert turns(table("t.xlsx")) == [(row[1], row[2]) for row in ROWS]
    assert f"t.xlsx: the columns are named in row {len(title) + 1}" in capsys.readouterr().out


def test_columns_of_other_names_stay_the_header_whatever_the_rows_hold(sources: Path) -> None:
    write_excel([["Pic", "Q", "A"], ["0.jpg", "text", "label"], ["1.jpg", "What?", "a dog"]])
    options = ["--image-column", "Pic", "--question-column", "Q", "--answer-column", "A"]
    assert turns(table("t.xlsx", *options))[-1] == ("What?", "a dog")
    Path("t.csv").write_text("My garden,2024,\nimage,question,answer\n0.jpg,What?,a dog\n")
    table("t.csv", code=1)


def test_pictures_named_by_web_addresses_are_told_what_to_do(sources: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = "no web address is fetched: save the pictures in the image folder and name the files in their place"
    rows = [{"image": name, "question": "W?", "answer": "a"} for name in ("https://a.org/b.jpg", "0.jpg")]
    Path("t.json").write_text(json.dumps(rows))
    table("t.json", code=1)
    assert told in capsys.readouterr().out
    Path("t.json").write_text(json.dumps(rows[:1]))
    table("t.json", code=1)
    assert told in capsys.readouterr().err


def test_nan_is_kept_where_it_is_said(sources: Path) -> None:
    Path("t.csv").write_text("image,question,answer\n0.jpg,What bread?,nan\n1.jpg,Who?,<NA>\n")
    write_excel([HEADER, ["0.jpg", "What bread?", "nan"], ["1.jpg", "Who?", "<NA>"]])
    table("t.csv", code=1)
    for name in ("t.csv", "t.xlsx"):
        assert turns(table(name, "--keep-nan")) == [("What bread?", "nan"), ("Who?", "<NA>")]


def test_a_list_that_numpy_wrote_into_a_cell_is_one(sources: Path) -> None:
    cells = ["array(['red', 'red', 'blue'], dtype=object)", "array([1, 2, 3])"]
    write_excel([HEADER, *([f"{number}.jpg", "What?", cell] for number, cell in enumerate(cells))])
    assert [answer for _, answer in turns(table("t.xlsx"))] == ["red", "[1, 2, 3]"]


def test_a_picture_that_is_there_is_looked_for_once_a_row(sources: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    look = cells.picture_problem
    monkeypatch.setattr(cells, "picture_problem", lambda folder, name: (seen.append(name), look(folder, name))[1])
    write_excel([HEADER, *ROWS])
    assert len(table("t.xlsx")) == len(seen) == len(ROWS)
