"""Trackers keep the numbers, the sample table and the run's config; none asks for a login; none stops a training."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
import textwrap

import pytest

from llava_finetune.errors import UsageError, UserError
from llava_finetune.training.trackers import NAMES, Guarded, _named, make_trackers

CONFIG = {"command": ["llava-finetune", "train"], "arguments": {"lora_r": 128}, "seed": 7}


@pytest.fixture
def no_login(monkeypatch, tmp_path):
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "no-netrc"))
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    for name in ("WANDB_DATA_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name))


def logged(tracker, predictions, images):
    tracker.log(1, {"step": 1, "loss": 2.5, "learning_rate": 1e-4, "note": "text is left out"})
    tracker.log(2, {"step": 2, "eval_loss": 1.5, "eval_exact_match": 0.25, "probe_exact_match": 0.5})
    tracker.log_samples(2, predictions, images)
    tracker.finish()


@pytest.fixture
def predictions(make_run):
    run = make_run("run", num_images=3)
    rows = [json.loads(line) for line in (run / "predictions-final.jsonl").read_text().splitlines()]
    return rows, run / "images", run


@pytest.mark.parametrize("names", [None, "", "none", [], ["none"]])
def test_there_are_none_by_default(tmp_path, names):
    assert make_trackers(names, tmp_path, CONFIG) == []


def test_several_are_named_with_commas():
    assert _named("wandb, trackio") == _named(["wandb,trackio"]) == _named(["wandb", "trackio"]) == ["wandb", "trackio"]


def test_an_unknown_tracker_is_wrong_use(tmp_path):
    with pytest.raises(
        UsageError, match="--report_to mlflow: no such tracker; known: none, wandb, tensorboard, trackio"
    ):
        make_trackers("wandb,mlflow", tmp_path, CONFIG)


@pytest.mark.parametrize("name", NAMES)
def test_a_missing_package_is_named_with_what_to_install(tmp_path, monkeypatch, name):
    module = "torch.utils.tensorboard" if name == "tensorboard" else name
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(
        UserError, match=rf"--report_to {name}: .* install the trackers with: pip install -e '\.\[track\]'"
    ):
        make_trackers([name], tmp_path, CONFIG)


def test_tensorboard_holds_scalars_samples_and_config(predictions, no_login):
    pytest.importorskip("tensorboard", reason="the extra `track` is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    rows, images, run = predictions
    logged(make_trackers("tensorboard", run, CONFIG)[0], rows, images)
    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    assert set(events.Tags()["scalars"]) == {
        "train/loss", "train/learning_rate", "eval/loss", "eval/exact_match", "probe/exact_match",
    }  # fmt: skip
    assert [(event.step, event.value) for event in events.Scalars("train/loss")] == [(1, 2.5)]
    texts = {tag: events.Tensors(tag)[0].tensor_proto.string_val[0].decode() for tag in events.Tags()["tensors"]}
    assert '"lora_r": 128' in texts["run.json/text_summary"]
    assert rows[0]["question"] in texts["samples/text_summary"]
    assert len(events.Tags()["images"]) == 18


def test_wandb_without_a_key_is_offline_and_asks_nothing(predictions, no_login, tmp_path):
    pytest.importorskip("wandb", reason="the extra `track` is not installed")
    rows, images, run = predictions
    (run / "rows.json").write_text(json.dumps(rows))
    # Its own process with no terminal: a login prompt would end it.
    code = textwrap.dedent(f"""
        import json
        from pathlib import Path
        from llava_finetune.training.trackers import make_trackers
        run = Path({str(run)!r})
        tracker, = make_trackers("wandb", run, {CONFIG!r})
        tracker.log(1, {{"step": 1, "loss": 2.5}})
        tracker.log(2, {{"step": 2, "eval_exact_match": 0.25}})
        tracker.log_samples(2, json.loads((run / "rows.json").read_text()), Path({str(images)!r}))
        assert tracker.tracker.run.config["arguments"] == {{"lora_r": 128}}
        assert tracker.tracker.run.settings._offline
        tracker.finish()
    """)
    done = subprocess.run(
        [sys.executable, "-c", code], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert "wandb: no key, so the run is kept in" in done.stdout and "stopped" not in done.stderr
    tables = list((run / "wandb").glob("offline-run-*/files/media/table/samples_*.table.json"))
    table = json.loads(tables[0].read_text())
    assert table["columns"] == ["picture", "question", "reference", "answer", "right"]
    assert len(table["data"]) == 18 and {row[0] for row in table["data"]} == {"Image"}
    # The pictures themselves go into the table's artifact, which wandb stages until `wandb sync`.
    staged = [path for path in (tmp_path / "WANDB_DATA_DIR").rglob("*") if path.is_file()]
    assert sum(path.read_bytes().startswith(b"\x89PNG") for path in staged) >= 3
    assert {row[1] for row in table["data"]} == {row["question"] for row in rows}
    assert next((run / "wandb").glob("offline-run-*/*.wandb")).stat().st_size > 0


def test_trackio_keeps_numbers_samples_and_config_in_its_file(predictions, no_login, tmp_path):
    pytest.importorskip("trackio", reason="the extra `track` is not installed")
    rows, images, run = predictions
    (run / "rows.json").write_text(json.dumps(rows))
    code = textwrap.dedent(f"""
        import json
        from pathlib import Path
        from llava_finetune.training.trackers import make_trackers
        run = Path({str(run)!r})
        tracker, = make_trackers("trackio", run, {CONFIG!r})
        tracker.log(1, {{"step": 1, "loss": 2.5}})
        tracker.log_samples(2, json.loads((run / "rows.json").read_text()), Path({str(images)!r}))
        tracker.finish()
    """)
    done = subprocess.run(
        [sys.executable, "-c", code], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert "stopped" not in done.stderr, done.stderr
    file = next((tmp_path / "trackio").rglob("llava-finetune*.db"))
    with sqlite3.connect(file) as database:
        kept = "\n".join(str(row) for row in database.execute("select * from metrics"))
    assert "train/loss" in kept and "2.5" in kept and rows[0]["question"] in kept


def test_a_tracker_that_fails_is_said_once_and_training_goes_on(capsys):
    class Failing:
        name = "wandb"
        calls = 0

        def log(self, step, row):
            self.calls += 1
            raise OSError("disk full")

        def finish(self):
            raise AssertionError("not asked any more")

    failing = Failing()
    tracker = Guarded(failing)
    tracker.log(1, {})
    tracker.log(2, {})
    tracker.finish()
    assert failing.calls == 1
    assert capsys.readouterr().err == "wandb: stopped (disk full); training goes on, log.jsonl has every row\n"


def test_the_same_questions_are_sampled_at_every_evaluation():
    from llava_finetune.training.trackers import NUM_SAMPLES, _sample

    rows = [{"id": f"r{n}", "turn": 0} for n in range(100)]
    assert _sample(rows) == _sample(rows[::-1]) and len(_sample(rows)) == NUM_SAMPLES
