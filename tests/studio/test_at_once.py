"""Several who type at once, and a disk that is full: nothing that was typed is lost, and each is told what is true."""

from __future__ import annotations

import errno
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from llava_finetune.serve.guards import Access
from llava_finetune.studio.app import build_app
from llava_finetune.studio.shared import Studio
from llava_finetune.studio.table import read_table
from llava_finetune.studio.workspace import Workspace
from tests.fixtures.adapters_and_servers import serving
from tests.studio.conftest import HEADERS, Page, fill, taken
from tests.studio.test_data import edit
from tests.studio.test_dialogues import TALK


@pytest.fixture
def two(tmp_path: Path) -> Iterator[tuple[Page, Page]]:
    """Two servers on one workspace, with a password: a page for each of two users."""
    folder = fill(tmp_path / "colours")
    studios = [Studio(Workspace.open(folder), Access(user="me", password="secret", hosts=None)) for _ in range(2)]
    shared = SimpleNamespace(engines={}, under_way=0)
    with serving(shared, build_app(studios[0])) as one, serving(shared, build_app(studios[1])) as other:
        pages = Page(one.url, studios[0]), Page(other.url, studios[1])
        assert pages[0].post("take", taken(folder), auth=("me", "secret")).status_code == 200
        yield pages


def test_two_users_at_once_lose_nothing_and_the_later_is_told_of_the_same_cell(two: tuple[Page, Page]) -> None:
    rows = [f"row-{number}" for number in range(1, 13)]

    def type_all(place: int) -> list[dict[str, Any]]:
        column, was = (("answer", None), ("question", "Which colour?"))[place]
        refused = []
        for number, row in enumerate(rows):
            seen = ["red", "green", "blue", "yellow"][number % 4] if was is None else was
            edits = [edit(row, seen, f"{column} by {place}", column), edit("row-13", "red", f"mine {place}")]
            answer = two[place].post("edit", {"edits": edits}, auth=("me", "secret"))
            assert answer.status_code == 200
            refused += answer.json()["refused"]
        return refused

    with ThreadPoolExecutor(2) as pool:
        refused = list(pool.map(type_all, (0, 1)))
    table = {row["id"]: row for row in read_table(two[0].folder / "answers.csv").rows}
    assert {(table[row]["answer"], table[row]["question"]) for row in rows} == {("answer by 0", "question by 1")}
    first = table["row-13"]["answer"]
    later = 1 if first == "mine 0" else 0
    assert refused[1 - later] == [] and {(one["row"], one["now"]) for one in refused[later]} == {("row-13", first)}


def everything(folder: Path) -> dict[str, bytes]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and ".studio" not in path.parts)
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def test_on_a_full_disk_each_call_says_so_and_leaves_all_as_it_was(
    filled: Page, monkeypatch: pytest.MonkeyPatch
) -> None:
    (filled.folder / "talk.json").write_text(json.dumps([TALK]))
    filled.ask("take", name="talk.json", images="photos")
    (filled.folder / "more.csv").write_text("image,answer\n001.png,green\nnew.png,red\n")
    before = everything(filled.folder)

    def full(self: Path, *_: Any, **__: Any) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device")

    roles = {"image": "image", "question": None, "answer": "answer"}
    calls: dict[str, dict[str, Any]] = {
        "take": {"name": "more.csv", "images": "photos", "roles": roles, "question": "Which?"},
        "edit": {"edits": [edit("talk #1/2", "red", "ruby")]},
        "keep": {"language": "de"},
        "prepare": {"test": 0.2},
        "hub": {"name": "owner/name"},
        "teach": {"image": "001.png", "question": "What?", "answer": "green"},
    }
    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", full)
        for name, value in calls.items():
            refused = filled.post(name, value)
            assert refused.status_code == 507 and "disk is full" in refused.json()["error"], (name, refused.text)
        query = {"name": "new.png", "offset": 0, "size": 3}
        refused = httpx.put(f"{filled.url}/upload", params=query, content=b"abc", headers=HEADERS)
        assert refused.status_code == 507
    assert everything(filled.folder) == before
    assert filled.ask("jobs")["jobs"] == [] and filled.ask("rows")["total"] == 22
    assert filled.ask("edit", **calls["edit"])["refused"] == [], "after space was made the same call is taken"
