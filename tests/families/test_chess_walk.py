"""The chess walk-through of docs/families.md runs as it is written, from drawn pieces to scores, on tiny models."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from data_prep.__main__ import main
from tests.data_prep import chess
from tests.data_prep.test_docs import BLOCKS
from tests.data_prep.test_docs import lines as lines_of_data
from tests.fixtures.environments import no_rank
from tests.fixtures.forked_deepspeed import run_script
from tests.tiny_families import make_tiny_family
from tests.warm import run_module

MODELS = {"HuggingFaceTB/SmolVLM-500M-Instruct": "smolvlm", "HuggingFaceM4/idefics-9b-instruct": "idefics"}


def lines(root: Path) -> list[str]:
    text = (root / "docs/families.md").read_text(encoding="utf-8")
    section = re.search(r"^## The chess walk-through\n(.*?)^## ", text, re.M | re.S)
    assert section
    return "".join(BLOCKS.findall(section[1])).splitlines()


@pytest.mark.slow(seconds=20)
def test_the_walk_through_trains_scores_and_merges_both(
    tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch, ready_to_fork: None
) -> None:
    monkeypatch.chdir(tmp_path)
    for line in lines_of_data(root)[1]:  # steps 1 to 3 of docs/data.md, before its training
        if line.startswith("MODEL="):
            break
        words = shlex.split(line)
        assert (chess.main(words[2:]) if "chess.py" in line else main(words[3:])) in (0, None), line
    for family in MODELS.values():
        make_tiny_family(tmp_path / family, family)
    for written in lines(root):
        line = written.replace("bash scripts/", f"bash {root}/scripts/")
        for name, family in MODELS.items():
            line = line.replace(name, str(tmp_path / family))
        if line.startswith("MODEL="):
            line += " --max_steps 2 --dataloader_num_workers 0"
            done = run_script(["bash", "-c", line], no_rank(NUM_GPUS="1"), tmp_path)
        elif line.startswith("llava-finetune "):
            short = ["--max_new_tokens", "4"] if " evaluate " in line else []
            done = run_module("llava_finetune", *shlex.split(line)[1:], *short)
        else:
            assert main(shlex.split(line)[3:]) == 0
            continue
        assert done.returncode == 0, f"{written}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    for family in MODELS.values():
        run = tmp_path / "runs" / f"chess-{family}"
        assert json.loads((run / "scores-final.json").read_text())["count"] == len(chess.GROUPS)
        assert (run / "report.html").is_file() and (run / "adapter_config.json").is_file()
        steps = [row["loss"] for row in map(json.loads, (run / "log.jsonl").read_text().splitlines()) if "loss" in row]
        assert len(steps) == 2 and all(0 < loss < 20 for loss in steps)
    assert (tmp_path / "chess-smolvlm/model.safetensors").is_file()
