"""Dialogues and several pictures in the grid: each turn is a row, and nothing is lost."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from data_prep.converters.table import main as make_records
from data_prep.tools.mix import main as mix
from llava_finetune.studio.commands import prepare
from tests.studio.conftest import Page
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
    assert page.ask("take", name="talk.json", images="photos")["words"] == "5 added"
    return page


def kept(page: Page) -> list[dict[str, Any]]:
    return list(json.loads((page.folder / "dialogues.json").read_text(encoding="utf-8")))


def test_each_turn_is_a_row_with_all_its_pictures(talking: Page) -> None:
    rows = {row["id"]: row for row in talking.ask("rows")["rows"]}
    assert list(rows) == ["plain", "talk #1", "talk #2", "pair #1", "between #1", "words #1"]
    assert (rows["talk #2"]["question"], rows["talk #2"]["answer"]) == ("And how dark?", "light")
    assert (rows["talk #2"]["turn"], rows["talk #2"]["turns"]) == (2, 2)
    assert (rows["pair #1"]["question"], rows["pair #1"]["pictures"]) == ("Which is darker?", ["001.png", "002.png"])
    assert rows["between #1"]["question"] == "Is <image> like <image>?" and "turn" not in rows["plain"]
    assert kept(talking) == [TALK, PAIR, BETWEEN, WORDS], "as they came"


def test_what_is_typed_changes_that_turn_alone(talking: Page) -> None:
    typed = [edit("talk #2", "light", "dark"), edit("pair #1", "Which is darker?", "Which is larger?", "question")]
    assert talking.ask("edit", edits=[*typed, edit("plain", "green", "lime")])["refused"] == []
    talk, pair = copy.deepcopy(TALK), copy.deepcopy(PAIR)
    talk["conversations"][3]["value"] = "dark"  # type: ignore[index]
    pair["conversations"][0]["value"] = "<image>\n<image>\nWhich is larger?"  # type: ignore[index]
    assert kept(talking) == [talk, pair, BETWEEN, WORDS]
    assert [row["answer"] for row in talking.ask("rows")["rows"]][:3] == ["lime", "red", "dark"]
    again = talking.ask("edit", edits=[edit("talk #2", "light", "pale")])
    assert again["refused"] == [{"row": "talk #2", "column": "answer", "now": "dark"}]
    assert talking.ask("take", name="talk.json", images="photos")["words"] == "1 added, 1 there already"


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
    assert [row["id"] for row in shown] == ["plain", "talk #1", "talk #2"]
    talking.ask("edit", edits=[edit("talk #1", "red", "ruby")])
    assert not talking.ask("findings")["fresh"]


def test_a_workspace_of_dialogues_alone_needs_no_table(page: Page) -> None:
    (page.folder / "talk.json").write_text(json.dumps([TALK, {**TALK, "id": "talk", "image": "007.png"}]))
    page.ask("take", name="talk.json", images="photos")
    assert [row["id"] for row in page.ask("rows")["rows"]] == ["talk #1", "talk #2", "talk-2 #1", "talk-2 #2"]
    assert page.ask("state")["rows"] == 4 and not (page.folder / "answers.csv").exists()
    words = prepare(page.studio.space, 0.2, mend=False)[0].argv
    assert words[3:5] == ("mix", "dialogues.json=1")


def test_a_record_without_an_answered_question_is_told(page: Page) -> None:
    (page.folder / "talk.json").write_text(json.dumps([{"id": "1", "image": "000.png", "conversations": turns("x")}]))
    for name, more in (("look", {}), ("take", {"images": "photos"})):
        refused = page.post(name, {"name": "talk.json", **more})
        assert refused.status_code == 400 and "no question that an answer follows" in refused.json()["error"]
    assert not (page.folder / "dialogues.json").exists()
