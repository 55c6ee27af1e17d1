"""What lies in a workspace becomes rows; what is typed is saved, and never over what somebody else typed."""

from __future__ import annotations

import errno
import json
import os
import shutil
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from data_prep.converters.table import main as make_records
from llava_finetune.studio import jobs
from llava_finetune.studio.buttons import prepare
from llava_finetune.studio.table import read_table, table_text
from tests.studio.conftest import HEADERS, Page, fill, taken


def edit(row: str, was: str, now: str, column: str = "answer") -> dict[str, str]:
    return {"row": row, "column": column, "was": was, "now": now}


def test_what_lies_in_the_workspace_is_recognised_with_its_pictures(page: Page) -> None:
    names = [(one["name"], one["kind"], one["pictures"]) for one in page.ask("sources")["sources"]]
    assert names == [("photos", "pictures", 20), ("colours.csv", "table", 0)]
    seen = page.ask("look", name="colours.csv")
    assert (seen["images"], seen["found"], seen["roles"]["image"]) == ("photos", 20, "photo")
    assert seen["rows"][0] == {"photo": "000.png", "colour of it": "red", "": "000.png"}


def test_rows_are_joined_and_what_was_typed_stays(filled: Page) -> None:
    filled.ask("edit", edits=[edit("row-1", "red", "dark red")])
    again = filled.ask("take", **taken(filled.folder))
    assert again["counts"] == {"added": 0, "filled": 0, "kept": 20, "without": 0}
    rows = read_table(filled.folder / "answers.csv").rows
    assert rows[0]["answer"] == "dark red" and rows[0]["question"] == "Which colour?" and len(rows) == 20


def test_pictures_of_a_second_folder_join_those_of_the_first(filled: Page) -> None:
    folder = filled.folder / "more"
    folder.mkdir()
    for name in ("a.png", "000.png"):
        shutil.copy(filled.folder / "photos/005.png", folder / name)
    wanted = {"name": "more", "images": "more", "question": "What?"}
    assert filled.ask("take", **wanted)["counts"]["added"] == 2
    assert filled.ask("take", **wanted)["counts"] == {"added": 0, "filled": 0, "kept": 2, "without": 0}
    rows = read_table(filled.folder / "answers.csv").rows
    assert [row["image"] for row in rows[-2:]] == ["more/000.png", "more/a.png"] and rows[0]["image"] == "000.png"
    assert filled.studio.space.settings()["images"] == "photos"
    assert (filled.folder / "photos/more/a.png").samefile(folder / "a.png"), "no second copy on the disk"
    assert filled.ask("take", name="photos/more", images="photos/more")["counts"]["added"] == 2  # another question
    assert read_table(filled.folder / "answers.csv").rows[-1]["image"] == "more/a.png"


def test_a_table_of_an_older_program_is_read_as_somebody_chose(page: Page) -> None:
    (page.folder / "old.csv").write_bytes("photo;answer\n000.png;Läufer\n".encode("cp1252"))
    readings = dict(page.ask("look", name="old.csv")["readings"])
    assert "Läufer" in readings["cp1252"] and len(readings) > 1
    seen = page.ask("look", name="old.csv", encoding="cp1252")
    assert seen["rows"][0]["answer"] == "Läufer" and seen["encoding"] == "cp1252"
    page.ask("take", name="old.csv", images="photos", roles=seen["roles"], encoding="cp1252")
    assert read_table(page.folder / "answers.csv").rows[0]["answer"] == "Läufer"
    for text, says in (
        ("000.png,red\n001.png,red\n", "no columns but a picture, 000.png"),
        ("image\n", "no row is in it"),
    ):
        (page.folder / "old.csv").write_text(text)
        assert says in page.post("look", {"name": "old.csv"}).json()["error"]


def test_an_answer_that_is_nan_stays_as_it_was_typed(filled: Page) -> None:
    rows = read_table(filled.folder / "answers.csv").rows
    filled.ask("edit", edits=[edit("row-1", "red", "nan")])
    os.utime(filled.folder / "answers.csv", (1, 1))  # as if another program had saved it
    filled.ask("edit", edits=[edit("row-2", rows[1]["answer"], "NaN")])
    assert [row["answer"] for row in read_table(filled.folder / "answers.csv").rows[:2]] == ["nan", "NaN"]


def test_folders_that_are_labels_become_answers(page: Page) -> None:
    for label in ("rook", "pawn"):
        (page.folder / "pieces" / label).mkdir(parents=True)
        shutil.copy(page.folder / "photos/000.png", page.folder / "pieces" / label / "a.png")
    seen = page.ask("look", name="pieces")
    assert seen["labels"] and [row["answer"] for row in seen["rows"]] == ["pawn", "rook"]


