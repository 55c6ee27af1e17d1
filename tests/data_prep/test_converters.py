"""Each converter's choices, the tables it reads, and what it says of bad input."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import xxhash
from PIL import Image

from data_prep import files
from data_prep.__main__ import main
from data_prep.records.record import open_image, read_records, resolve_image
from tests.data_prep.conftest import draw, record

LENIENT = ("--check", "records", "--allow-drops", "1")


def answers_in(path: str) -> list[str]:
    return [item["conversations"][1]["value"] for item in read_records(path)]


def questions_in(path: str) -> list[str]:
    return [item["conversations"][0]["value"] for item in read_records(path)]


def write_vqa(answers: list[list[str]]) -> list[str]:
    """Official files with one question on each of the pictures; returns the words of the command."""
    questions = [{"image_id": n, "question_id": n, "question": f"What {n}?"} for n in range(len(answers))]
    annotations = [{"question_id": n, "answers": [{"answer": a} for a in some]} for n, some in enumerate(answers)]
    Path("q.json").write_text(json.dumps({"questions": questions}))
    Path("a.json").write_text(json.dumps({"annotations": annotations}))
    words = ["vqa", "--questions", "q.json", "--annotations", "a.json", "--image-folder", "coco"]
    return [*words, "--output", "r.json", *LENIENT]


def test_every_distinct_answer_becomes_a_record_of_its_own(sources: Path) -> None:
    assert main([*write_vqa([["cat", "cat", "a cat", "dog"], ["two", "2", "3"]]), "--answer", "all"]) == 0
    assert answers_in("r.json") == ["cat", "dog", "two", "3"]
    assert [item["id"] for item in read_records("r.json")] == ["vqa-0", "vqa-0-2", "vqa-1", "vqa-1-2"]
    counts = json.loads(Path("r.meta.json").read_text())["counts"]
    assert (counts["in"], counts["records"]) == (2, 4)


def test_a_sampled_answer_is_one_of_the_ten_and_the_seed_s_choice(sources: Path) -> None:
    words = [*write_vqa([["a", "b", "c", "d"]] * 6), "--answer", "sampled"]
    drawn = []
    for seed in ("1", "1", "2"):
        assert main([*words, "--seed", seed]) == 0
        drawn.append(answers_in("r.json"))
    assert drawn[0] == drawn[1] != drawn[2]
    assert {answer for answers in drawn for answer in answers} <= {"a", "b", "c", "d"}
    assert read_records("r.json")[0]["answers"] == ["a", "b", "c", "d"]


def test_the_most_common_answer_is_counted_as_the_official_scorer_compares(sources: Path) -> None:
    assert main(write_vqa([["The dog", "cat", "a dog!", "cat", "dog"], ["b", "a", "a", "b"]])) == 0
    assert answers_in("r.json") == ["The dog", "b"]  # three of one form; a tie goes to the form given first


def test_merged_questions_keep_their_order_ids_and_answers(sources: Path) -> None:
    words = ["okvqa", "--questions", "questions.json", "--annotations", "annotations.json", "--image-folder", "coco"]
    assert main([*words, "--output", "r.json", "--merge-by-image", "--suffix", "", "--check", "records"]) == 0
    first = read_records("r.json")[0]
    assert [turn["value"] for turn in first["conversations"]] == [
        "<image>\nWhat is 0?",
        "thing 0",
        "What is 1?",
        "thing 1",
    ]
    assert first["question_ids"] == ["okvqa-0", "okvqa-1"]
    assert [len(answers) for answers in first["answers"]] == [10, 10]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"questions": [{"image_id": 1, "question_id": 2}]}', 'questions, entry 1: no "question": {'),
        ('{"questions": [[1, 2]]}', "questions, entry 1: expected an object, found a list: [1, 2]"),
        (
            '{"questions": [{"image_id": 1, "question_id": [2], "question": "What?"}]}',
            'questions, entry 1: "question_id" is a number or a text, found a list',
        ),
        (
            '{"annotations": []}',
            'no list "questions" in it, only annotations (are --questions and --annotations swapped?)',
        ),
        ("[1]", 'expected an object with "questions", found a list'),
        ('{"questions": [\n{"image_id": }]}', "line 2, column 14: broken JSON"),
    ],
)
def test_a_bad_questions_file_is_refused_by_entry_or_line(
    sources: Path, capsys: pytest.CaptureFixture[str], text: str, message: str
) -> None:
    words = write_vqa([["a"]])
    Path("q.json").write_text(text)
    assert main(words) == 1
    assert f"error: q.json: {message}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"question_id": 0, "answers": "cat"}, '"answers" is a list, found a string'),
        ({"answers": []}, 'no "question_id"'),
        ([0], "expected an object, found a list"),
    ],
)
def test_a_bad_annotation_is_refused_by_entry(
    sources: Path, capsys: pytest.CaptureFixture[str], entry: object, message: str
) -> None:
    words = write_vqa([["a"]])
    Path("a.json").write_text(json.dumps({"annotations": [entry]}))
    assert main(words) == 1
    assert capsys.readouterr().err.startswith(f"error: a.json: annotations, entry 1: {message}: ")


def test_questions_and_answers_that_are_empty_are_dropped_and_named(sources: Path) -> None:
    words = write_vqa([["a"], ["b"], ["", " "], ["d"]])
    value = json.loads(Path("q.json").read_text())
    value["questions"][0]["question"] = None
    value["questions"][1]["question"] = " "
    Path("q.json").write_text(json.dumps(value))
    assert main(words) == 0
    assert [item["id"] for item in read_records("r.json")] == ["vqa-3"]
    counts = json.loads(Path("r.meta.json").read_text())["counts"]
    assert counts["dropped"] == {"empty question": 2, "empty answer": 1}
    assert counts["first_dropped"]["empty question"] == ["question 0", "question 1"]


def test_phrasings_are_drawn_by_the_picture_s_name_and_stay_when_rows_are_added(sources: Path) -> None:
    Path("asked.txt").write_text("What is it?\n\nWhich piece is this?\nName it.\n")
    words = ["captions", "filled.csv", "--image-folder", "photos", "--questions", "asked.txt", "--output", "r.json"]
    assert main([*words, "--check", "records"]) == 0
    before = questions_in("r.json")
    assert len(set(before)) > 1
    assert {text.removeprefix("<image>\n") for text in before} <= {"What is it?", "Which piece is this?", "Name it."}
    rows = Path("filled.csv").read_text().splitlines()
    Path("filled.csv").write_text("\n".join([rows[0], *reversed(rows[1:])]))
    assert main([*words, "--check", "records"]) == 0
    assert questions_in("r.json") == before[::-1]


def test_captions_for_stage_one_have_no_question(sources: Path) -> None:
    words = ["captions", "filled.csv", "--image-folder", "photos", "--pretrain", "--output", "r.json"]
    assert main([*words, "--check", "records"]) == 0
    assert set(questions_in("r.json")) == {"<image>"}


def test_a_template_splits_by_name_and_keeps_what_was_filled_in(sources: Path) -> None:
    words = ["captions-template", "photos", "--train", "a.csv", "--test", "b.csv", "--test-share", "0.4"]
    assert main(words) == 0
    text = Path("a.csv").read_text(encoding="utf-8-sig")
    first = text.splitlines()[1]
    Path("a.csv").write_text(text.replace(first, f"{first}a pawn"), encoding="utf-8-sig")
    draw(sources / "photos/new.jpg", 9)
    test_before = Path("b.csv").read_text()
    assert main(words) == 0
    assert f"{first}a pawn" in Path("a.csv").read_text()
    assert set(test_before.splitlines()) <= set(Path("b.csv").read_text().splitlines())
    both = Path("a.csv").read_text().splitlines()[1:] + Path("b.csv").read_text().splitlines()[1:]
    assert len(both) == 7


ROWS = [{"image": f"{n}.jpg", "question": f"What, {n}?", "answer": f"piece {n}"} for n in range(6)]


def write_table(name: str) -> None:
    path = Path(name)
    if path.suffix == ".tsv":
        path.write_text("image\tquestion\tanswer\n" + "".join("\t".join(row.values()) + "\n" for row in ROWS))
    elif path.suffix == ".csv":
        text = "image;question;answer\r\n" + "".join(";".join(row.values()) + "\r\n" for row in ROWS)
        path.write_bytes(b"\xef\xbb\xbf" + text.encode())  # as Excel saves it in much of Europe
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    elif path.suffix == ".json":
        path.write_text(json.dumps(ROWS))
    elif path.suffix == ".xlsx":
        import openpyxl

        book = openpyxl.Workbook()
        for cells in (ROWS[0].keys(), *(row.values() for row in ROWS)):
            book.active.append(list(cells))
        book.save(path)
    else:
        import pyarrow
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), path)


@pytest.mark.parametrize("name", ["t.csv", "t.tsv", "t.jsonl", "t.json", "t.xlsx", "t.parquet"])
def test_every_kind_of_table_gives_the_same_records(sources: Path, name: str) -> None:
    write_table(name)
    assert main(["table", name, "--image-folder", "photos", "--output", "r.json", "--check", "records"]) == 0
    assert questions_in("r.json") == [f"<image>\nWhat, {n}?" for n in range(6)]
    assert answers_in("r.json") == [f"piece {n}" for n in range(6)]
    assert [item["id"] for item in read_records("r.json")] == [f"t-{n}" for n in range(1, 7)]


def test_an_address_is_looked_for_as_the_file_it_was_saved_to(sources: Path) -> None:
    draw(sources / "photos/example.org/x/7.jpg", 7)
    rows = ["https://example.org/x/7.jpg?w=1", "https://example.org/y/3.jpg", "https://example.org/y/gone.jpg"]
    Path("t.csv").write_text("url,question,answer\n" + "".join(f"{url},What?,a\n" for url in rows))
    assert main(["table", "t.csv", "--image-folder", "photos", "--output", "r.json", *LENIENT]) == 0
    assert [item["image"] for item in read_records("r.json")] == ["example.org/x/7.jpg", "3.jpg"]
    counts = json.loads(Path("r.meta.json").read_text())["counts"]
    assert counts["dropped"] == {"image missing": 1}
    assert counts["first_dropped"]["image missing"] == ["t.csv line 4: https://example.org/y/gone.jpg"]


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ("image,question,answer\n0.jpg,What?,caf\xe9\n".encode("cp1252"), "line 2: byte 0xe9 is not UTF-8; save"),
        (b'image,question,answer\n0.jpg,"What?,a\n', "broken CSV"),
        (b"image,image,answer\n", 'the column "image" stands twice; rename one'),
        (b"", "an empty table"),
        (b"imaeg,question,answer\n0.jpg,q,a\n", 'no column for the picture'),
    ],
)  # fmt: skip
def test_a_bad_csv_is_refused_by_file_and_line(
    sources: Path, capsys: pytest.CaptureFixture[str], raw: bytes, message: str
) -> None:
    Path("bad.csv").write_bytes(raw)
    assert main(["table", "bad.csv", "--image-folder", "photos", "--output", "r.json"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: bad.csv: ")
    assert message in error
    assert not Path("r.json").exists()


def test_a_file_named_as_excel_that_is_not_is_refused(sources: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("t.xlsx").write_bytes(b"image,question,answer\n")
    assert main(["table", "t.xlsx", "--image-folder", "photos", "--output", "r.json"]) == 1
    assert "error: t.xlsx: not an Excel file" in capsys.readouterr().err


@pytest.mark.parametrize(
    "name", ["with space.jpg", "\u0444\u043e\u0442\u043e \u5199\u771f.jpg", "new\nline.jpg", "quote\"'.jpg"]
)
def test_strange_names_go_from_table_to_check_page_and_copy(
    sources: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    draw(sources / "photos" / name, 8)
    Path("t.jsonl").write_text(json.dumps({"image": name, "question": "What?", "answer": "a box"}))
    words = ["table", "t.jsonl", "--image-folder", "photos", "--copy", "copied", "--output", "r.json"]
    assert main(words) == 0
    assert read_records("r.json")[0]["image"] == name
    assert (Path("copied") / name).read_bytes() == (Path("photos") / name).read_bytes()
    (Path("copied") / name).write_bytes(b"text")
    assert main(["check", "r.json", "--image-folder", "copied", "--html", "c.html"]) == 1
    shown = next(line for line in capsys.readouterr().out.splitlines() if "it begins with b'text'" in line)
    assert name.replace("\n", "\\n") in shown
    assert "not a picture" in Path("c.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["../out.jpg", "/etc/hostname", "link.jpg"])
def test_a_row_whose_picture_lies_outside_is_dropped(sources: Path, name: str) -> None:
    draw(sources / "out.jpg", 1)
    Path("photos/link.jpg").symlink_to(sources / "out.jpg")
    Path("t.csv").write_text(f"image,question,answer\n0.jpg,What?,a\n{name},What?,b\n")
    assert main(["table", "t.csv", "--image-folder", "photos", "--output", "r.json", *LENIENT]) == 0
    counts = json.loads(Path("r.meta.json").read_text())["counts"]
    assert counts["dropped"] == {"image outside the folder": 1}


BLACK = Image.new("RGB", (32, 24))
KINDS_OF_PICTURE: dict[str, tuple[Image.Image, dict[str, Any]]] = {
    "a.heic": (Image.new("RGB", (32, 24), (200, 20, 20)), {"quality": 95}),
    "a.avif": (Image.new("RGB", (32, 24), (200, 20, 20)), {"quality": 95}),
    "a.webp": (Image.new("RGB", (32, 24), (200, 20, 20)), {}),
    "a.gif": (Image.new("RGB", (32, 24), (200, 20, 20)), {"save_all": True, "append_images": [BLACK]}),
    "cmyk.tif": (Image.new("CMYK", (32, 24), (55, 235, 235, 0)), {}),
    "cmyk.jpg": (Image.new("CMYK", (32, 24), (55, 235, 235, 0)), {"quality": 95}),
    "wide.png": (Image.new("I;16", (32, 24), 40000), {}),
    "palette.png": (Image.new("RGB", (32, 24), (200, 20, 20)).quantize(4), {}),
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(KINDS_OF_PICTURE))
def test_every_kind_of_picture_goes_through_the_one_door(sources: Path, name: str) -> None:
    from pillow_heif import register_heif_opener

    register_heif_opener()
    image, options = KINDS_OF_PICTURE[name]
    folder = sources / "mixed"
    folder.mkdir()
    image.save(folder / name, **options)
    expected = (156, 156, 156) if name == "wide.png" else (200, 20, 20)
    pixel = open_image(resolve_image(folder, name)).getpixel((10, 10))
    assert all(abs(a - b) <= 6 for a, b in zip(pixel, expected, strict=True))  # type: ignore[arg-type]
    Path("t.csv").write_text(f"image,caption\n{name},a red field\n")
    assert main(["captions", "t.csv", "--image-folder", "mixed", "--output", "r.json"]) == 0, "decoded by the check"
    assert main(["heic", "mixed", "--output-dir", "jpeg"]) == 0
    with Image.open(Path("jpeg") / f"{Path(name).stem}.jpg") as jpeg:
        assert (jpeg.format, jpeg.mode, jpeg.size) == ("JPEG", "RGB", (32, 24))
    meta = json.loads(Path("jpeg/heic.meta.json").read_text())
    frames = {"only the first of several frames": 1} if name == "a.gif" else {}
    assert meta["counts"] == {"converted": 1, **frames}
    assert meta["pictures"][name]["sha256"] == hashlib.sha256((folder / name).read_bytes()).hexdigest()


def test_phone_pictures_come_out_upright_without_place_and_time(sources: Path) -> None:
    from pillow_heif import register_heif_opener

    register_heif_opener()
    exif = Image.Exif()
    exif[0x0112], exif[0x0110], exif[0x0132] = 6, "Phone 7", "2024:05:01 10:00:00"
    folder = sources / "phone2/rome"
    folder.mkdir(parents=True)
    left_red = Image.new("RGB", (64, 32), (0, 0, 200))
    left_red.paste((200, 0, 0), (0, 0, 32, 32))
    left_red.save(folder / "turned.jpg", exif=exif, quality=95)
    left_red.save(folder / "IMG 1.HEIC", format="HEIF", exif=exif.tobytes(), quality=95)  # as bytes: turned, too
    left_red.save(folder / "plain.jpg", quality=95)
    assert main(["heic", "phone2", "--output-dir", "out", "--prefix", "trip-"]) == 0
    assert sorted(path.name for path in Path("out/rome").iterdir()) == [
        "trip-IMG 1.jpg",
        "trip-plain.jpg",
        "trip-turned.jpg",
    ]
    for name in ("trip-IMG 1.jpg", "trip-turned.jpg"):
        with Image.open(Path("out/rome") / name) as image:
            assert not image.getexif()
            assert image.size == (32, 64)
            assert image.getpixel((16, 8))[0] > 150, "the left of the stored picture is the top of the upright one"
    assert Path("out/rome/trip-plain.jpg").read_bytes() == (folder / "plain.jpg").read_bytes()
    assert main(["heic", "phone2", "--output-dir", "kept", "--keep-metadata"]) == 0
    with Image.open("kept/rome/turned.jpg") as image:
        assert image.getexif()[0x0110] == "Phone 7"
        assert image.size == (32, 64)


def test_two_phone_pictures_of_one_name_are_refused(sources: Path, capsys: pytest.CaptureFixture[str]) -> None:
    draw(sources / "same/a.heic", 1)
    draw(sources / "same/a.jpg", 2)
    assert main(["heic", "same", "--output-dir", "out"]) == 1
    assert "would be written to a.jpg, as a.heic is; rename one" in capsys.readouterr().err


def test_a_split_never_parts_a_picture_and_is_the_same_again(sources: Path) -> None:
    rows = [record(f"{n}-{k}", f"{n}.jpg", answer=f"{k}") for n in range(6) for k in range(3)]
    Path("r.json").write_text(json.dumps(rows))
    words = ["split", "r.json", "--parts", "train=0.5", "test=0.5"]
    assert main([*words, "--output-dir", "one"]) == 0
    assert main([*words, "--output-dir", "two"]) == 0
    assert main([*words, "--output-dir", "three", "--seed", "7"]) == 0
    parts = [{item["image"] for item in read_records(f"one/{part}.json")} for part in ("train", "test")]
    assert parts[0].isdisjoint(parts[1])
    assert Path("one/train.json").read_bytes() == Path("two/train.json").read_bytes()
    assert Path("one/train.json").read_bytes() != Path("three/train.json").read_bytes()
    both = [item["id"] for part in ("train", "test") for item in read_records(f"one/{part}.json")]
    assert sorted(both) == sorted(str(row["id"]) for row in rows)


def test_a_split_keeps_copies_of_a_picture_together(sources: Path) -> None:
    rows = []
    for number in range(6):
        (sources / f"photos/copy-{number}.jpg").write_bytes((sources / f"photos/{number}.jpg").read_bytes())
        rows += [record(f"a{number}", f"{number}.jpg"), record(f"b{number}", f"copy-{number}.jpg")]
    Path("r.json").write_text(json.dumps(rows))
    words = ["split", "r.json", "--parts", "train=0.5", "test=0.5", "--output-dir", "out", "--image-folder", "photos"]
    assert main(words) == 0
    for part in ("train", "test"):
        ids = {item["id"] for item in read_records(f"out/{part}.json")}
        assert ids == {f"{copy}{name[1:]}" for name in ids for copy in "ab"}


def test_a_stratified_split_keeps_the_mixture_of_answers(sources: Path) -> None:
    rows = [record(str(n), f"{n}.jpg", answer="yes" if n % 4 else "no") for n in range(400)]
    Path("r.json").write_text(json.dumps(rows))
    words = ["split", "r.json", "--parts", "train=0.8", "test=0.2", "--output-dir", "out", "--stratify", "answer"]
    assert main(words) == 0
    for part, count in (("train", 320), ("test", 80)):
        answers = answers_in(f"out/{part}.json")
        assert abs(len(answers) - count) <= 1
        assert abs(answers.count("no") - count // 4) <= 1


def test_a_mixture_takes_each_file_by_its_weight_and_is_the_same_again(sources: Path) -> None:
    for name, count in (("own", 10), ("general", 100)):
        rows = [record(f"{name}-{n}", f"{n}.jpg", answer=name) for n in range(count)]
        Path(f"{name}.json").write_text(json.dumps(rows))
    words = ["mix", "own.json=2.5", "general.json=0.1", "--prefix", "a", "b", "--check", "none"]
    assert main([*words, "--output", "one.jsonl"]) == 0
    assert main([*words, "--output", "two.jsonl"]) == 0
    assert answers_in("one.jsonl").count("own") == 25
    assert answers_in("one.jsonl").count("general") == 10
    assert Path("one.jsonl").read_bytes() == Path("two.jsonl").read_bytes()
    ids = [item["id"] for item in read_records("one.jsonl")]
    assert len(set(ids)) == 35
    assert {item["image"].split("/")[0] for item in read_records("one.jsonl")} == {"a", "b"}


def test_a_large_source_is_named_by_a_faster_hash(sources: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = Path("table.csv").read_bytes()
    monkeypatch.setattr(files, "LARGE", len(raw) - 1)
    assert main(["table", "table.csv", "--image-folder", "photos", "--output", "r.json", "--check", "none"]) == 0
    source = json.loads(Path("r.meta.json").read_text())["sources"][0]
    assert source == {"path": "table.csv", "bytes": len(raw), "xxh3_128": xxhash.xxh3_128_hexdigest(raw)}


def test_the_meta_file_names_hashes_command_and_counts(sources: Path) -> None:
    assert main(["table", "table.csv", "--image-folder", "photos", "--output", "r.json", "--check", "none"]) == 0
    meta = json.loads(Path("r.meta.json").read_text())
    assert meta["sha256"] == hashlib.sha256(Path("r.json").read_bytes()).hexdigest()
    assert meta["sources"][0]["sha256"] == hashlib.sha256(Path("table.csv").read_bytes()).hexdigest()
    assert meta["command"][:3] == ["python", "-m", "data_prep"]
    assert meta["counts"] == {"in": 6, "converted": 6, "records": 6, "dropped": {}, "first_dropped": {}}
