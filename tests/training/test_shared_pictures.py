"""A run whose records share pictures: killed and gone on with, it is the run that was not."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from llava_finetune.data.collator import Collator
from llava_finetune.data.example import Example
from llava_finetune.training.halved_batches import HalvedBatches
from tests.training.conftest import COLOURS, Flags, assert_same_run, record, rows_of
from tests.training.forked import at_step, die, train

SHARED = "--share_pictures True --per_device_train_batch_size 4 --max_steps 6 --save_steps 2"


def test_a_killed_run_goes_on_in_the_order_of_its_second_epoch(flags: Flags, data: Path, tmp_path: Path) -> None:
    colours = list(COLOURS)
    asked = [("what colour?", 0), ("which?", 0), ("what is next to it?", 1)]
    path = tmp_path / "several.json"
    records = [
        record(f"{index}-{number}", f"<image>\n{question}", colours[(index + step) % 4], image=f"{index}.png")
        for index in range(4)
        for number, (question, step) in enumerate(asked)
    ]
    path.write_text(json.dumps(records), encoding="utf-8")
    shared = f"{SHARED} --data_path {path}"
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    code, text = train(flags("lora", whole, shared), tmp_path / "out")
    assert code == 0, text
    assert "12 records, 4 different pictures or texts; 4 records that stand together hold up to 2 of them" in text
    code, text = train(flags("lora", broken, shared), tmp_path / "out", wound=at_step(5, die))
    assert code == -9, text
    code, text = train(flags("lora", broken, f"{shared} --resume auto"), tmp_path / "out")
    assert code == 0, text
    assert "checkpoint-4" in text, "in the middle of the second epoch of three steps"
    assert_same_run(whole, broken)
    assert len([row for row in rows_of(whole) if "loss" in row]) == 6


def test_a_part_counts_by_what_its_layout_teaches_and_not_by_labels_cut_as_one_text() -> None:
    """Three branches of four tokens behind two shared ones: each path fits into eight, all of them together do not."""
    ids = torch.arange(1, 15)
    labels = torch.full_like(ids, -100)
    for start in (2, 6, 10):
        labels[start + 1 : start + 4] = ids[start + 1 : start + 4]
    example = Example("a", ids, labels, len(ids), branches=(2, 6, 10))
    batch = Collator(0, torch.zeros(3, 2, 2), 8, unpadded=True)([example])
    assert HalvedBatches().shares([batch]) == [9.0]
