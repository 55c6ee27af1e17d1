"""What a check finds, in how many processes, and that it is cached; the real OK-VQA questions convert."""

import json
import os
import random
import shutil
import sys
from pathlib import Path

import pytest
from PIL import Image

from data_prep.__main__ import main
from data_prep.check import check_records
from data_prep.check.scan import Worker, scan
from data_prep.check.texts import faults
from data_prep.errors import PictureFault
from data_prep.records.record import read_records, write_records
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


@pytest.mark.parametrize("long", ["y" * 5000, ["y" * 5000], {"text": "y" * 5000}, [[["y"] * 99] * 99] * 99])
def test_what_is_long_is_cut_inside_its_quotes_and_brackets(long: object) -> None:
    told = [fault.detail for key in ("from", "value") for fault in faults(turn_with(key, long))]
    told += [fault.detail for fault in faults({"id": "a", "conversations": long})]
    assert told
    for detail in told:
        assert len(detail) < 300
        assert not detail.count("'") % 2 and all(detail.count(a) == detail.count(b) for a, b in ("[]", "{}", "()"))


def turn_with(key: str, value: object) -> dict[str, object]:
    answer = {"from": "gpt", "value": "red", key: value}
    return {"id": "a", "conversations": [{"from": "human", "value": "What?"}, answer], "history": value}


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