def test_names_that_are_not_utf8_are_told_and_texts_keep_their_letters(page: Page) -> None:
    folder = page.folder / "old"
    folder.mkdir()
    shutil.copy(page.folder / "photos/000.png", folder / "a.png")
    (folder / "a.txt").write_bytes("Läufer".encode("utf-8-sig"))
    assert page.ask("look", name="old")["rows"][0]["answer"] == "Läufer"
    (folder / "a.txt").write_bytes("Läufer".encode("latin-1"))
    assert "is not UTF-8" in page.post("look", {"name": "old"}).json()["error"]
    (folder / "a.txt").unlink()
    shutil.copy(os.fsencode(folder / "a.png"), os.fsencode(folder) + b"/caf\xe9.png")
    for name, value in (("look", {}), ("take", {"images": "old"})):
        refused = page.post(name, {"name": "old", **value})
        assert refused.status_code == 400 and "caf\ufffd.png is not UTF-8" in refused.json()["error"]
    os.rename(os.fsencode(folder), os.fsencode(folder) + b"\xe9")  # noqa: PTH104  (bytes)
    assert "old?" in [one["name"] for one in page.ask("sources")["sources"]]


def test_a_zip_is_unpacked_and_one_that_leads_out_is_refused(page: Page) -> None:
    with zipfile.ZipFile(page.folder / "more.zip", "w") as file:
        file.write(page.folder / "photos/000.png", "in/a.png")
        file.writestr("in/answers.csv", "file,answer\na.png,red\n")
        file.writestr("__MACOSX/in/._a.png", b"x")
    seen = page.ask("look", name="more.zip")
    assert (seen["name"], seen["found"]) == ("more/in/answers.csv", 1)
    with zipfile.ZipFile(page.folder / "evil.zip", "w") as file:
        file.writestr("../../evil.png", b"x")
    refused = page.post("look", {"name": "evil.zip"})
    assert refused.status_code == 400 and "leads out of the folder" in refused.json()["error"]
    assert not (page.folder.parent / "evil.png").exists()


def test_a_damaged_zip_leaves_nothing_and_one_is_unpacked_once_and_without_programs(page: Page) -> None:
    picture = (page.folder / "photos/000.png").read_bytes()
    with zipfile.ZipFile(page.folder / "torch.zip", "w") as file:
        file.writestr(".", b"x")
        file.writestr("__init__.py", "raise SystemExit")
        file.writestr("a.png", picture)
        file.writestr("b.txt", "blue " * 500, zipfile.ZIP_DEFLATED)
    for _ in range(3):
        assert page.ask("look", name="torch.zip")["name"] == "torch"
    assert sorted(path.name for path in (page.folder / "torch").iterdir()) == ["a.png", "b.txt"]
    assert not (page.folder / "torch-unpacked").exists()

    whole = bytearray((page.folder / "torch.zip").read_bytes())
    place = whole.find(b"b.txt") + 5
    whole[place : place + 12] = b"\xff" * 12
    (page.folder / "broken.zip").write_bytes(whole)
    refused = page.post("look", {"name": "broken.zip"})
    assert refused.status_code == 400 and "pack it again" in refused.json()["error"]
    assert not (page.folder / "broken").exists()
    assert not list((page.folder / ".studio").glob("unpacking-*"))


def test_two_pages_never_overwrite_each_other_in_silence(filled: Page) -> None:
    assert filled.ask("edit", edits=[edit("row-1", "red", "ruby")])["refused"] == []
    both = [edit("row-1", "red", "scarlet"), edit("row-2", "green", "lime")]
    assert filled.ask("edit", edits=both)["refused"] == [{"row": "row-1", "column": "answer", "now": "ruby"}]
    answers = [row["answer"] for row in read_table(filled.folder / "answers.csv").rows[:2]]
    assert answers == ["ruby", "lime"]


def test_a_spreadsheet_that_wrote_meanwhile_is_seen(filled: Page) -> None:
    path = filled.folder / "answers.csv"
    path.write_text(path.read_text(encoding="utf-8").replace(",red", ",crimson", 1), encoding="utf-8")
    assert filled.ask("rows", count=1)["rows"][0]["answer"] == "crimson"
    assert filled.ask("edit", edits=[edit("row-1", "red", "ruby")])["refused"][0]["now"] == "crimson"


def test_what_is_typed_is_taught_whatever_other_columns_a_table_has(
    filled: Page, monkeypatch: pytest.MonkeyPatch
) -> None:
    cells = {"id": "1", "image": "000.png", "question": "Which?", "answer": "nan", "answers": "['x']", "Answer": "y"}
    row = {**cells, "Image": "z", "Question": "w"}
    (filled.folder / "answers.csv").write_text(table_text(list(row), [row]), encoding="utf-8")
    monkeypatch.chdir(filled.folder)
    words = prepare(filled.studio.space, 0.2, mend=False)[0].argv
    assert words[:4] == ("python", "-m", "data_prep", "table")
    assert make_records(words[4:]) == 0
    (record,) = json.loads((filled.folder / "records.json").read_text(encoding="utf-8"))
    said = [turn["value"].removeprefix("<image>\n") for turn in record["conversations"]]
    assert (record["image"], said) == ("000.png", ["Which?", "nan"])


