"""Every command of docs/data.md runs, and gives what the page says."""

import json
import re
import shlex
from pathlib import Path

import pytest

from data_prep.__main__ import KINDS, main
from data_prep.record import read_records

BLOCKS = re.compile(r"^```bash\n(.*?)^```", re.M | re.S)


def commands(root: Path) -> list[list[str]]:
    text = (root / "docs/data.md").read_text(encoding="utf-8")
    return [shlex.split(line)[3:] for block in BLOCKS.findall(text) for line in block.splitlines()]


def test_every_command_of_the_page_runs_in_order(sources: Path, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in commands(root):
        assert main(words) == 0, (words, capsys.readouterr())
    counts = {name: len(read_records(sources / name)) for name in ("okvqa.json", "vqa.jsonl", "hf/train.json")}
    assert counts == {"okvqa.json": 12, "vqa.jsonl": 6, "hf/train.json": 6}
    assert len(read_records(sources / "data/easy-vqa/train.json")) == 4000
    assert [item["image"] for item in read_records(sources / "chess-train.json")] == [
        "single-pawn.jpg",
        "single-rook.jpg",
    ]
    mended = read_records(sources / "mended.json")
    assert [item["id"] for item in mended] == ["a", "b"]
    assert mended[0]["conversations"][0]["value"] == "<image>\nWhat?"
    dropped = json.loads((sources / "mended.meta.json").read_text())["dropped"]
    assert [(entry["record"], entry["reason"]) for entry in dropped] == [("c", "image missing")]


def test_every_kind_has_a_how_to(root: Path) -> None:
    used = {words[0] for words in commands(root)}
    assert set(KINDS) - used == {"show"}  # needs a model: tests/data_prep/test_show.py runs it


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_every_kind_prints_help_with_an_example(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([kind, "--help"])
    assert ended.value.code == 0
    assert "example" in capsys.readouterr().out
