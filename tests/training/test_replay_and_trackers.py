"""General data mixed back in its share, and trackers that hold what log.jsonl holds; bad input is one message."""

from __future__ import annotations

import json
import sqlite3
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from llava_finetune.config.arguments import parse
from llava_finetune.data.replay import mixed
from llava_finetune.errors import UsageError, UserError
from tests.training.conftest import Flags, assert_trained, record, rows_of
from tests.training.forked import train


class Records:
    """Stands for a RecordDataset: `encoder` is not asked."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.modality_lengths = list(range(1, count + 1))

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"id": f"own-{index}", "index": index}


def general(folder: Path, count: int) -> Path:
    path = folder / "general.json"
    path.write_text(json.dumps([record(f"g-{index}", "two and two?", "four") for index in range(count)]))
    return path


@pytest.mark.parametrize(("share", "num_general"), [(0.1, 10), (0.25, 30), (0.5, 90)])
def test_replay_is_the_share_of_the_whole_and_is_drawn_evenly(share: float, num_general: int, tmp_path: Path) -> None:
    found = mixed(Records(90), f"{general(tmp_path, 20)}:{share}", None, seed=3)  # type: ignore[arg-type]
    assert len(found) == 90 + num_general
    drawn = Counter(found.drawn)
    assert max(drawn.values()) - min(drawn.values()) <= 1, "none is repeated before all were drawn"
    again = mixed(Records(90), f"{general(tmp_path, 20)}:{share}", None, seed=3)  # type: ignore[arg-type]
    other = mixed(Records(90), f"{general(tmp_path, 20)}:{share}", None, seed=4)  # type: ignore[arg-type]
    assert found.drawn == again.drawn != other.drawn
    assert found[0]["id"] == "own-0"


def test_replay_of_no_records_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"general\.json holds no records"):
        mixed(Records(9), f"{general(tmp_path, 0)}:0.5", None, seed=1)  # type: ignore[arg-type]


@pytest.mark.parametrize("spec", ["general.json", "general.json:0", "general.json:1", "general.json:ten"])
def test_a_replay_without_a_share_is_wrong_use(spec: str, flags: Flags, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"expected FILE:SHARE with a share between 0 and 1"):
        parse(flags("lora", tmp_path / "run", f"--replay {spec}"))


def test_replayed_records_are_trained_on(flags: Flags, tmp_path: Path) -> None:
    output = tmp_path / "run"
    more = f"--replay {general(tmp_path, 3)}:0.5 --per_device_train_batch_size 4 --max_steps 5"
    code, text = train(flags("lora", output, more), tmp_path / "out")
    assert code == 0, text
    assert "replay: 10 general records beside 10" in text
    assert_trained(output, 5)
    assert json.loads((output / "run.json").read_text())["num_records"] == 20


def test_trackers_hold_the_rows_of_the_log_and_the_samples(
    flags: Flags, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("wandb", "tensorboard", "trackio"):
        pytest.importorskip(name, reason="the extra `track` is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    for name in ("WANDB_DATA_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "TRACKIO_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name))
    for name in [name for name in sys.modules if name.partition(".")[0] == "trackio"]:
        monkeypatch.delitem(sys.modules, name)  # it reads TRACKIO_DIR when it is imported: the forked run shall do so
    output = tmp_path / "run"
    more = f"--eval_data_path {data / 'eval.json'} --eval_max_new_tokens 2 --max_steps 2 --save_steps 9"
    more += " --report_to wandb,tensorboard,trackio"
    code, text = train(flags("lora", output, more), tmp_path / "out")
    assert code == 0 and "stopped (" not in text, text
    losses = [row["loss"] for row in rows_of(output) if "loss" in row]
    events = EventAccumulator(str(output / "tensorboard"))
    events.Reload()
    assert [one.value for one in events.Scalars("train/loss")] == pytest.approx(losses, rel=1e-6)
    assert [one.step for one in events.Scalars("eval/exact_match")] == [0, 2]
    tables = sorted((output / "wandb").glob("offline-run-*/files/media/table/samples_*.table.json"))
    assert len(tables) == 2, "one at each evaluation"
    assert [row[1] for row in json.loads(tables[0].read_text())["data"]].count("what colour?") == 5
    with sqlite3.connect(next((tmp_path / "TRACKIO_DIR").rglob("llava-finetune*.db"))) as database:
        logged = "\n".join(str(row) for row in database.execute("select * from metrics"))
        config = "\n".join(str(row) for row in database.execute("select * from configs"))
    assert all(str(loss) in logged for loss in losses) and "what colour?" in logged
    # Offline, wandb keeps its config in the binary log of the run.
    kept = b"".join(path.read_bytes() for path in (output / "wandb").glob("offline-run-*/*.wandb"))
    run = json.loads((output / "run.json").read_text())
    for name in ("data_sha256", "series"):
        assert run[name].encode() in kept and run[name] in config
