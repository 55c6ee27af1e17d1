"""A missing, stale, partial or edited tree is refused with the command to run."""

import json
import shutil
from pathlib import Path

import pytest

from patches import series
from patches.engine import run
from patches.series import load_series, series_hash
from patches.stamp import STAMP, StaleTree, make_stamp, read_stamp, require_current
from patches.tree import write_tree


@pytest.fixture
def root(tmp_path: Path, pristine: dict[str, bytes]) -> Path:
    """A checkout with a current tree."""
    write(tmp_path, pristine, series_hash(), "all")
    return tmp_path


def write(root: Path, pristine: dict[str, bytes], series: str, only: str) -> None:
    """What apply writes."""
    files = run(load_series(), pristine).files
    output = root / "build/patched"
    output.mkdir(parents=True, exist_ok=True)
    write_tree(output, {**files, STAMP: make_stamp(files, series, only)})


def test_a_current_tree_is_accepted_and_its_stamp_says_all(root: Path) -> None:
    stamp = require_current(root)
    assert stamp == read_stamp(root)
    assert stamp["upstream"] == {"version": "1.2.2.post1", "commit": "24fa1d065bbeac8a145a796ab7218c6945a2536e"}
    assert stamp["series"] == series_hash()
    assert len(stamp["files"]) == 50


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        ("missing", "no patched upstream there"),
        ("stale", "stale: written by patch series 000000000000"),
        ("partial", "holds only the stack patches"),
        ("edited", "build/patched/llava/utils.py: edited or removed"),
        ("broken", "no patched upstream there (no readable stamp)"),
    ],
)
def test_another_tree_is_refused(root: Path, pristine: dict[str, bytes], harm: str, words: str) -> None:
    folder = root / "build/patched/llava"
    if harm == "missing":
        folder.unlink()
    elif harm == "edited":
        (folder / "utils.py").write_text("edited\n")
    elif harm == "broken":
        (folder / "_stamp.json").write_text("{")
    else:
        write(root, pristine, "0" * 64 if harm == "stale" else series_hash(), "stack" if harm == "partial" else "all")
    with pytest.raises(StaleTree) as error:
        require_current(root)
    assert words in str(error.value)
    assert str(error.value).endswith("Run: python -m patches apply")


def test_the_stamp_is_json_with_the_sum_of_every_file() -> None:
    stamp = json.loads(make_stamp({"llava/a.py": b"a"}, "s", "all"))
    assert stamp["files"] == {"llava/a.py": "ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb"}


@pytest.mark.parametrize("name", ["pattern.py", "filling.py", "edits.py", "imports.py", "engine.py", "series"])
def test_whatever_decides_the_output_makes_another_hash(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = series_hash()
    monkeypatch.setattr(series, "HERE", shutil.copytree(series.HERE, tmp_path / "patches"))
    assert series_hash() == before
    with (tmp_path / "patches" / name).open("a") as file:
        file.write("# another\n")
    assert series_hash() != before
