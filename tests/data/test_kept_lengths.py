"""Word counts that grouped batches are made by are kept from run to run, under the hash of the records."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from data_prep.records.record import read_records
from llava_finetune.data import length_cache
from llava_finetune.data.dataset import RecordDataset


def write(path: Path, number: int) -> Path:
    turns = [{"from": "human", "value": "<image>\nWhat is it?"}]
    rows = [
        {"id": str(n), "image": "a.png", "conversations": [*turns, {"from": "gpt", "value": "a thing " * (n + 1)}]}
        for n in range(number)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def lengths(path: Path) -> list[int]:
    return RecordDataset(read_records(path), encoder=None).modality_lengths  # type: ignore[arg-type]


def test_they_are_counted_once_for_a_state_of_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLAVA_FINETUNE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(length_cache, "MANY", 5)
    records = write(tmp_path / "r.jsonl", 6)
    counted = []
    usual = RecordDataset._num_words

    def count(self: RecordDataset) -> list[int]:
        counted.append(len(self))
        return usual(self)

    monkeypatch.setattr(RecordDataset, "_num_words", count)
    assert lengths(records) == [6, 8, 10, 12, 14, 16] == lengths(records)
    assert counted == [6], "the second time from the cache"
    assert lengths(write(records, 5)) == [6, 8, 10, 12, 14]
    assert counted == [6, 5], "another file"
    for file in (tmp_path / "cache").rglob("*.npy"):
        file.write_bytes(file.read_bytes()[:20])
    assert lengths(records) == [6, 8, 10, 12, 14]
    assert counted == [6, 5, 5], "a damaged cache is counted again"
    assert lengths(write(tmp_path / "few.jsonl", 4)) == [6, 8, 10, 12]
    assert len(list((tmp_path / "cache").rglob("*.npy"))) == 2, "a few are not kept"
