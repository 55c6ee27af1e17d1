"""Dialogues and several pictures in the grid: each turn is a row, and nothing is lost."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from data_prep.converters.table import main as make_records
from data_prep.tools.mix import main as mix
from llava_finetune.studio.buttons import prepare
from llava_finetune.studio.dialogues import in_place
from llava_finetune.studio.table import table_text
from tests.studio.conftest import Page, taken
from tests.studio.test_data import edit


def turns(*words: str) -> list[dict[str, str]]:
    return [{"from": ("human", "gpt")[place % 2], "value": word} for place, word in enumerate(words)]


TALK = {
    "id": "talk",
    "image": "000.png",
    "conversations": turns("<image>\nWhich colour?", "red", "And how dark?", "light"),
    "source": {"made by": "hand", "on": 3},
}
PAIR = {
    "id": "pair",
    "image": ["001.png", "002.png"],
    "conversations": turns("<image>\n<image>\nWhich is darker?", "the second"),
}
BETWEEN = {
    "id": "between",
    "image": ["003.png", "004.png"],
    "conversations": [{"from": "system", "value": "Be short."}, *turns("Is <image> like <image>?", "no")],
}
PLAIN = {"id": "plain", "image": "005.png", "conversations": turns("<image>\nWhich colour?", "green")}
WORDS = {"id": "words", "conversations": turns("What is red?", "a colour")}


@pytest.fixture
def talking(page: Page) -> Page:
    """Records of every shape, taken into the grid."""
    (page.folder / "talk.json").write_text(json.dumps([TALK, PAIR, BETWEEN, PLAIN, WORDS]))
    seen = page.ask("look", name="talk.json")
    assert (seen["images"], len(seen["rows"])) == ("photos", 5)
    assert page.ask("take", name="talk.json", images="photos")["counts"]["added"] == 5
    return page


def kept(page: Page) -> list[dict[str, Any]]:
    return list(json.loads((page.folder / "dialogues.json").read_text(encoding="utf-8")))


def test_each_turn_is_a_row_with_all_its_pictures(talking: Page) -> None:
    rows = {row["id"]: row for row in talking.ask("rows")["rows"]}
    assert list(rows) == ["plain", "talk #1/2", "talk #2/2", "pair #1/1", "between #1/1", "words #1/1"]
    assert (rows["talk #2/2"]["question"], rows["talk #2/2"]["answer"]) == ("And how dark?", "light")
    assert (rows["talk #2/2"]["turn"], rows["talk #2/2"]["turns"]) == (2, 2)
    assert (rows["pair #1/1"]["question"], rows["pair #1/1"]["pictures"]) == (
        "Which is darker?",
        ["001.png", "002.png"],
    )
    assert rows["between #1/1"]["question"] == "Is <image> like <image>?" and "turn" not in rows["plain"]
    assert kept(talking) == [TALK, PAIR, BETWEEN, WORDS], "as they came"


def test_a_save_tells_the_version_it_found_so_that_another_windows_change_is_not_taken_for_shown(talking: Page) -> None:
    shown = talking.ask("rows")["version"]
    theirs = talking.ask("edit", edits=[edit("plain", "green", "lime")])
    assert (theirs["before"], theirs["version"]) == (shown, talking.ask("rows")["version"])
    mine = talking.ask("edit", edits=[edit("talk #2/2", "light", "dark")])
    assert mine["before"] == theirs["version"] != shown
    assert mine["version"] == talking.ask("rows")["version"]


def test_what_is_typed_changes_that_turn_alone(talking: Page) -> None:
    typed = [edit("talk #2/2", "light", "dark"), edit("pair #1/1", "Which is darker?", "Which is larger?", "question")]
    assert talking.ask("edit", edits=[*typed, edit("plain", "green", "lime")])["refused"] == []
    talk, pair = copy.deepcopy(TALK), copy.deepcopy(PAIR)
    talk["conversations"][3]["value"] = "dark"  # type: ignore[index]
    pair["conversations"][0]["value"] = "<image>\n<image>\nWhich is larger?"  # type: ignore[index]
    assert kept(talking) == [talk, pair, BETWEEN, WORDS]
    assert [row["answer"] for row in talking.ask("rows")["rows"]][:3] == ["lime", "red", "dark"]
    again = talking.ask("edit", edits=[edit("talk #2/2", "light", "pale")])
    assert again["refused"] == [{"row": "talk #2/2", "column": "answer", "now": "dark"}]
    counts = talking.ask("take", name="talk.json", images="photos")["counts"]
    assert (counts["added"], counts["kept"]) == (1, 1)


def test_training_gets_typed_rows_and_dialogues_in_one_file(talking: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(talking.folder)
    table, mixed = (step.argv for step in prepare(talking.studio.space, 0.2, mend=False)[:2])
    assert make_records(table[4:]) == 0 and mix(mixed[4:]) == 0
    assert json.loads((talking.folder / "records.json").read_text()) == [PLAIN, TALK, PAIR, BETWEEN, WORDS]

    (talking.folder / "data").mkdir()
    (talking.folder / "data/train.json").write_text(json.dumps([TALK, PLAIN]))
    (talking.folder / "data/test.json").write_text(json.dumps([PAIR]))
    found = talking.ask("findings")
    assert found["fresh"] and found["shared"] == [] and found["answered"] == 6
    shown = talking.ask("rows", show="part:train")["rows"]
    assert [row["id"] for row in shown] == ["plain", "talk #1/2", "talk #2/2"]
    talking.ask("edit", edits=[edit("talk #1/2", "red", "ruby")])
    assert not talking.ask("findings")["fresh"]


def test_a_workspace_of_dialogues_alone_needs_no_table(page: Page) -> None:
    (page.folder / "talk.json").write_text(json.dumps([TALK, {**TALK, "id": "talk", "image": "007.png"}]))
    page.ask("take", name="talk.json", images="photos")
    assert [row["id"] for row in page.ask("rows")["rows"]] == ["talk #1/2", "talk #2/2", "talk-2 #1/2", "talk-2 #2/2"]
    assert page.ask("state")["rows"] == 4 and not (page.folder / "answers.csv").exists()
    words = prepare(page.studio.space, 0.2, mend=False)[0].argv
    assert words[3:5] == ("mix", "dialogues.json=1")


def test_a_record_without_an_answered_question_is_told(page: Page) -> None:
    (page.folder / "talk.json").write_text(json.dumps([{"id": "1", "image": "000.png", "conversations": turns("x")}]))
    for name, more in (("look", {}), ("take", {"images": "photos"})):
        refused = page.post(name, {"name": "talk.json", **more})
        assert refused.status_code == 400 and "no question that an answer follows" in refused.json()["error"]
    assert not (page.folder / "dialogues.json").exists()


def test_a_turn_is_added_and_taken_out_and_put_back_with_the_places_of_its_pictures(talking: Page) -> None:
    added = talking.ask("turn", row="talk #1/2", act="add")
    assert (added["row"], added["index"]) == ("talk #2/3", 2)
    assert kept(talking)[0]["conversations"] == [*TALK["conversations"][:2], *turns("", ""), *TALK["conversations"][2:]]  # type: ignore[index]
    late = talking.ask("edit", edits=[edit("talk #2/2", "light", "pale")])
    assert late["refused"] == [{"row": "talk #2/2", "column": "answer", "now": None}], "it was typed into another turn"
    typed = [edit("talk #2/3", "", "Is it matt?", "question"), edit("talk #2/3", "", "no")]
    assert talking.ask("edit", edits=typed)["refused"] == []

    stale = talking.post("turn", {"row": "talk #2/3", "act": "remove", "question": "Is it matt?", "answer": "yes"})
    assert stale.status_code == 400 and stale.json()["key"] == "refused.turn_changed"
    seen = {"question": "Which colour?", "answer": "red"}
    gone = talking.ask("turn", row="talk #1/3", act="remove", **seen)
    assert [turn["value"] for turn in kept(talking)[0]["conversations"]] == [
        "<image>\nIs it matt?", "no", "And how dark?", "light",
    ]  # fmt: skip
    assert kept(talking)[0]["source"] == TALK["source"]
    back = talking.ask("put-back", record=gone["record"], state=gone["state"])
    assert back["row"] == "talk #1/3" and kept(talking)[0]["conversations"] == [
        *TALK["conversations"][:2], *turns("Is it matt?", "no"), *TALK["conversations"][2:],  # type: ignore[index]
    ]  # fmt: skip
    again = talking.post("put-back", {"record": gone["record"], "state": gone["state"]})
    assert again.status_code == 400
    only = talking.post(
        "turn", {"row": "pair #1/1", "act": "remove", "question": "Which is darker?", "answer": "the second"}
    )
    assert only.json()["key"] == "refused.only_turn"
    for bad in ({"row": "talk #9/9", "act": "add"}, {"row": "talk #1/3", "act": "burn"}, {"act": "add"}):
        assert talking.post("turn", bad).status_code == 400


def test_a_row_of_the_table_becomes_a_dialogue_and_taking_its_source_again_adds_nothing(filled: Page) -> None:
    added = filled.ask("turn", row="row-2", act="add", show="open", keep="row-2")
    rows = filled.ask("rows", count=100)["rows"]
    assert (added["row"], len(rows)) == ("row-2 #2/2", 21)
    assert [row["id"] for row in rows[:4]] == ["row-1", "row-2 #1/2", "row-2 #2/2", "row-3"], "it stays where it was"
    shown = filled.ask("rows", show="open", keep=added["row"])["rows"]
    assert shown[added["index"]]["id"] == added["row"]
    filled.ask("edit", edits=[edit("row-2 #2/2", "", "How dark?", "question"), edit("row-2 #2/2", "", "very")])
    (record,) = kept(filled)
    assert record == {
        "id": "row-2",
        "image": "001.png",
        "conversations": turns("<image>\nWhich colour?", "green", "How dark?", "very"),
        "row": {"image": "001.png", "question": "Which colour?", "answer": "green"},
        "stands_before": "row-3",
    }
    filled.ask(
        "edit", edits=[edit("row-2 #1/2", "green", "teal"), edit("row-2 #1/2", "Which colour?", "Which?", "question")]
    )
    assert filled.ask("take", **taken(filled.folder))["counts"]["kept"] == 20, "a corrected answer is not added again"
    assert filled.ask("state")["rows"] == 21


def test_dialogues_stand_where_their_rows_stood_whatever_became_of_those_around_them() -> None:
    rows = [{"id": name, "image": "x.png"} for name in "be"]
    talk = {"conversations": turns("Q", "A")}
    order = {"d": "e", "a": "b", "c": "d", "z": None, "y": "z", "lost": "gone", "one": "two", "two": "one"}
    records = [{"id": name, **talk, **({"stands_before": near} if near else {})} for name, near in order.items()]
    shown = [row.get("of") or row["id"] for row in in_place(rows, records)]
    assert shown == [*"abcdeyz", "lost", "one", "two"]


def test_a_turn_of_any_record_is_put_back_after_the_server_began_anew(page: Page) -> None:
    long = [
        *turns("Q", "a" * 30_000),
        {"from": "tool", "value": {"n": 1}},
        *turns("And?", "b"),
        *turns("?", "!") * 1500,
    ]
    odd = {"id": "odd", "conversations": long, "n": 1.5}
    (page.folder / "talk.json").write_text(json.dumps([odd]))
    page.ask("take", name="talk.json", images="photos")
    gone = page.ask("turn", row="odd #2/1502", act="remove", question="And?", answer="b")
    assert kept(page) != [odd]
    page.studio.__post_init__()
    assert page.ask("put-back", record="odd", state=gone["state"])["row"] == "odd #2/1502"
    assert kept(page) == [odd]


def test_only_what_a_dialogue_says_of_that_picture_alone_is_there_already(talking: Page) -> None:
    there = ["000.png,Which colour?,red", "000.png,Which colour?,"]
    rows = [*there, "000.png,And how dark?,very", "001.png,Which is darker?,"]
    (talking.folder / "more.csv").write_text("\n".join(["image,question,answer", *rows, ""]), encoding="utf-8")
    roles = {"image": "image", "question": "question", "answer": "answer"}
    counts = talking.ask("take", name="more.csv", images="photos", roles=roles)["counts"]
    assert (counts["kept"], counts["added"]) == (2, 2)


def test_a_new_row_takes_the_id_of_no_dialogue(filled: Page) -> None:
    filled.ask("turn", row="row-20", act="add")
    filled.ask("edit", edits=[edit("row-20 #2/2", "", "How dark?", "question"), edit("row-20 #2/2", "", "very")])
    (talk,) = kept(filled)
    (filled.folder / "more.csv").write_text("image,question,answer\n000.png,New?,yes\n", encoding="utf-8")
    roles = {"image": "image", "question": "question", "answer": "answer"}
    filled.ask("take", name="more.csv", images="photos", roles=roles)
    names = [row["id"] for row in filled.ask("rows")["rows"]]
    assert len(set(names)) == len(names) == 22 and names[19] == "row-20-2"
    filled.ask("turn", row="row-20-2", act="add")
    assert [record["id"] for record in kept(filled)] == ["row-20", "row-20-2"] and kept(filled)[0] == talk

    with (filled.folder / "answers.csv").open("a", encoding="utf-8") as file:
        file.write("row-20,001.png,By hand?,yes\n")  # in a spreadsheet
    filled.ask("turn", row="row-20 #1/2", act="add")
    assert filled.ask("rows")["rows"][19]["question"] == "By hand?", "a dialogue's change takes no row of its id"


def test_a_row_with_choices_or_several_answers_is_taught_the_same_as_a_dialogue(
    filled: Page, monkeypatch: pytest.MonkeyPatch
) -> None:
    cells = {"image": "000.png", "question": "Which?", "hint": "Look.", "conversations": "x", "chosen": "y"}
    rows: list[dict[str, str]] = [
        {"id": "1", **cells, "answer": "blue", "A": "red", "B": "blue", "answers": "z"},
        {"id": "2", **cells, "answer": '["red","red","blue"]'},
        {"id": "3", **cells, "answer": "green", "A": "red", "B": "blue"},
    ]
    (filled.folder / "answers.csv").write_text(table_text(list(rows[0]), rows), encoding="utf-8")
    monkeypatch.chdir(filled.folder)
    assert make_records(prepare(filled.studio.space, 0.2, mend=False)[0].argv[4:]) == 0
    taught = json.loads((filled.folder / "records.json").read_text(encoding="utf-8"))
    for name in "12":
        filled.ask("turn", row=name, act="add")
    first, second = kept(filled)
    assert "A. red\nB. blue" in taught[0]["conversations"][0]["value"]
    assert first.pop("row") == {name: value for name, value in rows[0].items() if name != "id"}, "no cell is lost"
    assert first.pop("stands_before") == "2"
    assert first == {**taught[0], "conversations": [*taught[0]["conversations"], *turns("", "")]}
    assert second["answers"] == [taught[1]["answers"], []], "each question has its own"
    assert second["conversations"] == [*taught[1]["conversations"], *turns("", "")]
    filled.ask("edit", edits=[edit("2 #1/2", "red", "green")])
    assert kept(filled)[1]["answers"] == [["green"], []], "what is typed is what is right"
    refused = filled.post("turn", {"row": "3", "act": "add"}).json()
    assert refused["key"] == "refused.row_not_taught" and "none of the 2 choices" in refused["error"]


def test_dialogues_beside_a_table_without_any_answer_are_prepared(
    talking: Page, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(talking.folder)
    talking.ask("edit", edits=[edit("plain", "green", "")])
    steps = [step.argv for step in prepare(talking.studio.space, 0.2, mend=False)]
    assert steps[0][3:5] == ("mix", "dialogues.json=1") and mix(steps[0][4:]) == 0
    (talking.folder / "data").mkdir()
    for part, records in (("train", [TALK, PAIR]), ("test", [BETWEEN])):
        (talking.folder / f"data/{part}.json").write_text(json.dumps(records))
    found = talking.ask("findings")
    assert found["fresh"] and (found["open"], found["open_turns"]) == (1, 0)
    meta = talking.folder / "records.meta.json"
    before = meta.read_text()
    sources = [{"path": "typed.json", "sha256": "0" * 64}, *json.loads(before)["sources"]]
    meta.write_text(json.dumps({"sources": sources}))
    assert not talking.ask("findings")["fresh"], "the parts hold answers that were cleared since"
    meta.write_text(before)
    talking.ask("edit", edits=[edit("plain", "", "lime")])
    assert not talking.ask("findings")["fresh"] and prepare(talking.studio.space, 0.2, mend=False)[0].argv[3] == "table"
