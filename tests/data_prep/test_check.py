"""What a check finds, in how many processes, and that it is cached; the real OK-VQA questions convert."""

import json
import shutil
import sys
from pathlib import Path

import pytest

from data_prep.__main__ import main
from data_prep.check import check_records
from data_prep.check.scan import Worker, scan
from data_prep.check.texts import faults
from data_prep.errors import PictureFault
from data_prep.record import read_records, write_records
from tests.data_prep.conftest import draw, record


def turns(*pairs: tuple[str, object]) -> dict[str, object]:
    return {"id": "x", "conversations": [{"from": role, "value": text} for role, text in pairs]}


@pytest.mark.parametrize(
    ("bad", "kind"),
    [
        ({"id": "x", "messages": []}, "no conversation"),
        (turns(("user", "a"), ("gpt", "b")), "unknown role"),
        (turns(("human", "a"), ("human", "b")), "turns not alternating"),
        (turns(("human", "a"), ("gpt", "b"), ("human", "c")), "turns not alternating"),
        (turns(("human", "a"), ("gpt", 3)), "text not a string"),
        (turns(("human", "a"), ("gpt", " ")), "empty text"),
        (turns(("human", "a"), ("gpt", "b</s>")), "end token in text"),
        (turns(("human", "a"), ("gpt", "b\ud800")), "broken Unicode"),
        (turns(("human", "a"), ("gpt", "<image> b")), "<image> in answer"),
        (turns(("human", "<image>\na"), ("gpt", "b")), "<image> without picture"),
        ({**turns(("human", "a"), ("gpt", "b")), "image": "a.jpg"}, "picture without <image>"),
        ({**turns(("human", "<image><image>a"), ("gpt", "b")), "image": "a.jpg"}, "<image> count"),
        ({**turns(("human", "a"), ("gpt", "b")), "images": ["a.jpg"]}, "wrong image key"),
        ({**turns(("human", "<image>a"), ("gpt", "b")), "image": 7}, "image not a name"),
    ],
)
def test_each_fault_of_a_text_is_found(bad: dict[str, object], kind: str) -> None:
    assert [fault.kind for fault in faults(bad)] == [kind]


def test_a_right_record_has_no_fault() -> None:
    assert list(faults(record("a", "a.jpg"))) == []


def test_pictures_are_found_missing_cut_off_and_in_the_test_file(tmp_path: Path) -> None:
    for number in range(4):
        draw(tmp_path / f"{number}.jpg", number)
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "0.jpg").read_bytes()[:500])
    shutil.copy(tmp_path / "1.jpg", tmp_path / "copy.jpg")
    names = ("0.jpg", "1.jpg", "cut.jpg", "gone.jpg")
    write_records(tmp_path / "train.json", [record(name, name, answer=name) for name in names])
    write_records(tmp_path / "test.json", [record("t", "copy.jpg")])
    report = check_records(tmp_path / "train.json", tmp_path, test_path=tmp_path / "test.json")
    places = {found.kind.name: [example.record for example in found.examples] for found in report.findings}
    assert places["image missing"] == ["gone.jpg"]
    assert places["image truncated"] == ["cut.jpg"]
    assert places["picture in train and test"] == ["1.jpg"]
    assert not report.ok
    assert report.by_kind["image truncated"].examples[0].line == 4


def test_a_report_is_cached_until_a_picture_changes(tmp_path: Path) -> None:
    draw(tmp_path / "a.jpg", 1)
    write_records(tmp_path / "r.json", [record("a", "a.jpg")])
    first = check_records(tmp_path / "r.json", tmp_path, cache_dir=tmp_path / "cache")
    again = check_records(tmp_path / "r.json", tmp_path, cache_dir=tmp_path / "cache")
    assert (first.from_cache, again.from_cache) == (False, True)
    assert again.as_json()["findings"] == first.as_json()["findings"]
    (tmp_path / "a.jpg").write_bytes(b"text")
    changed = check_records(tmp_path / "r.json", tmp_path, cache_dir=tmp_path / "cache")
    assert not changed.from_cache
    assert not changed.ok


def test_processes_find_what_one_process_finds(tmp_path: Path) -> None:
    names = [f"{number}.png" for number in range(200)]
    for number, name in enumerate(names[:-1]):
        draw(tmp_path / name, number, (20 + number % 5, 16))
    assert scan(tmp_path, names, workers=2) == {**scan(tmp_path, names[:60]), **scan(tmp_path, names, workers=1)}


