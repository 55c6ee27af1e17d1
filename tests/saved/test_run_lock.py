"""One run, one folder: who holds the lock, and when it is stale."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path
from typing import Any

import msgspec
import pytest

from llava_finetune.errors import UserError
from llava_finetune.saved import run_lock as module
from llava_finetune.saved.run_lock import NAME, run_lock


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seconds, not minutes."""
    monkeypatch.setattr(module, "WATCH_SECONDS", 0.3)
    monkeypatch.setattr(module, "TOUCH_SECONDS", 0.02)


def held(output: Path, **other: object) -> Path:
    """A lock as another owner would leave it."""
    output.mkdir(exist_ok=True)
    owner = {**msgspec.to_builtins(module._myself()), **other}
    (output / NAME).write_text(json.dumps(owner))
    return output / NAME


def test_a_second_run_is_refused_while_the_first_one_holds_the_folder(tmp_path: Path) -> None:
    with run_lock(tmp_path / "run"):
        with pytest.raises(UserError, match=rf"is being written by another run \(process {os.getpid()}\)"):
            run_lock(tmp_path / "run").__enter__()
        assert (tmp_path / "run" / NAME).is_file()
    assert not (tmp_path / "run").exists(), "a refused command leaves nothing behind"


def test_the_lock_of_a_dead_process_is_taken_over(tmp_path: Path) -> None:
    held(tmp_path, process=2**22 + 1)
    with run_lock(tmp_path):
        assert json.loads((tmp_path / NAME).read_text())["process"] == os.getpid()
    assert list(tmp_path.iterdir()) == []


def test_a_process_id_that_another_program_has_now_is_no_owner(tmp_path: Path) -> None:
    held(tmp_path, started=1.0)
    with run_lock(tmp_path):
        pass


def test_a_lock_of_another_host_is_stale_when_nobody_touches_it(tmp_path: Path) -> None:
    held(tmp_path, host="far", space="elsewhere")
    said: list[str] = []
    with run_lock(tmp_path, said.append):
        pass
    assert "on far; watching" in said[0]


def test_a_lock_of_another_host_that_is_touched_is_alive(tmp_path: Path) -> None:
    lock, ended = held(tmp_path, host="far", space="elsewhere"), threading.Event()
    toucher = threading.Thread(target=module._touch, args=(lock, ended))
    toucher.start()
    try:
        with pytest.raises(UserError, match=r"another run .* on far"):
            run_lock(tmp_path, lambda _: None).__enter__()
    finally:
        ended.set()
        toucher.join()


@pytest.mark.parametrize("text", ["", "5", "[" * 100_000, '{"host": 5}'])
def test_a_lock_of_any_content_is_no_traceback(tmp_path: Path, text: str) -> None:
    (tmp_path / NAME).write_text(text)
    with run_lock(tmp_path):
        pass


def test_of_two_that_see_a_lock_stale_one_takes_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second one looked while the stale lock was there, and moves when the first one's lock is in its place."""
    stale, looked = held(tmp_path, process=2**22 + 1), module._require_stale

    def slowly(lock: Path, *rest: Any) -> None:
        looked(lock, *rest)
        monkeypatch.setattr(module, "_require_stale", looked)
        stale.unlink()
        held(tmp_path)  # a run of this very process, which is alive

    monkeypatch.setattr(module, "_require_stale", slowly)
    with pytest.raises(UserError, match="is being written by another run"):
        run_lock(tmp_path).__enter__()
    assert json.loads(stale.read_text())["process"] == os.getpid()
    assert [path.name for path in tmp_path.iterdir()] == [NAME]


def test_without_links_a_living_lock_that_was_moved_is_put_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_links(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    lock = held(tmp_path)
    living = lock.read_bytes()
    module._remove_stale(lock, b"what was seen stale")
    assert lock.read_bytes() == living and list(tmp_path.iterdir()) == [lock]


def test_a_lock_that_was_lost_to_another_run_is_left_alone(tmp_path: Path) -> None:
    with run_lock(tmp_path):
        (tmp_path / "other").write_text("theirs")
        (tmp_path / "other").rename(tmp_path / NAME)
    assert (tmp_path / NAME).read_text() == "theirs"


def test_a_pipe_in_the_place_of_a_lock_is_waited_for_no_longer_than_a_lock(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / NAME)
    with run_lock(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_refused_command_takes_the_folders_above_back_too(tmp_path: Path) -> None:
    with pytest.raises(UserError), run_lock(tmp_path / "runs" / "mine"):
        raise UserError("no")
    assert list(tmp_path.iterdir()) == []
