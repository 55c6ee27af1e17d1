"""What other tools write converts in one command, pictures and turns as they were; what cannot be seen is refused."""

import base64
import json
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.__main__ import main
from data_prep.hf.marks import with_images
from data_prep.hf.parts import content_text, parts_of
from data_prep.records.record import read_records, resolve_image
from tests.data_prep.others import CALL, dialogues


def hf(source: str, *more: str, code: int = 0) -> list[dict[str, Any]]:
    Path("r.json").unlink(missing_ok=True)
    assert main(["hf", source, "--output", "r.json", "--check", "none", "--image-folder", ".", *more]) == code
    return list(read_records("r.json")) if Path("r.json").exists() else []


def said(record: dict[str, Any]) -> list[str]:
    return [turn["value"] for turn in record["conversations"]]


ASKED = ["<image>\nWhat is it?", "a box"]
LAYOUTS = {
    "factory.json": ["<image>What is it?", "a box"],
    "alpaca.json": ["<image>\nWhat is it?\nBe brief.", "a box"],
    "swift.jsonl": ["<image>What is it?", "a box"],
    "sharegpt.json": ['Be brief.\n[{"name": "measure"}]\n\n<image>What is it?', CALL, "9 cm", "a box"],
    "openai.jsonl": ["Be brief.\n\nWhat is it?\n<image>", "a box"],
    "tools.jsonl": [ASKED[0], CALL, "9 cm", "a box"],
    "qwen.json": ASKED,
    "claude.jsonl": ASKED,
    "minicpm.json": ASKED,
    "phi.json": ASKED,
    "base64.csv": ASKED,
    "docvqa.parquet": ASKED,
}


def test_every_file_of_dialogues_has_its_turns_here(sources: Path) -> None:
    assert set(dialogues("")) <= set(LAYOUTS)


@pytest.mark.parametrize("name", LAYOUTS)
def test_what_another_tool_wrote_converts_with_its_picture(sources: Path, name: str) -> None:
    more = ["--question-column", "query.en"] if name == "docvqa.parquet" else []
    (record,) = hf(name, *more)
    assert said(record) == LAYOUTS[name]
    assert resolve_image(".", record["image"]).read_bytes() == (sources / "photos/0.jpg").read_bytes()


def test_choices_come_with_their_question_and_a_hint(sources: Path) -> None:
    (record,) = hf("scienceqa.parquet")
    end = "Answer with the option's letter from the given choices directly."
    assert said(record) == [f"<image>\nContext: Look.\nWhat is it?\nA. a ball\nB. a box\n{end}", "B"]


def test_folders_are_the_labels_and_class_0_is_one(sources: Path) -> None:
    records = hf("labelled", "--question", "Which piece?")
    assert sorted(said(record)[1] for record in records) == ["knight", "rook"]
    assert {said(record)[0] for record in records} == {"<image>\nWhich piece?"}


def parquet(rows: list[dict[str, Any]], features: dict[str, Any] | None = None) -> str:
    whole = pyarrow.Table.from_pylist(rows)
    metadata = {b"huggingface": json.dumps({"info": {"features": features}}).encode()}
    pyarrow.parquet.write_table(whole.replace_schema_metadata(metadata if features else None), "t.parquet")
    return "t.parquet"


PICTURE = {"path": "photos/0.jpg", "bytes": None}
TURNS = [{"from": "human", "value": "<image>\nWhat is it?"}, {"from": "gpt", "value": "a box"}]


@pytest.mark.parametrize(
    "stored", [TURNS, json.dumps(TURNS), {"from": ["human", "gpt"], "value": [turn["value"] for turn in TURNS]}]
)
def test_turns_are_read_as_a_list_as_json_and_as_columns(sources: Path, stored: Any) -> None:
    (record,) = hf(parquet([{"image": PICTURE, "conversations": stored}]))
    assert said(record) == ASKED


def test_classes_of_a_parquet_file_are_taught_by_name(sources: Path) -> None:
    features = {"label": {"names": ["knight", "rook"], "_type": "ClassLabel"}}
    source = parquet([{"image": PICTURE, "label": number} for number in (0, 1)], features)
    assert [said(record)[1] for record in hf(source)] == ["knight", "rook"]
    asked = parquet([{"image": PICTURE, "question": "Which?", "label": number} for number in (0, 1)], features)
    assert [record["answers"] for record in hf(asked)] == [["knight"], ["rook"]]


