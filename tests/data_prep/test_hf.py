"""Hugging Face data sets in every layout and every kind of file, with the bytes of their pictures as they are."""

import functools
import json
import os
import re
import shutil
import signal
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import datasets
import huggingface_hub.errors
import pyarrow
import pyarrow.parquet
import pytest

from data_prep.__main__ import main
from data_prep.hf import command as hf
from data_prep.records.output import Drop, Reason
from data_prep.records.record import read_records
from tests.data_prep.conftest import draw
from tests.data_prep.hub import COMMIT, Hub

SUFFIX = "Answer the question using a single word or phrase."


@pytest.fixture
def jpegs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Six different JPEG files, as bytes; the working folder is the test's own."""
    monkeypatch.chdir(tmp_path)
    return [draw(tmp_path / f"raw/{number}.jpg", number).read_bytes() for number in range(6)]


def cell(raw: bytes) -> dict[str, Any]:
    """A picture as the hub's parquet files hold it."""
    return {"bytes": raw, "path": None}


def turns_of(path: str) -> list[list[str]]:
    return [[turn["value"] for turn in record["conversations"]] for record in read_records(path)]


def write(name: str, rows: list[dict[str, Any]]) -> str:
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), name)
    return name


def convert(source: str, *more: str, output: str = "r.json") -> list[dict[str, Any]]:
    assert main(["hf", source, "--output", output, "--check", "records", "--allow-drops", "1", *more]) == 0
    return list(read_records(output))


def test_messages_keep_their_turns_and_pictures_their_bytes(jpegs: list[bytes]) -> None:
    user = [{"type": "text", "text": "What is it?"}, {"type": "image", "text": None}]
    talk = [
        {"role": "user", "content": user},
        {"role": "assistant", "content": [{"type": "text", "text": "a box"}]},
        {"role": "user", "content": [{"type": "text", "text": "Which colour?"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "red"}]},
    ]
    rows = [{"messages": talk, "images": [cell(raw)]} for raw in jpegs]
    records = convert(write("m.parquet", rows))
    assert turns_of("r.json")[0] == ["What is it?\n<image>", "a box", "Which colour?", "red"]
    assert [(Path("images") / record["image"]).read_bytes() for record in records] == jpegs
    assert len(list(Path("images").rglob("*.*"))) == 6


def test_a_picture_that_many_rows_share_is_written_once(jpegs: list[bytes]) -> None:
    rows = [{"image": cell(jpegs[n % 2]), "caption": f"thing {n}"} for n in range(6)]
    records = convert(write("c.parquet", rows))
    assert len({record["image"] for record in records}) == 2 == len(list(Path("images").rglob("*.jpg")))


def test_a_picture_that_a_killed_run_left_half_written_is_written_anew(jpegs: list[bytes]) -> None:
    source = write("c.parquet", [{"image": cell(raw), "caption": "a thing"} for raw in jpegs])
    halves = [Path("images") / record["image"] for record in convert(source)][:2]
    for path in halves:
        path.write_bytes(path.read_bytes()[:100])
    records = convert(source)
    assert [(Path("images") / record["image"]).read_bytes() for record in records] == jpegs


