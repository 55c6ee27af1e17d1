"""A training over a base in e4m3: it learns as over the base itself, goes on after a kill, and merges into the base."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from llava_finetune.cli import main
from llava_finetune.errors import UserError
from llava_finetune.model.adapters import Lora, require_same_adapter
from tests.training.conftest import Flags, assert_same_run, rows_of
from tests.training.forked import at_step, die, train

STEPS = "--base_dtype fp8 --lora_dropout 0 --max_steps 60 --save_steps 20 --learning_rate 1e-2 --lora_r 16"


def test_it_learns_goes_on_and_merges_in_the_bases_own_type(flags: Flags, tiny: Path, tmp_path: Path) -> None:
    losses = {}
    for name, more in (("fp8", STEPS), ("plain", STEPS.replace("--base_dtype fp8", ""))):
        code, text = train(flags("lora", tmp_path / name, more), tmp_path / "out")
        assert code == 0, text
        assert ("14 frozen linear layers in e4m3, a scale for each row" in text) == (name == "fp8")
        losses[name] = [row["loss"] for row in rows_of(tmp_path / name) if "loss" in row]
    first, last = losses["fp8"][0], sum(losses["fp8"][-5:]) / 5
    assert last < 0.9 * first, losses
    assert last == pytest.approx(sum(losses["plain"][-5:]) / 5, rel=0.05), losses
    assert losses["fp8"][0] != losses["plain"][0], "its products are another's"

    broken = tmp_path / "broken"
    code, text = train(flags("lora", broken, STEPS), tmp_path / "out", wound=at_step(30, die))
    assert code == -9, text
    code, text = train(flags("lora", broken, f"{STEPS} --resume auto"), tmp_path / "out")
    assert code == 0, text
    assert_same_run(tmp_path / "fp8", broken)
    other = f"{STEPS} --resume auto --max_steps 70 --resume_changed False"
    code, text = train(flags("lora", broken, other.replace("--base_dtype fp8", "")), tmp_path / "out")
    assert code == 1 and "base_dtype: fp8 then, auto now" in text

    merged = tmp_path / "merged"
    assert main(["merge", str(tmp_path / "fp8"), str(merged)]) == 0
    base, made = (load_file(folder / "model.safetensors") for folder in (tiny, merged))
    name = "model.layers.0.mlp.down_proj.weight"
    assert made[name].dtype == base[name].dtype == torch.float32


def test_a_dora_adapter_is_not_gone_on_with_over_e4m3(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 8, "lora_alpha": 16, "use_dora": true}')
    require_same_adapter(Lora(init=str(tmp_path)))
    with pytest.raises(UserError, match="that is a DoRA adapter"):
        require_same_adapter(Lora(init=str(tmp_path)), in_fp8=True)
