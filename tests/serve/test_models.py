"""What chat and serve load: quantised where it may be, and the model before fine-tuning beside it."""

from __future__ import annotations

import dataclasses
import json
import shutil
from argparse import ArgumentParser
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from llava_finetune.errors import UsageError, UserError
from llava_finetune.model.loading import load
from llava_finetune.serve.http_server import listen
from llava_finetune.serve.models import ModelChoice, add_model_flags, base_model_of, choice_of

Make = Callable[[str], Path]


@pytest.mark.parametrize(("bits", "kind"), [(4, "Linear4bit"), (8, "Linear8bitLt")])
def test_only_the_language_model_is_quantised(family: Make, bits: int, kind: str) -> None:
    model = load(str(family("llava-1.5")), bits=bits, dtype="bf16").model
    kinds = {
        name: type(module).__name__ for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)
    }
    quantised = {name for name, value in kinds.items() if value == kind}
    assert len(quantised) == 14
    assert all(".layers." in name and "vision_tower" not in name for name in quantised)
    kept = [
        p
        for name, p in model.named_parameters()
        if "mm_projector" in name or "vision_tower" in name or "lm_head" in name
    ]
    assert {value.dtype for value in kept} == {torch.bfloat16}


@pytest.mark.parametrize("bits", [4, 8])
def test_a_quantised_model_answers_close_to_the_whole_one(adapter: Path, bits: int) -> None:
    from llava_finetune.merge import weights

    whole = load(str(adapter), dtype="fp32")
    cases, _ = weights.load_cases(str(adapter), whole, None, None, 4)
    expected = weights.logits_of(whole, cases)
    found = weights.logits_of(load(str(adapter), bits=bits, dtype="fp32", merge_adapter=False), cases)
    apart = weights.difference(expected, found, torch.float32).largest
    assert 0 < apart < 0.5 * max(logits.abs().max().item() for logits in expected)


def choice(folder: Path) -> ModelChoice:
    return ModelChoice(str(folder))


def test_an_adapter_is_compared_with_its_base(loaded: Any, adapter: Path, family: Make) -> None:
    assert base_model_of(loaded, choice(adapter)) == str(family("llava-1.5"))


def test_a_run_over_a_language_model_is_compared_with_stage_1(loaded: Any, adapter: Path, tmp_path: Path) -> None:
    from tests.tiny import make_tiny_language_model

    language = make_tiny_language_model(tmp_path / "language")
    stage_1 = tmp_path / "pretrain"
    stage_1.mkdir()
    (stage_1 / "llava_finetune.json").write_text(json.dumps({"kind": "projector", "base": str(language)}))
    run = tmp_path / "run"
    shutil.copytree(adapter, run)
    arguments = {"pretrain_mm_mlp_adapter": str(stage_1 / "mm_projector.bin")}
    (run / "run.json").write_text(json.dumps({"arguments": arguments}))
    over = dataclasses.replace(loaded, manifest={**loaded.manifest, "base": str(language)})
    assert base_model_of(over, choice(run)) == str(stage_1)
    shutil.rmtree(stage_1)
    assert base_model_of(over, choice(run)) is None


def test_a_base_that_is_gone_is_no_comparison(loaded: Any, adapter: Path, tmp_path: Path) -> None:
    gone = dataclasses.replace(loaded, manifest={"base": str(tmp_path / "gone")})
    assert base_model_of(gone, choice(adapter)) is None


def parsed(*words: str) -> ModelChoice:
    parser = ArgumentParser()
    add_model_flags(parser)
    return choice_of(parser.parse_args(words))


def test_the_model_is_named_in_place_or_by_flag_but_once() -> None:
    assert parsed("runs/a").model == parsed("--model", "runs/a").model == "runs/a"
    for words in ([], ["runs/a", "--model", "runs/b"]):
        with pytest.raises(UsageError, match="give one model"):
            parsed(*words)


def test_a_host_that_is_no_name_is_told() -> None:
    for host in ("x" * 300, "no host", "256.1.1.1"):
        with pytest.raises(UserError, match=rf"cannot listen on {host[:100]}:0: .*; choose others with --host"):
            listen(host, 0)
