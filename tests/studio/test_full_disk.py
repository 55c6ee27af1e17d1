"""A disk that is really full, of one megabyte: each call says so, nothing is lost, what was typed is saved later."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from llava_finetune.studio import jobs
from llava_finetune.studio.app import build_app
from llava_finetune.studio.shared import Studio
from llava_finetune.studio.table import read_table
from llava_finetune.studio.workspace import Workspace
from tests.fixtures.adapters_and_servers import serving
from tests.studio.conftest import HEADERS, Page, fill, taken
from tests.studio.test_at_once import everything
from tests.studio.test_data import edit, wait
from tests.studio.test_dialogues import TALK

ANSWERS = "answer " * 2500
"""More than the last pages of a full disk hold."""


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Page]:
    """The studio on a disk of 1 MB, its table taken."""
    disk = tmp_path / "disk"
    disk.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]
    try:
        subprocess.run(words, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no tmpfs can be mounted here: {error} {getattr(error, 'stderr', '')}")
    try:
        studio = Studio(Workspace.open(fill(disk / "colours")))
        with serving(SimpleNamespace(engines={}, under_way=0), build_app(studio)) as running:
            page = Page(running.url, studio)
            page.ask("take", **taken(page.folder))
            yield page
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


def stuff(page: Page, spare: int = 0) -> Path:
    """Fill the disk but for `spare` bytes; return the file that does."""
    filler = page.folder.parent / "filler"
    try:
        with filler.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
    except OSError:
        pass
    with filler.open("r+b") as file:
        file.truncate(max(0, filler.stat().st_size - spare))
    return filler


def test_on_a_disk_without_room_each_call_says_so_and_leaves_all_as_it_was(small: Page) -> None:
    (small.folder / "talk.json").write_text(json.dumps([TALK]))
    small.ask("take", name="talk.json", images="photos")
    filler, before = stuff(small), everything(small.folder)
    calls: dict[str, dict[str, Any]] = {
        "edit": {"edits": [edit("row-1", "red", "ruby")]},
        "turn": {"row": "talk #1/2", "act": "add"},
        "take": taken(small.folder),
        "keep": {"language": "de"},
        "prepare": {"test": 0.2},
        "teach": {"image": "001.png", "question": "What?", "answer": "green"},
    }
    for name, value in calls.items():
        refused = small.post(name, value)
        assert refused.status_code == 507, (name, refused.text)
        assert refused.json()["key"] == "refused.full", (name, refused.text)
    query = {"name": "new.png", "offset": 0, "size": 9000}
    assert httpx.put(f"{small.url}/upload", params=query, content=bytes(9000), headers=HEADERS).status_code == 507
    assert everything(small.folder) == before
    assert not list((small.folder / ".studio").rglob("*.part")), "what never came whole keeps no room"
    assert small.ask("jobs")["jobs"] == [], "what was never started is no job that broke off"
    assert httpx.get(f"{small.url}/thumbnail/000.png").status_code == 200
    filler.unlink()
    assert small.ask("edit", **calls["edit"])["refused"] == []
    assert read_table(small.folder / "answers.csv").rows[0]["answer"] == "ruby"


def test_a_job_that_finds_no_room_fails_in_words(small: Page) -> None:
    filler = stuff(small, spare=24_000)
    job = jobs.find(small.studio.space, small.ask("prepare", test=0.2)["job"])
    assert wait(job) == "failed", jobs.log_tail(job)
    (told,) = small.ask("jobs")["jobs"]
    assert "disk is full" in told["why"].lower(), told
    filler.unlink()
    assert small.ask("edit", edits=[edit("row-1", "red", "ruby")])["refused"] == []


def test_what_is_typed_on_a_full_disk_is_kept_in_the_page_and_saved_when_there_is_room(
    small: Page, browser: Any
) -> None:
    window = browser.new_page(viewport={"width": 1280, "height": 860}, locale="en-GB")
    window.set_default_timeout(60_000)
    window.goto(small.url)
    cell = ".row[aria-rowindex='1'] [data-column=answer]"
    window.wait_for_selector(cell)
    filler = stuff(small)
    window.fill(cell, ANSWERS)
    window.wait_for_selector("#saved.bad:has-text('Not saved yet: 1')")
    window.wait_for_selector("#trouble:has-text('disk is full')")
    assert read_table(small.folder / "answers.csv").rows[0]["answer"] == "red"
    filler.unlink()
    window.wait_for_selector("#saved:text-is('Saved')")
    window.wait_for_selector("#trouble", state="hidden")
    assert read_table(small.folder / "answers.csv").rows[0]["answer"] == ANSWERS
    window.close()