def test_an_answer_to_no_question_is_told(filled: Page) -> None:
    filled.ask("edit", edits=[edit("row-3", "Which colour?", " ", "question")])
    (found,) = filled.ask("findings")["kinds"]
    assert (found["kind"], found["rows"], found["is_left_out"]) == ("empty text", ["row-3"], True)


def test_a_picture_that_no_file_can_be_is_told_as_missing(filled: Page) -> None:
    with (filled.folder / "answers.csv").open("a", encoding="utf-8") as file:
        file.write(f"long,{'a' * 300},?,x\nout,{filled.folder / 'colours.csv'},?,x\nnone,,?,x\n")
    rows = {row["id"]: row.get("found") for row in filled.ask("rows")["rows"]}
    assert [rows[name] for name in ("long", "out", "none")] == [["image missing"]] * 3


def test_a_table_is_read_as_it_was_written() -> None:
    row = {"id": "1", "image": "a.png", "question": 'two\nlines, "quoted"', "answer": "=1+1", "note": "x"}
    text = table_text(list(row), [row])
    assert text.startswith("\ufeff") and text.count("\n") == 3


def test_every_cell_and_column_comes_back_from_the_file_as_it_went(tmp_path: Path) -> None:
    answers = ["a\rb", "a\r\nb", "a\n\nb", 'say "no"', "=1+1", " blanks ", "a;b|c\td,e", "", "白马 ♘"]
    names = ["id", "image", "question", "answer", "x|y;w|h;a|b"]
    rows = [dict(zip(names, (str(place), "a.png", "?", one, one), strict=True)) for place, one in enumerate(answers)]
    (tmp_path / "answers.csv").write_text(table_text(names, rows), encoding="utf-8", newline="")
    assert list(read_table(tmp_path / "answers.csv").rows) == rows


def test_a_full_disk_is_said_and_leaves_the_table_as_it_was(filled: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    before = (filled.folder / "answers.csv").read_bytes()

    def full(self: Path, *_: Any, **__: Any) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", full)
        refused = filled.post("edit", {"edits": [edit("row-1", "red", "ruby")]})
    assert refused.status_code == 507 and "disk is full" in refused.json()["error"]
    assert (filled.folder / "answers.csv").read_bytes() == before
    assert filled.ask("edit", edits=[edit("row-1", "red", "ruby")])["refused"] == []


def test_a_folder_pulled_away_is_said_and_nothing_is_made_in_its_place(filled: Page) -> None:
    away = filled.folder.with_name("away")
    filled.folder.rename(away)
    for name in ("state", "rows", "edit", "jobs", "sources"):
        refused = filled.post(name, {"edits": [edit("row-1", "red", "ruby")]} if name == "edit" else {})
        assert refused.status_code == 503 and "put it back" in refused.json()["error"]
    data = (away / "photos/000.png").read_bytes()
    asked = {"name": "new.png", "offset": 0, "size": len(data)}
    assert httpx.put(f"{filled.url}/upload", params=asked, content=data, headers=HEADERS).status_code == 503
    assert not filled.folder.exists()
    away.rename(filled.folder)
    assert filled.ask("rows")["total"] == 20


def test_check_and_split_say_what_stands_where_and_mend_it(filled: Page) -> None:
    (filled.folder / "photos/003.png").write_bytes((filled.folder / "photos/003.png").read_bytes()[:60])
    (filled.folder / "photos/005.png").unlink()
    job = jobs.find(filled.studio.space, filled.ask("prepare", test=0.25)["job"])
    assert "already" in filled.post("prepare", {"test": 0.5, "mend": True}).json()["error"]
    settings = filled.studio.space.settings()
    assert settings["test"] == 0.25 and "mend" not in settings, "what a refused click asked for is no choice"
    assert wait(job) == "found", jobs.log_tail(job)
    found = filled.ask("findings")
    assert {one["kind"]: one["rows"] for one in found["kinds"] if one["severity"] == "error"} == {
        "image missing": ["row-6"],
        "image truncated": ["row-4"],
    }
    assert found["parts"] == {} and not found["fresh"] and found["answered"] == 18
    by_kind = {one["kind"]: one["is_mendable"] for one in found["kinds"]}
    assert by_kind["image truncated"] and not by_kind["image missing"], "a row that is no record is mended in the table"
    assert [row["id"] for row in filled.ask("rows", show="found:image truncated")["rows"]] == ["row-4"]

    job = jobs.find(filled.studio.space, filled.ask("prepare", test=0.25, mend=True)["job"])
    assert wait(job) == "done", jobs.log_tail(job)
    found = filled.ask("findings")
    (filled.folder / "answers.csv").touch()
    assert filled.ask("findings")["fresh"], "the same answers"
    assert found["fresh"] and sum(found["parts"].values()) == 16 and found["shared"] == []
    assert found["mended"]["counts"]["dropped"] == {"image truncated": 1}
    assert len(read_table(filled.folder / "answers.csv").rows) == 20
    filled.ask("edit", edits=[edit("row-1", "red", "ruby")])
    (filled.folder / "data/train.json").touch()  # split after the edit, from records before it
    assert not filled.ask("findings")["fresh"]


def test_two_pages_that_click_at_once_start_one_job(filled: Page) -> None:
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: filled.post("prepare", {"test": 0.25}).status_code, range(4)))
    assert sorted(answers) == [200, 400, 400, 400]
    (job,) = jobs.jobs(filled.studio.space)
    jobs.stop(job, now=True)


