"""Loading for use: rotary positions in fp32, one dtype in every width, towers that moved, `.bin` files as weights."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from llava_finetune.doctor import model_checks
from llava_finetune.errors import UserError
from llava_finetune.kernels import rotary
from llava_finetune.model.loading import load

Make = Callable[[str], Path]


def frequencies(model: Any) -> list[torch.Tensor]:
    found = [value for name, value in model.named_buffers() if name.endswith("inv_freq")]
    assert len(found) == 2
    return found


@pytest.mark.parametrize("dtype", ["bf16", "fp16", "fp32"])
@pytest.mark.parametrize("merge_adapter", [True, False])
def test_rotary_frequencies_are_those_of_fp32_in_every_dtype(adapter: Path, dtype: str, merge_adapter: bool) -> None:
    exact = frequencies(load(str(adapter), dtype="fp32", device="cpu").model)
    found = frequencies(load(str(adapter), dtype=dtype, device="cpu", merge_adapter=merge_adapter).model)
    assert all(value.dtype == torch.float32 and torch.equal(value, exact[0]) for value in found)


@pytest.mark.parametrize("rope", [{"rope_type": "default"}, {"rope_type": "linear", "factor": 4.0}])
def test_a_cast_rounds_the_frequencies_and_restore_mends_them(rope: dict[str, Any]) -> None:
    from transformers import LlamaConfig, LlamaModel

    sizes = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = LlamaModel(LlamaConfig(vocab_size=8, rope_parameters={"rope_theta": 10000.0, **rope}, **sizes))
    exact = frequencies(model)[0].clone()
    model.to(torch.bfloat16)
    assert (frequencies(model)[0].float() - exact).abs().max() > 1e-5
    assert rotary.restore(model) == 1
    assert all(torch.equal(value, exact) for value in frequencies(model))
    assert rotary.restore(model) == 0


def test_training_begins_with_frequencies_in_fp32(family: Make) -> None:
    """Whatever DeepSpeed's engine made of them."""
    from llava_finetune.training.course import Course
    from llava_finetune.training.watch import StopSignal

    model = load(str(family("llava-1.5")), dtype="bf16", device="cpu").model
    exact = frequencies(model)[0].clone()
    model.to(torch.bfloat16)
    Course(SimpleNamespace(model=model), StopSignal()).on_train_begin(SimpleNamespace(world_size=1), None, None)
    assert all(torch.equal(value, exact) for value in frequencies(model))


@pytest.mark.parametrize("bits", [16, 8, 4])
def test_an_adapter_has_one_dtype_in_every_width_and_doctor_says_so(
    adapter: Path, bits: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert model_checks.check_model(str(adapter), None, "bf16", "cpu", bits) == 0, capsys.readouterr().out
    out = capsys.readouterr().out
    assert ("LoRA" in out) == (bits != 16)
    assert "rotary positions  float32" in out


def test_rounded_rotary_positions_are_stray(adapter: Path) -> None:
    model = load(str(adapter), dtype="bf16", device="cpu").model.to(torch.bfloat16)
    stray = [row for row in model_checks.table(model, "bfloat16", "cpu") if row.stray]
    assert [(row.part, row.dtype) for row in stray] == [("rotary positions", "bfloat16")]


def test_an_imported_folder_that_moved_loads_and_trains_with_its_own_tower(
    exported: Make, adapter: Path, tmp_path: Path
) -> None:
    from llava_finetune.convert.importing import import_model
    from llava_finetune.model.building import load_config

    import_model(str(exported("llava-1.5")), tmp_path / "imported")
    before = load(str(tmp_path / "imported"), dtype="fp32").model.get_vision_tower()
    (tmp_path / "imported").rename(tmp_path / "moved")
    after = load(str(tmp_path / "moved"), dtype="fp32").model.get_vision_tower()
    assert after.vision_tower_name == str(tmp_path / "moved" / "vision_tower") != before.vision_tower_name
    assert all(torch.equal(a, b) for a, b in zip(before.parameters(), after.parameters(), strict=True))
    assert load_config(str(tmp_path / "moved")).mm_vision_tower == after.vision_tower_name
    run = tmp_path / "run"
    shutil.copytree(adapter, run)
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps({**config, "mm_vision_tower": str(tmp_path / "imported/vision_tower")}))
    (run / "llava_finetune.json").unlink()
    over = load(str(run), base=str(tmp_path / "moved"), dtype="fp32").model.get_vision_tower()
    assert over.vision_tower_name == after.vision_tower_name, "an adapter finds the tower in its base's folder"


class Evil:
    """A pickle that would write a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[str, str]]:
        return open, (str(self.path), "w")


def spoil(folder: Path, source: Path, name: str) -> Path:
    """A copy of a folder in which one file is a pickle with code in it."""
    shutil.copytree(source, folder)
    (folder / name).write_bytes(pickle.dumps({"a": Evil(folder / "ran")}, protocol=2))
    return folder


REFUSED = "refused: it is not a plain and whole file of tensors .* a pickle can run code"


def test_a_pickle_beside_an_adapter_is_refused_in_one_message(adapter: Path, tmp_path: Path) -> None:
    from llava_finetune.model.adapters import restore_beside_adapter

    run = spoil(tmp_path / "run", adapter, "non_lora_trainables.bin")
    for attempt in (lambda: load(str(run)), lambda: restore_beside_adapter(torch.nn.Linear(1, 1), run)):
        with pytest.raises(UserError, match=f"non_lora_trainables.bin: {REFUSED}"):
            attempt()
    assert not (run / "ran").exists()


def test_a_pickle_as_projector_or_weights_is_refused(family: Make, tmp_path: Path) -> None:
    base = family("llava-1.5")
    (tmp_path / "plain").mkdir()
    shutil.copyfile(base / "config.json", tmp_path / "plain" / "config.json")
    run = spoil(tmp_path / "run", tmp_path / "plain", "mm_projector.bin")
    with pytest.raises(UserError, match=f"mm_projector.bin: {REFUSED}"):
        load(str(run), base=str(base))
    whole = spoil(tmp_path / "whole", tmp_path / "plain", "pytorch_model.bin")
    with pytest.raises(Exception, match=r"(?i)weights.only"):
        load(str(whole))
    assert not (run / "ran").exists() and not (whole / "ran").exists()


def test_a_pickle_as_the_adapter_is_refused(adapter: Path, tmp_path: Path) -> None:
    run = spoil(tmp_path / "run", adapter, "adapter_model.bin")
    (run / "adapter_model.safetensors").unlink()
    with pytest.raises(UserError, match=r"run: the adapter cannot be loaded, it may be cut off: .*(?i:weights.only)"):
        load(str(run))
    assert not (run / "ran").exists()


def test_a_model_without_its_projector_is_refused_not_drawn_at_random(
    family: Make, kit: SimpleNamespace, tmp_path: Path
) -> None:
    from safetensors.torch import save_file

    shutil.copytree(family("llava-1.5"), tmp_path / "model")
    state = {name: value for name, value in kit.tensors(tmp_path / "model").items() if "mm_projector.2" not in name}
    save_file(state, tmp_path / "model" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"model\.mm_projector\.2\.bias is missing from the weights \(and 1 more\)"):
        load(str(tmp_path / "model"))


def test_an_adapter_without_its_config_is_told_as_one(adapter: Path, tmp_path: Path) -> None:
    shutil.copytree(adapter, tmp_path / "run")
    (tmp_path / "run" / "adapter_config.json").unlink()
    with pytest.raises(UserError, match=r"run/adapter_model.safetensors: no adapter_config.json beside it"):
        load(str(tmp_path / "run"))
