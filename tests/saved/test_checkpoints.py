"""Checkpoints notice damage: every file in the seal with its hash, any content of a seal told in a line."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from llava_finetune.errors import UserError
from llava_finetune.saved.checkpoints import SEAL, fault_of, publish, seal
from llava_finetune.saved.pickles import refuse_code
from llava_finetune.training.resume import find


def checkpoint(output: Path, step: int) -> Path:
    """A sealed checkpoint with a state, weights and a state of the engine below."""
    folder = output / ".saving" / f"checkpoint-{step}"
    (folder / "global_step2").mkdir(parents=True)
    (folder / "trainer_state.json").write_text(json.dumps({"global_step": step, "max_steps": 9}))
    torch.save({"a": torch.arange(400.0)}, folder / "optimizer.pt")
    torch.save({"b": torch.ones(4)}, folder / "global_step2" / "states.pt")
    seal(folder, {"step": step, "settings": {}})
    return publish(folder, output)


def flip(file: Path, place: int = 900) -> None:
    """One bit of a file, as a bad disk does; size and time say nothing."""
    raw = bytearray(file.read_bytes())
    raw[place] ^= 1
    state = file.stat()
    file.write_bytes(raw)
    os.utime(file, ns=(state.st_atime_ns, state.st_mtime_ns))


def test_one_flipped_bit_is_found_and_its_file_named(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path, 2)
    assert fault_of(folder, contents=True) is None
    flip(folder / "global_step2" / "states.pt")
    assert fault_of(folder) is None, "sizes alone do not tell"
    assert "global_step2/states.pt is damaged" in str(fault_of(folder, contents=True))


def test_a_resume_goes_on_from_the_newest_whole_checkpoint_before_a_damaged_one(tmp_path: Path) -> None:
    for step in (2, 4, 10):
        checkpoint(tmp_path, step)
    flip(tmp_path / "checkpoint-10" / "optimizer.pt")
    said: list[str] = []
    assert find(tmp_path, "auto", said.append) == tmp_path / "checkpoint-4"
    assert len(said) == 1 and said[0].startswith("WARNING: passed over checkpoint-10: optimizer.pt is damaged")
    with pytest.raises(UserError, match=r"--resume .*checkpoint-10: optimizer.pt is damaged"):
        find(tmp_path, str(tmp_path / "checkpoint-10"))


def test_a_resume_without_a_whole_checkpoint_does_not_begin_anew_in_silence(tmp_path: Path) -> None:
    flip(checkpoint(tmp_path, 2) / "optimizer.pt")
    with pytest.raises(UserError, match=r"no whole checkpoint is left to go on from: checkpoint-2: optimizer.pt"):
        find(tmp_path, "auto", lambda _: None)


@pytest.mark.parametrize(
    "text",
    ["", "5", "[]", "{}", '{"files": 5}', '{"files": {"a": "b"}}', '{"files": {"../x": 1}}', "[" * 100_000, '"\\ud800"',
     '{"files": {"a": {"bytes": -1, "xxh3_128": ""}}}', '{"files": {"optimizer.pt": {"bytes": 1}}}'],
)  # fmt: skip
def test_a_seal_of_any_content_is_a_fault_in_words(tmp_path: Path, text: str) -> None:
    folder = checkpoint(tmp_path, 2)
    (folder / SEAL).write_text(text)
    assert fault_of(folder, contents=True)


@pytest.mark.parametrize("text", ["", "5", '{"global_step": "x", "max_steps": 3}', '{"global_step": 1}'])
def test_a_state_of_any_content_is_passed_over(tmp_path: Path, text: str) -> None:
    checkpoint(tmp_path, 2)
    folder = checkpoint(tmp_path, 4)
    (folder / "trainer_state.json").write_text(text)
    seal(folder, {"step": 4, "settings": {}})
    assert find(tmp_path, "auto", lambda _: None) == tmp_path / "checkpoint-2"


class Harmful:
    """Makes a folder where a pickle of it is read without care."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("sealed", [False, True])
@pytest.mark.parametrize("bare", [False, True])
@pytest.mark.parametrize("name", ["optimizer.pt", "rng_state.pth", "position_0.pth", "global_step2/states.pt"])
def test_a_pickle_that_runs_code_is_refused_before_it_is_read(
    tmp_path: Path, name: str, bare: bool, sealed: bool
) -> None:
    folder, mark = checkpoint(tmp_path, 2), tmp_path / "ran"
    if bare:
        (folder / name).write_bytes(pickle.dumps(Harmful(mark)))
    else:
        torch.save(Harmful(mark), folder / name)
    if sealed:  # by someone who knows how
        seal(folder, {"step": 2, "settings": {}})
    with pytest.raises(UserError, match=rf"{name}: refused: .*a pickle can run code"):
        find(tmp_path, "auto", lambda _: None)
    assert not mark.exists()


def test_what_deepspeed_and_transformers_put_into_their_states_is_not_refused(tmp_path: Path) -> None:
    import numpy as np
    from deepspeed.runtime.fp16.loss_scaler import LossScaler
    from deepspeed.runtime.zero.config import ZeroStageEnum
    from deepspeed.utils.tensor_fragment import fragment_address

    folder = checkpoint(tmp_path, 2)
    state = {"loss_scaler": LossScaler(1.0), "zero_stage": ZeroStageEnum.gradients, "at": fragment_address(4, 0)}
    torch.save(state, folder / "global_step2" / "zero_pp_rank_0_mp_rank_00_optim_states.pt")
    torch.save({"numpy": np.random.get_state(), "cpu": torch.random.get_rng_state()}, folder / "rng_state.pth")
    refuse_code(folder)
