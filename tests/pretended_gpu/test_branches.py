"""Branches that only a GPU takes, taken: what is asked of torch.cuda, and what is chosen by its answers."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
import torch

from llava_finetune.config.precision import choose_precision
from llava_finetune.evaluation import processes
from llava_finetune.model.allocation import free_memory
from llava_finetune.model.costs import memory_text
from llava_finetune.pretended_gpu.device import CARDS, Observer, pretend
from llava_finetune.training.last_step import LastStep
from llava_finetune.training.run_log import memory_gb
from llava_finetune.upstream import placement

WAITS: list[str] = []
OBSERVER = Observer(WAITS.append, held=lambda: 3 * 10**9, peak=lambda: 5 * 10**9)


@pytest.fixture(params=["T4", "H200"])
def card(request: pytest.FixtureRequest) -> Iterator[str]:
    """The name of the card that is pretended meanwhile."""
    WAITS.clear()
    with pretend(CARDS[request.param], OBSERVER):
        yield request.param


def test_dtype_device_and_attention_follow_the_card(card: str) -> None:
    half = {"T4": torch.float16, "H200": torch.bfloat16}[card]
    assert placement.choose_device("auto") == "cuda"
    assert placement.choose_device_map("cuda", {"": 0}) == {"": 0}
    assert placement.choose_dtype("auto", "cuda") == half
    assert placement.choose_dtype("auto", "cuda", "bf16") == half, "a T4 has no bf16, whatever the training had"
    reason = {"T4": "it needs compute capability 8.0 (Ampere) or newer", "H200": "flash_attn is not installed"}[card]
    assert str(placement.flash_problem("cuda")).startswith(reason)
    assert choose_precision("auto", "cuda").name == {"T4": "fp16", "H200": "bf16"}[card]


def test_costs_are_the_gpus(card: str) -> None:
    weights = torch.nn.Linear(1000, 1000, bias=False)
    loaded: Any = SimpleNamespace(model=weights, device=torch.device("cuda", 0))
    assert memory_text(loaded) == "0.00 GB of weights, 5.00 GB held at most"
    assert memory_gb() == 5


def test_a_failed_step_gives_its_memory_back(card: str) -> None:
    with mock.patch.object(torch.cuda, "empty_cache") as emptied:
        free_memory()
    emptied.assert_called_once_with()


def test_the_last_step_is_written_beside_what_waits(card: str) -> None:
    """On a stream of its own, which waits for the step's beginning alone."""
    last = LastStep.__new__(LastStep)
    last.trainer, last.event, last.step = SimpleNamespace(args=SimpleNamespace(device=0)), None, -1
    last.begin(3)
    assert last.step == 3 and last.event is not None
    with mock.patch.object(torch.cuda.Stream, "wait_event") as wait, last._beside_what_waits():
        wait.assert_called_once_with(last.event)
    assert WAITS == [], "the host waits for nothing"


def test_ranks_of_an_evaluation_take_a_gpu_each(card: str) -> None:
    assert [processes.has_gpus(count) for count in (1, 2)] == [True, False]