def test_a_picture_with_the_hash_of_another_gets_a_name_of_its_own(
    jpegs: list[bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    source = write("c.parquet", [{"image": cell(raw), "caption": "a thing"} for raw in jpegs])
    other, longer, zeros = (Path("images") / record["image"] for record in convert(source)[:3])
    other.write_bytes(other.read_bytes()[:-1] + b"x")
    longer.write_bytes(longer.read_bytes() + b"x")
    zeros.write_bytes(bytes(zeros.stat().st_size))
    kept = [path.read_bytes() for path in (other, longer, zeros)]
    records = convert(source)
    assert [(Path("images") / record["image"]).read_bytes() for record in records] == jpegs
    assert [path.read_bytes() for path in (other, longer, zeros)] == kept
    (Path("images") / records[0]["image"]).write_bytes(b"damaged, too")
    assert main(["hf", source, "--output", "r.json"]) == 1
    assert f"{records[0]['image']}: other bytes stand under this picture's name" in capsys.readouterr().err


def grouped(name: str, jpegs: list[bytes], rows: int = 40) -> str:
    """Rows in groups of three; every seventh without an answer, every eleventh with bytes that are no picture."""
    table = pyarrow.Table.from_pylist(
        [
            {
                "image": cell(b"no picture" if n % 11 == 5 else jpegs[n % 6] + bytes([n])),
                "question": f"What {n}?",
                "answer": "" if n % 7 == 3 else f"thing {n}",
            }
            for n in range(rows)
        ]
    )
    pyarrow.parquet.write_table(table, name, row_group_size=3)
    return name


def damage(file: Path, group: int) -> None:
    """Write zeros over the first page of a row group."""
    raw = bytearray(file.read_bytes())
    start = pyarrow.parquet.read_metadata(file).row_group(group).column(0).dictionary_page_offset or 0
    raw[start : start + 60] = bytes(60)
    file.write_bytes(raw)


@pytest.fixture
def processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes convert, however few rows there are."""
    monkeypatch.setattr(hf, "MANY_ROWS", 10)
    monkeypatch.setattr(hf, "most_processes", lambda page: 2)


def timeless(printed: str) -> str:
    """What was printed, without the seconds that it took."""
    return re.sub(r"[\d.]+ s\b", "", printed)


@pytest.mark.usefixtures("processes")
@pytest.mark.parametrize("more", [[], ["--limit", "17"], ["--sample", "12", "--seed", "3"], ["--merge-by-image"]])
def test_several_processes_make_what_one_makes(
    more: list[str], jpegs: list[bytes], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("many").mkdir()
    grouped("many/a.parquet", jpegs, 40)
    grouped("many/b.parquet", jpegs, 8)
    together = convert("many", *more, output="two.json")
    said = timeless(capsys.readouterr().out.replace("two.", "one."))
    counts = json.loads(Path("two.meta.json").read_text())["counts"]
    pictures = {path: path.read_bytes() for path in Path("images").rglob("*.jpg")}
    shutil.rmtree("images")
    monkeypatch.setattr(hf, "most_processes", lambda page: 1)
    assert convert("many", *more, output="one.json") == together
    assert Path("one.json").read_bytes() == Path("two.json").read_bytes()
    assert json.loads(Path("one.meta.json").read_text())["counts"] == counts
    assert {path: path.read_bytes() for path in Path("images").rglob("*.jpg")} == pictures
    assert timeless(capsys.readouterr().out) == said


@pytest.mark.usefixtures("processes")
def test_a_group_that_is_damaged_is_told_by_the_process_that_reads_it(
    jpegs: list[bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    source = grouped("m.parquet", jpegs)
    damage(Path(source), 6)
    assert main(["hf", source, "--output", "r.json"]) == 1
    assert "m.parquet: a damaged parquet file" in capsys.readouterr().err
    assert not Path("r.json").exists()


def until_row_9(end: Callable[[], None], rows: Any, **more: Any) -> Iterator[Drop]:
    """In place of `convert`: the process comes to its end at row 9."""
    for number, _ in rows:
        if number == 9:
            end()
        yield Drop(Reason.NO_ANSWER, "here")


def killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def mistaken() -> None:
    raise KeyError("text")


@pytest.mark.usefixtures("processes")
@pytest.mark.parametrize(
    ("end", "words"),
    [
        (killed, "a process that reads it was killed, mostly because memory ended"),
        (mistaken, "a process that reads it failed with KeyError('text'), our mistake"),
    ],
)
def test_a_process_that_is_killed_or_mistaken_ends_the_conversion_with_a_message(
    end: Callable[[], None],
    words: str,
    jpegs: list[bytes],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(hf, "convert", functools.partial(until_row_9, end))
    assert main(["hf", grouped("m.parquet", jpegs), "--output", "r.json"]) == 1
    assert f"m.parquet: {words}" in capsys.readouterr().err
    assert not Path("r.json").exists()


def test_conversations_come_through_with_their_ids(jpegs: list[bytes]) -> None:
    talk = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "a box"}]
    rows = [{"id": f"llava-{n}", "image": cell(raw), "conversations": talk} for n, raw in enumerate(jpegs)]
    records = convert(write("c.parquet", rows))
    assert [record["id"] for record in records] == [f"llava-{n}" for n in range(6)]
    assert turns_of("r.json")[0] == ["<image>\nWhat?", "a box"]


def test_captions_are_asked_for_by_one_question(jpegs: list[bytes]) -> None:
    rows = [{"image": cell(raw), "caption": f"piece {n}"} for n, raw in enumerate(jpegs)]
    convert(write("pieces.parquet", rows), "--question", "Which piece is it?")
    assert turns_of("r.json")[3] == ["<image>\nWhich piece is it?", "piece 3"]


def test_a_mirror_of_okvqa_keeps_all_answers_and_teaches_the_most_common(jpegs: list[bytes]) -> None:
    answers = ["a pony tail", "ponytail", "ponytail"]
    rows = [
        {"question_id": 10 + n, "image": cell(raw), "question": "Which hair?", "answers": answers}
        for n, raw in enumerate(jpegs)
    ]
    records = convert(write("okvqa.parquet", rows), "--suffix", "short")
    assert records[0]["id"] == "10"
    assert records[0]["answers"] == answers
    assert turns_of("r.json")[0] == [f"<image>\nWhich hair?\n{SUFFIX}", "ponytail"]


def test_questions_on_one_picture_make_one_conversation_on_request(jpegs: list[bytes]) -> None:
    rows = [{"image": cell(jpegs[n // 3]), "question": f"What {n}?", "answer": f"thing {n}"} for n in range(6)]
    records = convert(write("q.parquet", rows), "--merge-by-image")
    assert turns_of("r.json")[0] == ["<image>\nWhat 0?", "thing 0", "What 1?", "thing 1", "What 2?", "thing 2"]
    assert len(records) == 2
    assert json.loads(Path("r.meta.json").read_text())["counts"]["in"] == 6


def test_questions_with_the_same_two_pictures_are_merged_too(jpegs: list[bytes]) -> None:
    images = [cell(jpegs[0]), cell(jpegs[1])]
    rows = [{"image": images, "question": f"What {n}?", "answer": f"thing {n}"} for n in range(2)]
    (record,) = convert(write("q.parquet", rows), "--merge-by-image")
    assert turns_of("r.json") == [["<image>\n<image>\nWhat 0?", "thing 0", "What 1?", "thing 1"]]
    assert len(record["image"]) == 2


def test_only_questions_can_be_merged(jpegs: list[bytes], capsys: pytest.CaptureFixture[str]) -> None:
    source = write("c.parquet", [{"image": cell(jpegs[0]), "caption": "a box"}])
    assert main(["hf", source, "--merge-by-image", "--output", "r.json"]) == 2
    assert "--merge-by-image: c.parquet has no column of questions, its layout is caption" in capsys.readouterr().err


def test_columns_of_other_names_are_named_by_options(jpegs: list[bytes], capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"photo": cell(raw), "ask": f"What {n}?", "reply": f"thing {n}"} for n, raw in enumerate(jpegs)]
    source = write("q.parquet", rows)
    convert(source, "--image-column", "photo", "--question-column", "ask", "--answer-column", "reply")
    assert turns_of("r.json")[1] == ["<image>\nWhat 1?", "thing 1"]
    words = ["hf", source, "--image-column", "photo", "--question-column", "aks", "--output", "x.json"]
    assert main(words) == 1
    assert 'no column "aks", did you mean "ask"?; there are photo, ask, reply' in capsys.readouterr().err


def as_data_set(jpegs: list[bytes]) -> Any:
    features = datasets.Features({"image": datasets.Image(), "caption": datasets.Value("string")})
    rows = {"image": [cell(raw) for raw in jpegs], "caption": [f"piece {n}" for n in range(len(jpegs))]}
    return datasets.Dataset.from_dict(rows, features=features)


def test_a_saved_data_set_is_read_split_by_split(jpegs: list[bytes], capsys: pytest.CaptureFixture[str]) -> None:
    whole = as_data_set(jpegs)
    parts = datasets.DatasetDict({"train": whole.select(range(4)), "test": whole.select(range(4, 6))})
    parts.save_to_disk("saved")
    assert len(convert("saved")) == 4
    convert("saved", "--split", "test")
    assert [turns[1] for turns in turns_of("r.json")] == ["piece 4", "piece 5"]
    assert main(["hf", "saved", "--split", "tset", "--output", "x.json"]) == 1
    assert 'no split "tset"; there are test, train' in capsys.readouterr().err


def test_one_arrow_file_is_read(jpegs: list[bytes]) -> None:
    as_data_set(jpegs).save_to_disk("one")
    (arrow,) = Path("one").glob("data-*.arrow")
    assert len(convert(str(arrow))) == 6
    assert len(convert("one")) == 6


def test_a_folder_of_parquet_files_is_read_split_by_split(jpegs: list[bytes]) -> None:
    rows = [{"image": cell(raw), "caption": f"piece {n}"} for n, raw in enumerate(jpegs)]
    write("hub/data/train-00000-of-00002.parquet", rows[:2])
    write("hub/data/train-00001-of-00002.parquet", rows[2:4])
    write("hub/data/validation-00000-of-00001.parquet", rows[4:])
    assert len(convert("hub")) == 4
    convert("hub", "--split", "validation")
    assert [turns[1] for turns in turns_of("r.json")] == ["piece 4", "piece 5"]


def test_a_folder_of_pictures_with_metadata_is_read_as_datasets_reads_it(jpegs: list[bytes]) -> None:
    Path("raw/metadata.jsonl").write_text(
        "".join(json.dumps({"file_name": f"{n}.jpg", "caption": f"piece {n}"}) + "\n" for n in range(6))
    )
    records = convert("raw")
    assert sorted(turns[1] for turns in turns_of("r.json")) == [f"piece {n}" for n in range(6)]
    assert sorted(record["image"] for record in records) == [f"{n}.jpg" for n in range(6)], "named, not copied"
    assert not Path("images").exists()
    assert meta()["image_folder"] == str(Path("raw").resolve())
    assert [source["path"] for source in meta()["sources"]] == ["raw/metadata.jsonl"]
    records = convert("raw", "--image-folder", "images")
    assert {(Path("images") / record["image"]).read_bytes() for record in records} == set(jpegs)


def test_a_zip_of_pictures_is_read_as_datasets_reads_it(jpegs: list[bytes]) -> None:
    Path("zipped").mkdir()
    with zipfile.ZipFile("zipped/train.zip", "w") as archive:
        for number, raw in enumerate(jpegs):
            archive.writestr(f"{number}.jpg", raw)
        rows = (json.dumps({"file_name": f"{n}.jpg", "caption": f"piece {n}"}) for n in range(6))
        archive.writestr("metadata.jsonl", "\n".join(rows))
    records = convert("zipped")
    assert sorted(turns[1] for turns in turns_of("r.json")) == [f"piece {n}" for n in range(6)]
    assert {(Path("images") / record["image"]).read_bytes() for record in records} == set(jpegs)
    assert [source["path"] for source in meta()["sources"]] == ["zipped/train.zip"]


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("../out.jpg", "image outside the folder"),
        ("/etc/hostname", "image outside the folder"),
        ("link.jpg", "image outside the folder"),
        ("https://example.org/a.jpg", "image outside the folder"),
        ("zip://a.jpg::/etc/hostname", "image outside the folder"),
        ("hf://datasets/other/set/a.jpg", "image outside the folder"),
        ("gone.jpg", "image missing"),
        ("text.jpg", "image unreadable"),
    ],
)
def test_a_row_names_only_pictures_of_its_own_data_set(
    jpegs: list[bytes], tmp_path: Path, path: str, reason: str
) -> None:
    draw(tmp_path / "out.jpg", 7)
    Path("set").mkdir()
    Path("set/own.jpg").write_bytes(jpegs[0])
    Path("set/text.jpg").write_text("text")
    Path("set/link.jpg").symlink_to(tmp_path / "out.jpg")
    rows = [{"image": {"bytes": None, "path": name}, "caption": "a box"} for name in ("own.jpg", path)]
    (record,) = convert(write("set/c.parquet", rows), "--image-folder", "images")
    assert (Path("images") / record["image"]).read_bytes() == jpegs[0]
    assert meta()["counts"]["dropped"] == {reason: 1}
    assert meta()["counts"]["first_dropped"][reason] == [f"set/c.parquet row 1: {path}"]


def test_pictures_already_below_the_image_folder_are_named_and_not_copied(jpegs: list[bytes], tmp_path: Path) -> None:
    rows = [{"image": str(tmp_path / f"raw/{n}.jpg"), "caption": f"piece {n}"} for n in range(6)]
    records = convert(write("set/c.parquet", rows), "--image-folder", "raw")
    assert [record["image"] for record in records] == [f"{n}.jpg" for n in range(6)]
    assert sorted(path.name for path in Path("raw").iterdir()) == [f"{n}.jpg" for n in range(6)]


def meta() -> dict[str, Any]:
    value: dict[str, Any] = json.loads(Path("r.meta.json").read_text())
    return value


CARD = """---
dataset_info:
  splits:
  - name: train
    num_examples: 48
    num_bytes: 0
---
"""


@pytest.fixture
def hub(jpegs: list[bytes], tmp_path: Path) -> Iterator[Hub]:
    """The data set owner/name of parquet files, two of train and one of test."""
    (tmp_path / "hub/data").mkdir(parents=True)
    for name, rows in ("train-00000-of-00002", 40), ("train-00001-of-00002", 8), ("test-00000-of-00001", 5):
        grouped(str(tmp_path / f"hub/data/{name}.parquet"), jpegs, rows)
    (tmp_path / "hub/README.md").write_text(CARD)
    with Hub(tmp_path / "hub", tmp_path / "cache") as served:
        yield served


@pytest.mark.parametrize(
    "more", [[], ["--split", "test"], ["--limit", "17"], ["--sample", "12", "--seed", "3"], ["--merge-by-image"]]
)
def test_parquet_files_of_the_hub_are_read_as_those_here(more: list[str], hub: Hub) -> None:
    here = convert("hub", *more)
    text = Path("r.json").read_text()
    pictures = {record["image"]: (Path("images") / record["image"]).read_bytes() for record in here}
    shutil.rmtree("images")
    hub.run("hf", "owner/name", "--output", "r.json", "--revision", "main", "--allow-drops", "1", *more)
    assert Path("r.json").read_text() == text.replace('"hub-', '"owner-name-')
    assert {name: (Path("images") / name).read_bytes() for name in pictures} == pictures
    assert meta()["choices"]["revision"] == COMMIT
    assert all(f"/resolve/{COMMIT}/" in request for request in hub.fetched(".parquet"))
    if not more:
        assert len(hub.fetched(".parquet")) < 20  # a file of few groups in one request, and its footer


def test_pictures_of_the_hub_are_read_as_datasets_reads_them(jpegs: list[bytes], hub: Hub) -> None:
    shutil.rmtree("hub")
    Path("hub").mkdir()
    captions = [{"file_name": f"{number}.jpg", "text": f"thing {number}"} for number in range(6)]
    Path("hub/metadata.jsonl").write_text("\n".join(map(json.dumps, captions)))
    for number, raw in enumerate(jpegs):
        Path(f"hub/{number}.jpg").write_bytes(raw)
    hub.run("hf", "owner/name", "--output", "r.json")
    records = list(read_records("r.json"))
    assert [turns[1] for turns in turns_of("r.json")] == [f"thing {number}" for number in range(6)]
    assert [(Path("images") / record["image"]).read_bytes() for record in records] == jpegs


def test_a_parquet_file_of_the_hub_that_cannot_be_read_is_told(hub: Hub) -> None:
    damaged = Path("hub/data/train-00001-of-00002.parquet")
    damage(damaged, 1)
    told = hub.run("hf", "owner/name", "--output", "r.json", code=1)
    assert f"error: hf://datasets/owner/name@{COMMIT}/data/{damaged.name}: cannot be read (" in told
    damaged.write_bytes(damaged.read_bytes()[:-1])
    told = hub.run("hf", "owner/name", "--output", "r.json", code=1)
    assert f"{damaged.name}: not a parquet file, or cut off (no footer at its end); fetch it again" in told
    told = hub.run("hf", "owner/name", "--split", "dev", "--output", "r.json", code=1)
    assert "error: owner/name: Bad split: dev. Available splits: ['train', 'test']; see --split and --config" in told
    told = hub.run("hf", "owner/other", "--output", "r.json", code=1)
    assert "error: owner/other: cannot be reached or read (" in told
    assert not Path("r.json").exists()


@pytest.mark.parametrize("kind", ["OfflineModeIsEnabled", "HTTPError"])
def test_a_hub_that_cannot_be_reached_is_said(
    jpegs: list[bytes], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    def refuse(*words: Any, **more: Any) -> None:
        raise getattr(huggingface_hub.errors, kind)("no way there")

    monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", refuse)
    assert main(["hf", "owner/name", "--output", "r.json"]) == 1
    assert "error: owner/name: cannot be reached or read (no way there); check the name" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gone.parquet", "no such file or folder (a data set of the hub is named OWNER/NAME)"),
        ("rows.txt", "not a data set that is read; data sets end in .parquet, .arrow, .csv, .json"),
    ],
)
def test_a_source_that_is_no_data_set_is_refused(
    jpegs: list[bytes], capsys: pytest.CaptureFixture[str], name: str, message: str
) -> None:
    Path("rows.txt").write_text("image,caption\n")
    assert main(["hf", name, "--output", "r.json"]) == 1
    assert f"error: {name}: {message}" in capsys.readouterr().err


def test_limit_takes_the_first_and_sample_draws_the_same_again(jpegs: list[bytes]) -> None:
    rows = [{"image": cell(jpegs[n % 6]), "caption": f"piece {n}"} for n in range(100)]
    source = write("c.parquet", rows)
    convert(source, "--limit", "10")
    assert [turns[1] for turns in turns_of("r.json")] == [f"piece {n}" for n in range(10)]
    drawn = []
    for seed in ("1", "1", "2"):
        convert(source, "--sample", "10", "--seed", seed)
        drawn.append([turns[1] for turns in turns_of("r.json")])
    assert drawn[0] == drawn[1] != drawn[2]
    assert len(set(drawn[0])) == 10
    assert drawn[0] == sorted(drawn[0], key=lambda text: int(text.split()[1])), "the order of the data set stays"


def test_rows_that_cannot_be_learned_are_dropped_and_counted(jpegs: list[bytes]) -> None:
    image = cell(jpegs[0])
    rows = [
        {"image": image, "question": "What?", "answer": "a box"},
        {"image": cell(b"<html>not found</html>"), "question": "What?", "answer": "a box"},
        {"image": image, "question": " ", "answer": "a box"},
        {"image": image, "question": "What?", "answer": ""},
        {"image": None, "question": "What?", "answer": "a box"},
    ]
    assert len(convert(write("q.parquet", rows))) == 1
    counts = json.loads(Path("r.meta.json").read_text())["counts"]
    assert counts["dropped"] == {"image unreadable": 1, "empty question": 1, "empty answer": 1, "no image named": 1}
    assert counts["in"] == 5
    assert counts["first_dropped"]["image unreadable"] == ["q.parquet row 1"]


@pytest.mark.parametrize(
    ("roles", "words"),
    [
        (("user", "critic"), 'unknown role "critic"'),
        (("user", "tool"), "turns human: expected human, gpt, human, gpt"),
        (("user", "user"), "expected human, gpt, human, gpt"),
    ],
)
def test_turns_that_do_not_alternate_are_dropped_by_row(jpegs: list[bytes], roles: tuple[str, str], words: str) -> None:
    def row(roles: tuple[str, str]) -> dict[str, Any]:
        return {"messages": [{"role": r, "content": "text"} for r in roles], "images": [cell(jpegs[0])]}

    assert len(convert(write("m.parquet", [row(("user", "assistant")), row(roles)]))) == 1
    first = json.loads(Path("r.meta.json").read_text())["counts"]["first_dropped"]["turns not mendable"]
    assert words in first[0]


def test_a_cut_off_parquet_file_is_named(jpegs: list[bytes], capsys: pytest.CaptureFixture[str]) -> None:
    write("c.parquet", [{"image": cell(raw), "caption": "x"} for raw in jpegs])
    Path("c.parquet").write_bytes(Path("c.parquet").read_bytes()[:-50])
    assert main(["hf", "c.parquet", "--output", "r.json"]) == 1
    assert "error: c.parquet: not a parquet file, or cut off" in capsys.readouterr().err
    assert not Path("r.json").exists()