def test_several_questions_of_a_row_are_independent(sources: Path) -> None:
    (record,) = hf(parquet([{"image": PICTURE, "question": ["What?", "Which colour?"], "answer": ["a box", "red"]}]))
    assert said(record) == ["<image>\nWhat?", "a box", "Which colour?", "red"]
    assert record["independent_turns"] is True


def test_columns_that_count_on_and_marks_with_numbers_pair_up(sources: Path) -> None:
    other = {"path": "photos/1.jpg", "bytes": None}
    row = {"question": "Is <image 1> like <image 2>?", "image_1": PICTURE, "image_2": other, "answer": "no"}
    (record,) = hf(parquet([row]))
    assert said(record) == ["Is <image> like <image>?", "no"]
    assert len(record["image"]) == 2


def asking(*parts: Any, **more: Any) -> dict[str, Any]:
    """A row whose user says these parts, or the one text."""
    content = parts[0] if len(parts) == 1 and isinstance(parts[0], str | int) else list(parts)
    return {"messages": [{"role": "user", "content": content}, {"role": "assistant", "content": "a"}], **more}


def picture(name: str) -> dict[str, str]:
    return {"type": "image", "image": name}


TWO = ["photos/0.jpg"] * 2
UNREAD = [
    (asking({"type": "video", "video": "a.mp4"}), "video or sound", '"video"'),
    (asking("What?", videos=["a.mp4"]), "video or sound", 'column "videos"'),
    (asking("<video>What?"), "video or sound", "<video> in a question"),
    (asking({"type": "table"}), "not a text", 'a part of type "table"'),
    (asking({"type": ["text"]}), "not a text", "a part's type is a text, found a list"),
    (asking(3), "not a text", "found a number"),
    (asking(["a"]), "not a text", "found a list"),
    ({"messages": [{"role": "critic", "content": "a"}]}, "turns not mendable", 'unknown role "critic"'),
    ({"messages": ["a"]}, "turns not mendable", "found a text"),
    (asking("<image 2> <image 1>", images=TWO), "turns not mendable", "in the order <image 2>, <image 1>"),
    (asking("<image 1> a", images=TWO), "turns not mendable", "1 marks such as <image 1> for 2 pictures"),
    (asking(picture("https://a.org/b.jpg")), "image outside the folder", "https://a.org/b.jpg"),
    (asking(picture("gone.jpg")), "image missing", "gone.jpg"),
    (asking(picture("data:image/png;base64,@@")), "image unreadable", "row 1"),
    (asking(picture("data:text/html,x")), "image unreadable", "row 1"),
]


@pytest.mark.parametrize(("row", "reason", "words"), UNREAD)
def test_what_cannot_be_seen_or_read_is_dropped_by_its_reason(
    sources: Path, capsys: pytest.CaptureFixture[str], row: dict[str, Any], reason: str, words: str
) -> None:
    good = {"messages": [{"role": "user", "content": "What?"}, {"role": "assistant", "content": "a"}]}
    Path("t.json").write_text(json.dumps([good, row]))
    assert len(hf("t.json", code=1)) == 1
    out, error = capsys.readouterr()
    assert f"dropped, {reason}: t.json row 1" in out and words in out
    assert "1 of 2 rows were dropped, more than the 5% allowed" in error


def test_a_column_of_pictures_that_only_later_rows_have_is_seen(sources: Path) -> None:
    rows = [{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "a"}]}] * 2
    rows[1] = {**rows[1], "images": ["photos/0.jpg"]}
    Path("t.json").write_text(json.dumps(rows))
    first, second = hf("t.json")
    assert "image" not in first
    assert (second["image"], said(second)[0]) == ("photos/0.jpg", "<image>\nHi")


