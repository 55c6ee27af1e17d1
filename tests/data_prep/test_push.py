"""Records and models published on a hub: private, only what is named, read back the same, going on after a break."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

from data_prep.errors import DataError, UsageError
from data_prep.tools.push import main as push
from tests.data_prep.hub import Hub
from tests.data_prep.upload_hub import UploadHub

PUSH = [sys.executable, "-m", "data_prep", "push"]


@pytest.fixture
def records(tmp_path: Path) -> Path:
    """Twelve records: one picture, two, none; several turns, answers, a key of one's own. A picture nobody names."""
    pictures = tmp_path / "pictures"
    (pictures / "sub").mkdir(parents=True)
    for number in range(4):
        Image.new("RGB", (20 + number, 10), (number * 60, 5, 9)).save(pictures / f"{number}.png")
    Image.new("RGB", (9, 9)).save(pictures / "sub" / "a b.jpg")
    Image.new("RGB", (8, 8)).save(pictures / "secret.png")
    turns = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "röd 画"}]
    made: list[dict[str, object]] = [
        {"id": f"r{number}", "image": f"{number % 4}.png", "conversations": turns} for number in range(8)
    ]
    made[0] |= {"answers": ["röd", "red"], "source": {"page": 3}}
    made.append({"id": "two", "image": ["1.png", "sub/a b.jpg"], "conversations": [
        {"from": "human", "value": "<image>\n<image>\nSame?"}, {"from": "gpt", "value": "no"},
        {"from": "human", "value": "Sure?"}, {"from": "gpt", "value": "yes"}]})  # fmt: skip
    made.append({"id": "text", "conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Ho"}]})
    path = tmp_path / "records.json"
    path.write_text(json.dumps(made))
    return path


def test_a_data_set_is_published_private_and_read_back_with_the_same_texts_and_pictures(
    records: Path, tmp_path: Path
) -> None:
    with UploadHub(tmp_path / "hub") as hub:
        done = hub.run(
            [*PUSH, f"train={records}", f"test={records}", "owner/name", "--images", str(tmp_path / "pictures")]
        )
        assert done.returncode == 0, done.stderr
        assert "owner/name: private" in done.stdout
        assert [(one["visibility"], one["type"]) for one in hub.created] == [("private", "dataset")]
        files = hub.files("datasets/owner/name")
        assert files == ["README.md", "data/test-00000.parquet", "data/train-00000.parquet"]
        longer = tmp_path / "hub/datasets/owner/name/data"
        for name in ("test-00001.parquet", "other-00000.parquet"):  # of an earlier push, and of another split
            (longer / name).write_bytes(b"")
        hub.run([*PUSH, f"train={records}", f"test={records}", "owner/name", "--images", str(tmp_path / "pictures")])
        assert sorted(one.name.split(".")[0] for one in longer.iterdir()) == [
            "other-00000",
            "test-00000",
            "train-00000",
        ]
        (longer / "other-00000.parquet").unlink()
    folder = tmp_path / "hub" / "datasets" / "owner" / "name"
    assert b"secret" not in (folder / "data/train-00000.parquet").read_bytes()
    with Hub(folder, tmp_path / "cache") as hub:
        hub.run(
            "hf",
            "owner/name",
            "--split",
            "test",
            "--output",
            str(tmp_path / "back.json"),
            "--image-folder",
            str(tmp_path / "got"),
        )
    before, after = json.loads(records.read_text()), json.loads((tmp_path / "back.json").read_text())
    assert [{**one, "image": None} for one in after] == [{**one, "image": None} for one in before]
    for one, other in zip(before, after, strict=True):
        names = [
            [each["image"]] if isinstance(each.get("image"), str) else each.get("image", []) for each in (one, other)
        ]
        assert [(tmp_path / "pictures" / name).read_bytes() for name in names[0]] == [
            (tmp_path / "got" / name).read_bytes() for name in names[1]
        ]


def test_a_break_between_two_shards_is_gone_on_with_and_datasets_reads_every_record_back(
    records: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from datasets import load_dataset

    monkeypatch.setattr("data_prep.tools.push.SHARD_BYTES", 300)
    words = [str(records), "owner/name", "--images", str(tmp_path / "pictures")]
    with UploadHub(tmp_path / "hub", failures=50, taken=1) as hub:
        hub.is_the_hub(monkeypatch)
        with pytest.raises(DataError, match=r"not sent whole .* the same command goes on from here"):
            push(words)
        assert len(hub.sent) >= 1 and hub.files("datasets/owner/name") == [], "nothing is there in part"
        hub.failures = 0
        assert push(words) == 0
        shards = [name for name in hub.files("datasets/owner/name") if name.endswith(".parquet")]
        assert len(shards) == len(hub.sent) == len(set(hub.sent)) > 2, "no shard was sent twice"
    rows = load_dataset(str(tmp_path / "hub/datasets/owner/name"), split="train", cache_dir=str(tmp_path / "cache"))
    before = json.loads(records.read_text())
    assert len(rows) == len(before)
    for row, record in zip(rows, before, strict=True):
        names = record.get("image", [])
        names = [names] if isinstance(names, str) else names
        assert [np.asarray(one).tolist() for one in row["images"]] == [
            np.asarray(Image.open(tmp_path / "pictures" / name)).tolist() for name in names
        ]
        more = json.loads(row["more"] or "{}")
        kept = {key: row[key] for key in ("id", "conversations", "answers") if row[key] is not None} | more
        assert kept == {key: value for key, value in record.items() if key != "image"}


def test_an_upload_that_broke_goes_on_and_sends_nothing_twice(records: Path, tmp_path: Path) -> None:
    command = [*PUSH, str(records), "owner/name", "--images", str(tmp_path / "pictures"), "--public"]
    with UploadHub(tmp_path / "hub", failures=50) as hub:
        done = hub.run(command)
        assert done.returncode == 1
        assert "the same command goes on from here" in done.stderr
        assert "Traceback" not in done.stderr
        hub.failures = 0
        assert hub.run(command).returncode == 0
        assert hub.run(command).returncode == 0
        assert len(hub.sent) == 1
        assert hub.created[0]["visibility"] == "public"


def test_a_missing_login_and_a_wrong_one_are_one_line(records: Path, tmp_path: Path) -> None:
    command = [*PUSH, str(records), "owner/name", "--images", str(tmp_path / "pictures")]
    with UploadHub(tmp_path / "hub") as hub:
        done = hub.run(command, token=None)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1)
        assert "nobody is logged in to the hub: run `hf auth login`, or set HF_TOKEN" in done.stderr
        done = hub.run(command, token="of-somebody-else")
        assert done.returncode == 1
        assert "401" in done.stderr and "Traceback" not in done.stderr
    done = hub.run(command)  # it is gone: nobody answers at its address
    assert (done.returncode, "not sent whole (" in done.stderr, done.stderr.count("\n")) == (1, True, 1)


