"""The tree on disk is the old one or the new one, whatever happens in between."""

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from patches import tree
from patches.tree import TreeError, locked, read_tree, remove_tree, write_tree

OLD = {"llava/__init__.py": b"old\n", "llava/a/b.py": b"old\n"}
NEW = {"llava/__init__.py": b"new\n", "llava/a/c.py": b"new\n"}


def leftovers(output: Path) -> list[str]:
    """Hidden things beside the tree that is in use."""
    current = (output / "llava").readlink().name if (output / "llava").is_symlink() else ""
    return [path.name for path in output.iterdir() if path.name not in ("llava", ".lock", current)]


def test_a_second_write_of_the_same_files_writes_nothing(tmp_path: Path) -> None:
    assert write_tree(tmp_path, OLD)
    target = (tmp_path / "llava").readlink()
    assert not write_tree(tmp_path, OLD)
    assert (tmp_path / "llava").readlink() == target


def test_a_new_tree_replaces_the_old_one_whole(tmp_path: Path) -> None:
    write_tree(tmp_path, OLD)
    write_tree(tmp_path, NEW)
    assert read_tree(tmp_path) == NEW
    assert leftovers(tmp_path) == []


def test_an_edited_tree_is_written_again(tmp_path: Path) -> None:
    write_tree(tmp_path, OLD)
    (tmp_path / "llava/__init__.py").write_bytes(b"edited\n")
    assert write_tree(tmp_path, OLD)
    assert read_tree(tmp_path) == OLD


@pytest.mark.parametrize(
    ("number", "words"),
    [(errno.ENOSPC, "No space left on device"), (errno.EROFS, "Read-only file system")],
    ids=["disk full", "read-only"],
)
@pytest.mark.parametrize("at", [0, 1])
def test_a_failing_write_leaves_the_old_tree(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, words: str, at: int
) -> None:
    write_tree(tmp_path, OLD)
    written: list[Path] = []
    real = tree.write_file

    def fail(path: Path, content: bytes) -> None:
        if len(written) == at:
            raise OSError(number, os.strerror(number))
        written.append(path)
        real(path, content)

    monkeypatch.setattr(tree, "write_file", fail)
    with pytest.raises(TreeError) as error:
        write_tree(tmp_path, NEW)
    assert f"cannot be written ({words}); the tree that was there stands as it was" in str(error.value)
    assert read_tree(tmp_path) == OLD
    assert leftovers(tmp_path) == []


def test_a_file_in_the_way_of_the_folder_is_explained(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(TreeError, match="cannot be written"), locked(tmp_path / "file/output"):
        pass


def test_a_real_folder_in_the_way_is_never_removed(tmp_path: Path) -> None:
    (tmp_path / "llava").mkdir()
    (tmp_path / "llava/mine.py").write_text("precious")
    for call in (lambda: write_tree(tmp_path, NEW), lambda: remove_tree(tmp_path)):
        with pytest.raises(TreeError, match="a folder that this tool did not write"):
            call()
    assert (tmp_path / "llava/mine.py").read_text() == "precious"


KILLED = """
import sys, time
from pathlib import Path
from patches import tree
real, seen = tree.write_file, []
def slow(path, content):
    real(path, content)
    print("wrote", flush=True)
    time.sleep(30)
tree.write_file = slow
with tree.locked(Path(sys.argv[1])):
    tree.write_tree(Path(sys.argv[1]), {"llava/__init__.py": b"new\\n", "llava/a/c.py": b"new\\n"})
"""


def test_a_writer_killed_half_way_leaves_the_old_tree_and_the_next_one_cleans_up(tmp_path: Path) -> None:
    write_tree(tmp_path, OLD)
    with subprocess.Popen([sys.executable, "-c", KILLED, tmp_path], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"wrote\n"
        process.send_signal(signal.SIGKILL)
    assert read_tree(tmp_path) == OLD
    assert leftovers(tmp_path) != []
    with locked(tmp_path, wait=5):
        write_tree(tmp_path, NEW)
    assert read_tree(tmp_path) == NEW
    assert leftovers(tmp_path) == []


def test_a_second_writer_waits_and_then_says_who_holds_the_lock(tmp_path: Path) -> None:
    with locked(tmp_path):
        start = time.monotonic()
        with pytest.raises(TreeError, match=r"has held the lock for 0\.2 s"), locked(tmp_path, wait=0.2):
            pass
        assert time.monotonic() - start >= 0.2
    with locked(tmp_path, wait=0.2):
        pass


def test_removing_takes_everything_but_the_lock(tmp_path: Path) -> None:
    write_tree(tmp_path, OLD)
    assert remove_tree(tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert not remove_tree(tmp_path)