def test_every_bad_picture_and_line_is_named_with_file_and_record(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "in"
    draw(folder / "good.jpg", 1)
    draw(tmp_path / "out.jpg", 2)
    Image.new("1", (10_000, 10_000)).save(folder / "bomb.png")
    (folder / "text.jpg").write_bytes(b"just text")
    (folder / "cut.jpg").write_bytes((folder / "good.jpg").read_bytes()[:500])
    (folder / "link.jpg").symlink_to(tmp_path / "out.jpg")
    names = {
        "good.jpg": "", "bomb.png": "image too large", "text.jpg": "not a picture", "cut.jpg": "image truncated",
        "gone.jpg": "image missing", "../out.jpg": "image outside the folder",
        str(tmp_path / "out.jpg"): "image outside the folder", "link.jpg": "image outside the folder",
    }  # fmt: skip
    path = tmp_path / "r.jsonl"
    lines = [json.dumps(record(f"id-{number}", name, answer=str(number))) for number, name in enumerate(names)]
    critic = {**turns(("critic", "<image>\nWhat?"), ("gpt", "a dog")), "id": "role", "image": "good.jpg"}
    path.write_text("\n".join([*lines, '{"id": ', "[1, 2]", json.dumps(critic)]))
    assert main(["check", str(path), "--image-folder", str(folder)]) == 1
    out = capsys.readouterr().out
    assert out.startswith(f"check {path}: 11 records")
    for number, (name, kind) in enumerate(names.items()):
        told = f'line {number + 1}, record "id-{number}": {name}: '
        assert (told in out) == bool(kind), name
        assert kind in out
    assert "line 9, column 8: record 9: broken JSON" in out
    assert "line 10: record 10: expected an object {...}, found a list" in out
    assert 'line 11, record "role": role "critic", expected human or gpt' in out
    report = check_records(path, folder)
    assert {kind: report.by_kind[kind].count for kind in set(names.values()) if kind} == {
        "image too large": 1, "not a picture": 1, "image truncated": 1, "image missing": 1,
        "image outside the folder": 3,
    }  # fmt: skip


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
        ([{"question_id": 1, "answers": []}] * 2, "annotation 2: question 1 has an annotation already; remove one"),
    ],
)
def test_annotations_that_do_not_pair_up_are_refused(
    sources: Path, capsys: pytest.CaptureFixture[str], annotations: list[object], message: str
) -> None:
    Path("a.json").write_text(json.dumps({"annotations": annotations}))
    words = ["okvqa", "--questions", "questions.json", "--annotations", "a.json", "--image-folder", "coco"]
    assert main([*words, "--output", "o.json"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: a.json: annotation ")
    assert message in error
    assert not Path("o.json").exists()


def test_okvqa_questions_convert_with_no_text_changed(sources: Path) -> None:
    path = Path(os.environ.get("OKVQA_QUESTIONS", sources / "questions.json"))  # the real 9,009, where they are at hand
    questions = json.loads(path.read_text(encoding="utf-8"))["questions"]
    annotations = [{"question_id": q["question_id"], "answers": [{"answer": "a"}] * 10} for q in questions]
    Path("a.json").write_text(json.dumps({"annotations": annotations}))
    base = draw(sources / "all/base.jpg", 5)
    for question in questions:
        name = sources / f"all/COCO_train2014_{question['image_id']:012d}.jpg"
        if not name.exists():
            name.hardlink_to(base)
    words = ["okvqa", "--questions", str(path), "--annotations", "a.json", "--image-folder", "all", "--suffix", ""]
    assert main([*words, "--output", "o.jsonl", "--check", "records"]) == 0
    records = read_records("o.jsonl")
    texts = [item["conversations"][0]["value"].removeprefix("<image>\n") for item in records]
    assert texts == [question["question"] for question in questions]


def findings(folder: Path, rows: list[dict[str, object]], **more: object) -> dict[str, list[str]]:
    """The details of every finding by kind."""
    write_records(folder / "r.json", rows)
    report = check_records(folder / "r.json", folder, **more)  # type: ignore[arg-type]
    return {found.kind.name: [example.detail for example in found.examples] for found in report.findings}


def test_copies_and_lookalikes_are_told_apart(tmp_path: Path) -> None:
    for number in range(3):
        photograph(number).save(tmp_path / f"{number}.png")
    shutil.copy(tmp_path / "0.png", tmp_path / "copy.png")
    photograph(1).resize((300, 220)).save(tmp_path / "smaller.jpg", quality=70)
    names = ("0.png", "1.png", "2.png", "copy.png", "smaller.jpg")
    found = findings(tmp_path, [record(name, name, answer=name) for name in names])
    assert found["same picture twice"] == ["copy.png and 0.png"]
    assert found["similar pictures"] == ["smaller.jpg and 1.png"]


def photograph(seed: int) -> Image.Image:
    """A picture with many shades, different for each seed."""
    draw_from = random.Random(seed)
    small = Image.new("RGB", (8, 6))
    small.putdata([tuple(draw_from.randrange(256) for _ in range(3)) for _ in range(48)])
    return small.resize((400, 300), Image.Resampling.BICUBIC)


def test_animated_misnamed_turned_and_tiny_pictures_are_noted_and_do_not_stop_training(tmp_path: Path) -> None:
    frames = [photograph(seed).resize((40, 30)) for seed in range(3)]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    photograph(4).save(tmp_path / "named.jpg", "PNG")
    exif = Image.Exif()
    exif[0x0112] = 6
    photograph(5).save(tmp_path / "turned.jpg", exif=exif)
    photograph(6).resize((9, 30)).save(tmp_path / "tiny.png")
    names = ("moving.gif", "named.jpg", "turned.jpg", "tiny.png")
    rows = [record(name, name, answer=name) for name in names]
    found = findings(tmp_path, rows)
    assert found["animated"] == ["moving.gif has 3 frames"]
    assert found["wrong extension"] == ["named.jpg holds .png bytes"]
    assert found["turned by EXIF"] == ["turned.jpg"]
    assert found["tiny picture"] == ["tiny.png is 9 x 30"]
    assert check_records(tmp_path / "r.json", tmp_path).ok


def test_a_lookalike_in_the_test_file_is_a_warning(tmp_path: Path) -> None:
    photograph(1).save(tmp_path / "a.png")
    photograph(1).resize((300, 220)).save(tmp_path / "b.jpg", quality=70)
    write_records(tmp_path / "test.json", [record("t", "b.jpg")])
    found = findings(tmp_path, [record("a", "a.png")], test_path=tmp_path / "test.json")
    assert found["similar in train and test"] == ["a.png looks like b.jpg of the test file"]


def test_ids_and_records_that_stand_twice_and_answers_that_rule_are_found(tmp_path: Path) -> None:
    draw(tmp_path / "a.jpg", 1)
    rows = [record("x", "a.jpg", answer="yes"), record("x", "a.jpg", answer="yes"), {**record("y", "a.jpg"), "id": "y"}]
    rows += [record(f"n{n}", "a.jpg", question=f"<image>\nWhat {n}?", answer="yes") for n in range(30)]
    del rows[2]["id"]
    found = findings(tmp_path, rows)
    assert found["id twice"] == ["record 1 has the same id"]
    assert found["record twice"] == ["record 1 has the same picture and text"]
    assert found["no id"] == ['no "id"']
    assert found["one answer rules"] == ["'yes' is 97% of 33 answers"]


@pytest.mark.slow
def test_with_a_model_pictures_count_as_their_tokens_and_what_is_cut_off_is_named(tmp_path: Path) -> None:
    from tests.tiny import make_tiny_llava

    draw(tmp_path / "a.jpg", 1, (60, 60))
    rows = [
        record("short", "a.jpg", answer="a dog"),
        record("long", "a.jpg", answer="a dog and " * 40),
        record("late", "a.jpg", question="<image>\n" + "What is it, please? " * 60, answer="a dog"),
    ]
    write_records(tmp_path / "r.json", rows)
    for family, tokens in (("llava-1.5", "16"), ("1.6-mistral", None)):
        model = make_tiny_llava(tmp_path / family, family)
        report = check_records(tmp_path / "r.json", tmp_path, model=str(model), max_length=160)
        places = {found.kind.name: [example.record for example in found.examples] for found in report.findings}
        assert places["answer cut off"] == ["long"]
        assert places["no supervised token"] == ["late"]
        assert not report.ok
        counted = report.statistics["tokens"]
        assert counted["context"] == 160
        assert counted["image_tokens"] == tokens if tokens else int(counted["image_tokens"]) > 16


def test_the_page_shows_each_finding_with_its_pictures(tmp_path: Path) -> None:
    from data_prep.check.page import write_check_page

    for number in range(2):
        photograph(number).save(tmp_path / f"{number}.png")
    shutil.copy(tmp_path / "0.png", tmp_path / "copy.png")
    rows = [record("a<b>", "0.png", answer="<image> x"), record("b", "copy.png"), record("c", "gone.png")]
    write_records(tmp_path / "r.json", rows)
    write_check_page(check_records(tmp_path / "r.json", tmp_path), tmp_path / "c.html")
    page = (tmp_path / "c.html").read_text(encoding="utf-8")
    assert "Training would be wrong." in page
    assert "a&lt;b&gt;" in page and "a<b>" not in page
    assert page.count("<img ") == 3
    assert "http" not in page and "prefers-color-scheme: dark" in page


def test_what_is_mended_comes_out_right_and_the_rest_is_listed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    draw(tmp_path / "a.jpg", 1)
    rows: list[dict[str, object]] = [
        {"id": "roles", "image": "a.jpg", **turns(("user", "<image>\nWhat?"), ("assistant", "a dog"))},
        {"id": "key", "img": "a.jpg", **turns(("human", "What?"), ("gpt", "a cat"))},
        {"id": "end", "image": "a.jpg", **turns(("human", "<image>\nWho?"), ("gpt", "a cow</s>"))},
        {"id": "number", "image": "a.jpg", **turns(("human", "<image>\nHow many?"), ("gpt", 3))},
        {"id": "role", "image": "a.jpg", **turns(("critic", "<image>\nWhat?"), ("gpt", "a dog"))},
    ]
    rows = [{**row, "id": name} for row, name in zip(rows, ("roles", "key", "end", "number", "role"), strict=True)]
    write_records(tmp_path / "r.json", rows)
    words = ["check", str(tmp_path / "r.json"), "--image-folder", str(tmp_path), "--fix", str(tmp_path / "m.json")]
    assert main(words) == 1
    assert "1 of 5 records are dropped, more than 5%" in capsys.readouterr().err
    assert main([*words, "--allow-drops", "0.2"]) == 0
    mended = {item["id"]: item["conversations"] for item in read_records(tmp_path / "m.json")}
    assert list(mended) == ["roles", "key", "end", "number"]
    assert mended["roles"][0] == {"from": "human", "value": "<image>\nWhat?"}
    assert mended["key"][0]["value"] == "<image>\nWhat?"
    assert mended["end"][1]["value"] == "a cow"
    assert mended["number"][1]["value"] == "3"
    meta = json.loads((tmp_path / "m.meta.json").read_text())
    assert [entry["record"] for entry in meta["dropped"]] == ["role"]
    assert meta["counts"]["mended"]["unknown role"] == 1


def preferred(rejected: object, *, chosen: object = "yes", answered: bool = False, **more: object) -> dict[str, object]:
    asked = [("human", "<image>\nIs it?"), ("gpt", "yes")][: 1 + answered]
    return {**turns(*asked), "image": "a.jpg", "chosen": chosen, "rejected": rejected, **more}


@pytest.mark.parametrize(
    ("bad", "kinds"),
    [
        (preferred("no"), []),
        (preferred("no", answered=True), []),
        (preferred({"from": "gpt", "value": "no"}), []),
        (preferred(" yes"), ["chosen is rejected"]),
        (preferred(None), ["pair not whole"]),
        (preferred(""), ["pair not whole"]),
        (preferred("no", chosen="maybe", answered=True), ["pair not whole"]),
        (preferred("no</s>"), ["end token in text"]),
        ({**turns(("human", "Is it?")), "chosen": "yes", "rejected": "no"}, ["pair without a picture"]),
    ],
)
def test_bad_pairs_are_findings(bad: dict[str, object], kinds: list[str]) -> None:
    assert [fault.kind for fault in faults(bad)] == kinds