@pytest.mark.parametrize("name", ["name", "a/b/c", "own er/name", "owner/-name", "../etc"])
def test_what_is_no_name_of_the_hub_is_refused_before_anything_is_packed(records: Path, name: str) -> None:
    with pytest.raises(UsageError, match=name.split()[0]):
        push([str(records), name])


def test_a_picture_that_is_not_there_is_named_and_nothing_is_sent(records: Path, tmp_path: Path) -> None:
    (tmp_path / "pictures" / "2.png").unlink()
    before = {*tmp_path.rglob("*")}
    with pytest.raises(DataError, match=r"records\.json: line 1: .*2\.png"):
        push([str(records), "owner/name", "--images", str(tmp_path / "pictures"), "--dry-run", str(tmp_path / "out")])
    assert {*tmp_path.rglob("*")} == before, "a refused command leaves nothing behind"


def test_a_shorter_split_leaves_no_shard_of_a_longer_one_and_an_empty_one_is_refused(
    records: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out/data"
    out.mkdir(parents=True)
    (out / "train-00001.parquet").write_bytes(b"")
    words = ["owner/name", "--images", str(tmp_path / "pictures"), "--dry-run", str(out.parent)]
    assert push([str(records), *words]) == 0
    assert [one.name for one in out.iterdir()] == ["train-00000.parquet"]
    records.write_text("[]")
    with pytest.raises(DataError, match="no record in it; nothing was sent"):
        push([str(records), *words])


def test_a_folder_that_is_a_file_is_told(records: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"records\.json: cannot be written"):
        push([str(records), "owner/name", "--images", str(tmp_path / "pictures"), "--dry-run", str(records)])
    assert {one.name for one in tmp_path.iterdir()} == {"records.json", "pictures"}


def test_a_model_is_published_without_checkpoints_logs_and_pictures(tmp_path: Path) -> None:
    run = tmp_path / "run"
    for name in ("adapter_model.safetensors", "adapter_config.json", "README.md", "non_lora_trainables.bin",
                 "certificate.json", "log.jsonl", "report.html", "predictions-eval-3.jsonl", "run.json",
                 "tower/config.json", "tower/model.safetensors", "checkpoint-3/config.json",
                 "checkpoint-3/optimizer.pt", "checkpoint-3/model.safetensors"):  # fmt: skip
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        if name.endswith(".safetensors"):
            save_file({"weight": np.zeros(2, np.float32)}, run / name)
        else:
            (run / name).write_text("{}" if name != "README.md" else "---\ntags:\n- llava\n---\n# run\n")
    command = [sys.executable, "-m", "llava_finetune", "push", str(run), "owner/name"]
    with UploadHub(tmp_path / "hub") as hub:
        done = hub.run(command)
        assert done.returncode == 0, done.stderr
        assert hub.files("models/owner/name") == [
            "README.md", "adapter_config.json", "adapter_model.safetensors", "certificate.json",
            "non_lora_trainables.bin", "tower/config.json", "tower/model.safetensors",
        ]  # fmt: skip
        assert [one["visibility"] for one in hub.created] == ["private"]
        assert "nobody is logged in" in hub.run(command, token=None).stderr
    (run / "adapter_model.safetensors").unlink()
    done = hub.run([*command[:-2], str(tmp_path), "owner/name"])
    assert (done.returncode, done.stderr.startswith(f"error: {tmp_path}: no weights in it")) == (1, True)


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"conversations": [{"from": "human", "value": "What?"}, {"from": "gpt", "value": " "}]}, "an empty answer"),
        ({"conversations": [{"from": "human", "value": "What?"}], "chosen": "", "rejected": "a"}, "chosen: expected"),
    ],
)
def test_an_empty_answer_is_not_published(records: Path, tmp_path: Path, changed: dict[str, object], told: str) -> None:
    made = json.loads(records.read_text())
    made[5] |= changed
    records.write_text(json.dumps(made))
    words = ["owner/name", "--images", str(tmp_path / "pictures"), "--dry-run", str(tmp_path / "out")]
    with pytest.raises(DataError, match=rf'records\.json: line 1: record "r5": .*{told}'):
        push([str(records), *words])
    assert not (tmp_path / "out").exists()
