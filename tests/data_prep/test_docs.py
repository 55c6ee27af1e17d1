"""Every command of docs/data.md runs, and gives what the page says."""

import json
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest

from data_prep.__main__ import KINDS, main
from data_prep.check.command import kinds_table
from data_prep.records.record import read_records
from tests.data_prep import chess
from tests.data_prep.endpoint import serve
from tests.fixtures.environments import no_rank

BLOCKS = re.compile(r"^```bash\n(.*?)^```", re.M | re.S)
WALK = "## Walk-through: chess pieces"
MODEL = "liuhaotian/llava-v1.5-7b"
ENDPOINT = "http://localhost:8000/v1"


def lines(root: Path) -> tuple[list[str], list[str]]:
    """The commands of the how-tos, and those of the walk-through."""
    text = (root / "docs/data.md").read_text(encoding="utf-8")
    how_to, _, walk = text.partition(WALK)
    assert walk
    parts = ["".join(BLOCKS.findall(part)).splitlines() for part in (how_to, walk)]
    return parts[0], parts[1]


def words_of(line: str) -> list[str]:
    """The words after `python -m data_prep`."""
    assert line.startswith("python -m data_prep "), line
    return shlex.split(line)[3:]


@pytest.mark.slow
def test_every_command_of_the_page_runs_in_order(
    sources: Path, root: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("OPENAI_API_KEY", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    with serve() as endpoint:
        for line in lines(root)[0]:
            words = words_of(line.replace(MODEL, str(tiny)).replace(ENDPOINT, endpoint.address))
            assert main(words) == 0, (words, capsys.readouterr())
    expected = {
        "okvqa.json": 12, "all.json": 24, "vqa.jsonl": 6, "hf/train.json": 6, "hf/okvqa.json": 3,
        "data/easy-vqa/train.json": 4000, "generated.json": 9, "captions.json": 6,
    }  # fmt: skip
    assert {name: len(read_records(name)) for name in expected} == expected
    assert len(endpoint.requests) == 9, "the estimate alone sends nothing"
    mended = read_records(sources / "mended.json")
    assert [item["id"] for item in mended] == ["a", "b"]
    assert mended[0]["conversations"][0]["value"] == "<image>\nWhat?"
    dropped = json.loads((sources / "mended.meta.json").read_text())["dropped"]
    assert [(entry["record"], entry["reason"]) for entry in dropped] == [("c", "image missing")]
    assert '<span class="end"' in Path("show.html").read_text(encoding="utf-8")


def test_every_kind_has_a_how_to(root: Path) -> None:
    assert set(KINDS) == {words_of(line)[0] for line in lines(root)[0]}


def test_the_table_of_findings_is_the_one_that_the_check_prints(root: Path) -> None:
    text = (root / "docs/data.md").read_text(encoding="utf-8")
    written = text.partition("<!-- python -m data_prep check --list -->\n")[2].partition("\n<!-- end -->")[0]
    assert written == kinds_table()


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_every_kind_prints_help_with_an_example(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([kind, "--help"])
    assert ended.value.code == 0
    assert "example" in capsys.readouterr().out


def run_in_shell(line: str, root: Path, tiny: Path) -> subprocess.CompletedProcess[str]:
    """Run a line of the walk-through's training at a tiny size: two steps, the tiny model."""
    line = line.replace(MODEL, str(tiny)).replace("scripts/", f"{root}/scripts/")
    line += " --max_steps 2 --dataloader_num_workers 0" if "scripts/" in line else " --max_new_tokens 8"
    environment: dict[str, Any] = {
        **no_rank(),
        "NUM_GPUS": "1",
        "PER_GPU_BATCH": "2",
        "LLAVA_FINETUNE_CACHE": "cache",
    }
    return subprocess.run(["bash", "-c", line], env=environment, capture_output=True, text=True, timeout=300)


@pytest.mark.slow(seconds=50)
def test_the_walk_through_goes_from_phone_to_score(
    tmp_path: Path, root: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for line in lines(root)[1]:
        if line.startswith("python tests/data_prep/chess.py "):
            chess.main(shlex.split(line)[2:])
        elif line.startswith("python -m data_prep "):
            assert main(words_of(line)) == 0, (line, capsys.readouterr())
        else:
            done = run_in_shell(line, root, tiny)
            assert done.returncode == 0, (line, done.stdout[-2000:], done.stderr[-2000:])
    train, test = list(read_records("chess-train.json")), list(read_records("chess-test.json"))
    assert (len(train), len(test)) == (12, 4)
    answers = {item["image"]: item["conversations"][1]["value"] for item in [*train, *test]}
    assert answers["train/white-knight-1.jpg"] == "a white knight"
    assert answers["test/white-pawn+black-rook.jpg"] == "a white pawn and a black rook"
    assert answers["test/white-rook+white-rook.jpg"] == "two white rooks"
    rows = [json.loads(row) for row in Path("runs/chess/log.jsonl").read_text().splitlines()]
    assert len([row for row in rows if "loss" in row]) == 2
    assert Path("runs/chess/adapter_config.json").is_file()
    packed = sorted(path.name for path in Path("chess-shards/data").iterdir())
    assert packed == ["test-00000.parquet", "train-00000.parquet"]


def test_the_drawn_pieces_differ_from_each_other(tmp_path: Path) -> None:
    from data_prep.check.inspect import inspect_picture
    from data_prep.check.pictures import repeats

    chess.write_pictures(tmp_path, each=1)
    names = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.heic"))
    assert len(names) == 12 + len(chess.GROUPS)
    assert list(repeats({name: inspect_picture(str(tmp_path), name) for name in names})) == []
