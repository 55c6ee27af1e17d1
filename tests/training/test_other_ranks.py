"""A checkpoint of another number of ranks or ZeRO stage: refused with the way that works."""

from __future__ import annotations

from pathlib import Path

import pytest

from llava_finetune.errors import UserError
from llava_finetune.training.other_ranks import refuse_other_ranks

TWO = {"ranks": 2, "zero_stage": 2, "lora_enable": True}


def test_other_ranks_under_zero_name_the_way_that_works() -> None:
    with pytest.raises(UserError) as caught:
        refuse_other_ranks(Path("runs/a/checkpoint-2"), TWO, {**TWO, "ranks": 1})
    assert str(caught.value) == (
        "runs/a/checkpoint-2 was written by 2 rank(s) under ZeRO-2, and this run has 1 under ZeRO-2: each rank keeps a "
        "part of the optimizer, and the parts fit no other number. Go on with NUM_GPUS=2 DEEPSPEED_CONFIG=zero2, or "
        "start a new run from its weights: another OUTPUT, no --resume, and --init_lora runs/a/checkpoint-2"
    )


@pytest.mark.parametrize(
    ("mode", "way"),
    [({"lora_enable": False}, "MODEL=c"), ({"lora_enable": False, "tune_mm_mlp_adapter": True}, "c/mm_projector.bin")],
)
def test_other_modes_have_their_own_way(mode: dict[str, bool], way: str) -> None:
    with pytest.raises(UserError, match=way):
        refuse_other_ranks(Path("c"), TWO, {**TWO, **mode, "zero_stage": 3})


def test_the_same_ranks_and_runs_without_zero_go_on() -> None:
    refuse_other_ranks(Path("c"), TWO, TWO)
    refuse_other_ranks(Path("c"), {"ranks": 2, "zero_stage": 0}, {"ranks": 1, "zero_stage": 0})
    refuse_other_ranks(Path("c"), {}, TWO)