def test_a_picture_that_kills_the_decoder_is_named_and_the_others_are_checked(tmp_path: Path) -> None:
    draw(tmp_path / "a.jpg", 1)
    draw(tmp_path / "killer.jpg", 2)
    code = (
        "import data_prep.check.worker as w, os; real = w.inspect_picture\n"
        "w.inspect_picture = lambda f, n: os._exit(9) if 'killer' in n else real(f, n)\nw.main()"
    )
    worker = Worker((sys.executable, "-c", code))
    good, bad = worker.inspect(str(tmp_path), ["a.jpg", "killer.jpg"])
    worker.close()
    assert good.fault is None
    assert bad.fault is PictureFault.UNREADABLE


def test_the_json_and_the_status_say_that_training_would_be_wrong(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_records(tmp_path / "r.json", [record("a", "gone.jpg")])
    assert main(["check", str(tmp_path / "r.json"), "--image-folder", str(tmp_path), "--json"]) == 1
    value = json.loads(capsys.readouterr().out)
    assert value["findings"][0]["kind"] == "image missing"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("image,answr,question\n0.jpg,a,q\n", 'did you mean "answr"?'),
        ("image,question,answer\n0.jpg,a,b,c\n", "line 2: 4 cells for 3 columns"),
    ],
)
def test_a_table_with_a_wrong_header_or_row_is_refused(
    sources: Path, capsys: pytest.CaptureFixture[str], text: str, message: str
) -> None:
    (sources / "bad.csv").write_text(text)
    assert main(["table", "bad.csv", "--image-folder", "photos", "--output", "bad.json"]) == 1
    assert message in capsys.readouterr().err
    assert not (sources / "bad.json").exists()


def test_excel_dates_come_out_as_people_see_them(sources: Path) -> None:
    import datetime

    import openpyxl

    book = openpyxl.Workbook()
    book.active.append(["image", "question", "answer"])
    book.active.append(["0.jpg", "When?", datetime.datetime(2024, 5, 1)])
    book.active.append(["1.jpg", "How many?", 3.0])
    book.save("t.xlsx")
    assert main(["table", "t.xlsx", "--image-folder", "photos", "--output", "x.json"]) == 0
    assert [item["conversations"][1]["value"] for item in read_records("x.json")] == ["2024-05-01", "3"]


@pytest.mark.parametrize(
    ("annotations", "message"),
    [
        ([{"question_id": 99, "answers": []}], "is for question 99, which the questions file does not have"),
        ([{"question_id": 1, "answers": []}] * 2, "question 1 has an annotation already"),
    ],
)
def test_annotations_that_do_not_pair_up_are_refused(
    sources: Path, capsys: pytest.CaptureFixture[str], annotations: list[object], message: str
) -> None:
    Path("a.json").write_text(json.dumps({"annotations": annotations}))
    words = ["okvqa", "--questions", "questions.json", "--annotations", "a.json", "--image-folder", "coco"]
    assert main([*words, "--output", "o.json"]) == 1
    assert message in capsys.readouterr().err


def test_okvqa_questions_convert_with_no_text_changed(sources: Path, root: Path) -> None:
    real = root.parent / "shared/data/okvqa/OpenEnded_mscoco_train2014_questions.json"
    path = real if real.is_file() else sources / "questions.json"
    questions = json.loads(path.read_text(encoding="utf-8"))["questions"]
    annotations = [{"question_id": q["question_id"], "answers": [{"answer": "a"}] * 10} for q in questions]
    Path("a.json").write_text(json.dumps({"annotations": annotations}))
    base = draw(sources / "all/base.jpg", 5)
    for question in questions:
        name = sources / f"all/COCO_train2014_{question['image_id']:012d}.jpg"
        if not name.exists():
            name.hardlink_to(base)
    words = ["okvqa", "--questions", str(path), "--annotations", "a.json", "--image-folder", "all", "--suffix", ""]
    assert main([*words, "--output", "o.jsonl", "--check", "none"]) == 0
    records = read_records("o.jsonl")
    texts = [item["conversations"][0]["value"].removeprefix("<image>\n") for item in records]
    assert texts == [question["question"] for question in questions]
