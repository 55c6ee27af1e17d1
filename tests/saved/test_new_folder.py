"""Where a result goes: refused before the work where it could not be written."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from llava_finetune.errors import UserError
from llava_finetune.saved.new_folder import check_free, new_folder, require_file_place, require_place


def pipe(path: Path) -> None:
    os.mkfifo(path)


def dangling(path: Path) -> None:
    path.symlink_to("gone")


def circle(path: Path) -> None:
    path.symlink_to(path.name)


def file(path: Path) -> None:
    path.write_text("x")


@pytest.mark.parametrize("make", [pipe, dangling, circle, file])
def test_what_stands_in_a_results_place_is_told_before_the_work(make: Callable[[Path], None], tmp_path: Path) -> None:
    make(tmp_path / "out")
    with pytest.raises(UserError, match="exists and is not empty"):
        check_free(tmp_path / "out")
    with pytest.raises(UserError, match="is no folder; name another place"):
        check_free(tmp_path / "out" / "below")
    with pytest.raises(UserError, match="is no folder; name another place"):
        require_place(tmp_path / "out")
    if make is not file:
        with pytest.raises(UserError, match=r"is a FIFO|no such file|cannot be opened"):
            require_file_place(tmp_path / "out")


def test_a_place_that_can_be_written_is_left_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    require_place(tmp_path / "runs" / "mine")
    require_file_place(tmp_path / "runs" / "scores.json")
    check_free(tmp_path / "runs")
    assert list(tmp_path.iterdir()) == []
    monkeypatch.chdir(tmp_path)
    require_place(Path("runs"))
    for name in ("", ".", "/"):
        with pytest.raises(UserError, match=r"is no name of a folder|exists and is not empty"), new_folder(Path(name)):
            pass
