"""A run whose records share pictures: killed and gone on with, it is the run that was not."""

from __future__ import annotations

import json
from pathlib import Path

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