def test_findings_of_other_records_are_shown_at_no_row(filled: Page) -> None:
    found = [{"kind": "image truncated", "count": 1, "examples": [], "indices": [0]}]
    (filled.folder / "check.json").write_text(json.dumps({"findings": found, "ok": False}))
    (filled.folder / "records.json").write_text(json.dumps([{"id": "row-5"}]))
    os.utime(filled.folder / "check.json", (1, 1))
    assert filled.ask("findings")["kinds"] == []
    (filled.folder / "check.json").touch()
    assert filled.ask("findings")["kinds"][0]["rows"] == ["row-5"]


def wait(job: jobs.Job) -> str:

    end = time.monotonic() + 120
    while (state := jobs.look(job).state) not in jobs.ENDED:
        assert time.monotonic() < end, jobs.log_tail(job)
        time.sleep(0.05)
    return state


def test_a_file_comes_in_pieces_and_lies_where_it_belongs(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    data = (page.folder / "photos/001.png").read_bytes()

    def put(name: str, offset: int, part: bytes, size: int = len(data)) -> httpx.Response:
        query = {"name": name, "offset": offset, "size": size}
        return httpx.put(f"{page.url}/upload", params=query, content=part, headers=HEADERS)

    assert put("new.png", 0, data[:50]).json() == {"name": None}
    begun, old = (page.folder / f".studio/uploads/{name}.part" for name in ("begun", "old"))
    for path, age in ((begun, 3600), (old, 100_000)):
        path.touch()
        os.utime(path, (time.time() - age,) * 2)
    assert put("other.png", 0, data[:50]).json() == {"name": None}
    assert begun.exists() and not old.exists(), "what did not go on for a day is forgotten"
    assert put("new.png", 50, data[50:]).json() == {"name": "photos/new.png"}
    assert (page.folder / "photos/new.png").read_bytes() == data
    assert put("new.png", 0, data).json() == {"name": "photos/new.png"}
    assert put("new.png", 0, data + b"x", len(data) + 1).json() == {"name": "photos/new-2.png"}
    assert put("answers.csv", 0, data).json() == {"name": "added-answers.csv"}
    (page.folder / "board").mkdir()
    page.studio.space.keep(images="board")
    assert put("late.png", 0, data).json() == {"name": "board/late.png"}, "beside the pictures that rows name"
    for name in ("../x.png", "a/../../x.png", ".ssh/x.png", "x.html", "run.sh", "jobs/../../x.png"):
        assert put(name, 0, data).status_code == 400, name
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=len(data)))
    assert put("large.zip", 0, data, len(data) + 1).status_code == 507, "told before all of it came"


def test_thumbnails_are_pixels_alone_and_made_once(filled: Page) -> None:
    first = httpx.get(f"{filled.url}/thumbnail/000.png")
    assert first.headers["content-type"] == "image/webp" and first.content[8:12] == b"WEBP"
    assert len(list((filled.folder / ".studio/thumbnails").rglob("*.webp"))) == 1
    assert httpx.get(f"{filled.url}/thumbnail/000.png").content == first.content
    (filled.folder / "photos/evil.png").write_text("<script>alert(1)</script>")
    assert httpx.get(f"{filled.url}/thumbnail/evil.png").status_code == 404
    assert httpx.get(f"{filled.url}/picture/nothing.png").status_code == 404


def test_another_workspace_can_be_begun_with_a_folder_of_ones_own(tmp_path: Path) -> None:
    from llava_finetune.errors import UserError
    from llava_finetune.studio.workspace import Workspace

    folder = fill(tmp_path / "own")
    assert Workspace.open(folder).settings() == {}
    (folder / "file").write_text("")
    with pytest.raises(UserError, match="no workspace can be made here"):
        Workspace.open(folder / "file")