def test_a_folder_of_tables_is_read_split_by_split_without_our_own_output(sources: Path) -> None:
    Path("set").mkdir()
    for split in ("train", "test"):
        row = {"image": "../photos/0.jpg", "question": f"What of {split}?", "answer": "a"}
        Path(f"set/{split}.json").write_text(json.dumps([row]))
        Path(f"set/{split}.meta.json").write_text("{}")
    Path("set/dataset_info.json").write_text("{}")
    assert [said(record)[0] for record in hf("set")] == ["<image>\nWhat of train?"]
    assert [said(record)[0] for record in hf("set", "--split", "test")] == ["<image>\nWhat of test?"]
    Path("own").mkdir()
    Path("own/a.csv").write_text("image,question,answer\n../photos/0.jpg,What?,a\n")
    for _ in range(2):
        words = ["hf", "own", "--output", "own/r.json", "--image-folder", ".", "--check", "none"]
        assert main(words) == 0
        assert len(read_records("own/r.json")) == 1


WORDS = st.text(st.sampled_from("abc \n.?"), max_size=8)
PARTS = st.one_of(
    WORDS,
    st.builds(lambda text: {"type": "text", "text": text, "image_url": None}, WORDS),
    st.just({"type": "image", "text": None}),
    st.builds(lambda name: {"type": "image_url", "image_url": {"url": name}}, st.sampled_from(["a.jpg", "b.jpg"])),
    st.builds(lambda name: {"image": name}, st.sampled_from(["a.jpg", "b.jpg"])),
)


@settings(max_examples=100, deadline=None)
@given(st.lists(PARTS, min_size=1, max_size=5))
def test_parts_keep_their_texts_and_a_mark_for_each_picture(parts: list[Any]) -> None:
    found = list(parts_of(parts))
    texts = [one for one in found if isinstance(one, str)]
    text = content_text(parts)
    assert text.count("<image>") == len(found) - len(texts)
    assert "".join(text.replace("<image>", "").split()) == "".join("".join(texts).split())


@settings(max_examples=100, deadline=None)
@given(
    st.integers(0, 3), st.lists(st.sampled_from(["<image>", "<image 1>", "<image_2>", "<|image_1|>", "a"]), max_size=4)
)
def test_as_many_marks_as_pictures_or_a_reason(number: int, words: list[str]) -> None:
    try:
        turns = with_images([("human", " ".join([*words, "What?"])), ("gpt", "a box")], number)
    except ValueError as error:
        assert str(error)
    else:
        assert turns[0][1].count("<image>") == number
        assert turns[1] == ("gpt", "a box")


def test_a_message_never_holds_a_picture_in_base64(sources: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw = base64.b64encode(b"\xff\xd8\xff" + b"x" * 90_000).decode()
    rows = [
        {"image": cell, "question": "What?", "answer": "a"}
        for cell in (raw, raw + "!", f"data:image/x;base64,{raw}!", "x" * 9000)
    ]
    Path("t.json").write_text(json.dumps([{**rows[0], "image": "photos/0.jpg"}, *rows]))
    hf("t.json", code=1)
    out, error = capsys.readouterr()
    assert len(out) + len(error) < 2000


def test_a_dump_of_openais_responses_has_what_went_in_and_what_came_out(sources: Path) -> None:
    shown = [{"type": "input_text", "text": "What is it?"}, {"type": "input_image", "image_url": "photos/0.jpg"}]
    answer = {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "a box"}]}
    call = {"type": "function_call", "name": "measure", "arguments": '{"side": "left"}', "call_id": "1"}
    result = {"type": "function_call_output", "call_id": "1", "output": "9 cm"}
    rows = [
        {"id": "r", "instructions": "Be brief.", "input": [{"role": "user", "content": shown}],
         "output": [{"type": "reasoning", "summary": []}, answer], "text": {"format": {}}, "user": None},
        {"id": "s", "input": [{"role": "user", "content": shown}, call, result], "output": [answer]},
        {"id": "t", "input": "Say it.", "output": [answer]},
        {"id": "u", "input": "Find it.", "output": [{"type": "web_search_call"}, answer]},
    ]  # fmt: skip
    Path("t.json").write_text(json.dumps(rows))
    assert [said(record) for record in hf("t.json", "--allow-drops", "0.25")] == [
        ["Be brief.\n\nWhat is it?\n<image>", "a box"],
        ["What is it?\n<image>", '{"name": "measure", "arguments": {"side": "left"}}', "9 cm", "a box"],
        ["Say it.", "a box"],
    ]
