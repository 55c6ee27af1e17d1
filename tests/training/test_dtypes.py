"""In which dtype each part of a model is trained, as the whole beginning of a run puts it together."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from llava_finetune.config.arguments import parse
from llava_finetune.training.beginning import Run
from llava_finetune.training.model_setup import put_together
from tests.training.conftest import Flags


@pytest.mark.parametrize(("precision", "dtype"), [("bf16", torch.bfloat16), ("fp32", torch.float32)])
@pytest.mark.parametrize("mode", ["lora", "full"])
def test_the_tower_has_the_runs_dtype_and_the_projector_is_trained_in_fp32(
    mode: str, precision: str, dtype: torch.dtype, flags: Flags, tmp_path: Path
) -> None:
    arguments = parse(flags(mode, tmp_path / "run", f"--precision {precision} --use_cpu True"))
    model, _, _ = put_together(Run(arguments, tmp_path / "run", {}, is_main=False))
    tower = {parameter.dtype for parameter in model.get_vision_tower().parameters()}
    projector = {value.dtype for name, value in model.named_parameters() if "mm_projector" in name}
    assert (tower, projector) == ({dtype}, {torch.float32})
