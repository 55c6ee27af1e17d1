"""What patches of upstream's models and loader are for, where no other test of theirs fails without them alone.

Each test is named by one patch (`proven_by`) and fails without it: `python -m patches prove NAME`.
"""

import importlib
import inspect
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from llava_finetune.errors import UserError
from llava_finetune.upstream import guards
from tests.patches.test_upstream_loads import load, make_adapter


def test_an_adapter_finds_the_base_that_it_names(tiny: Path, tmp_path: Path) -> None:
    folder = make_adapter(tmp_path / "second-stage", tiny / "llava-1.5", ("mm_projector",))
    _, model, processor, _ = load(folder)
    assert type(model).__name__ == "LlavaLlamaForCausalLM" and processor is not None


def test_a_model_loads_where_no_device_is_asked_for(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from llava.model.builder import load_pretrained_model

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert inspect.signature(load_pretrained_model).parameters["device"].default == "auto"
    _, model, _, _ = load(tiny / "llava-1.5", device="auto")
    assert {value.device.type for value in model.parameters()} == {"cpu"}


def test_flash_attention_that_cannot_run_falls_back(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    _, model, _, _ = load(tiny / "llava-1.5", use_flash_attn=True)
    assert model.config._attn_implementation == "sdpa"


def test_a_clip_tower_of_any_name_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    builder = importlib.import_module("llava.model.multimodal_encoder.builder")
    monkeypatch.setattr(guards, "is_clip", lambda _: True)
    monkeypatch.setattr(builder, "CLIPVisionTower", lambda name, **_: name)
    assert builder.build_vision_tower(SimpleNamespace(mm_vision_tower="someone/their-clip")) == "someone/their-clip"


class Newline:
    """Stands for `image_newline` on another device: `[None]` is refused by `torch.cat` before it was moved."""

    def __init__(self, values: torch.Tensor) -> None:
        self.values = values
        self.moved_to: list[torch.device] = []

    def __getitem__(self, _: None) -> "Newline":
        return self

    def to(self, device: torch.device) -> torch.Tensor:
        self.moved_to.append(device)
        return self.values[None].to(device)


def test_the_newline_joins_features_on_their_device(tiny: Path) -> None:
    """A list of pictures without views, as a caller gives them to a 1.6 model."""
    _, model, _, _ = load(tiny / "1.6-vicuna", dtype="float32")
    inner = model.get_model()
    newline = Newline(inner.image_newline.data)
    del inner.image_newline
    object.__setattr__(inner, "image_newline", newline)
    ids = torch.tensor([[1, -200, 5]])
    with torch.no_grad():
        model(input_ids=ids, images=[torch.zeros(1, 3, 56, 56)], image_sizes=[(56, 56)])
    assert newline.moved_to == [torch.device("cpu")]


def test_a_pretrained_projector_is_loaded_by_the_loader_that_knows_zero3(tiny: Path, tmp_path: Path) -> None:
    """The loader gathers what ZeRO-3 has split, and names a file whose shapes do not fit."""
    _, model, _, _ = load(tiny / "llava-1.5", dtype="float32")
    torch.save({"model.mm_projector.0.weight": torch.zeros(2, 2)}, tmp_path / "mm_projector.bin")
    arguments = SimpleNamespace(
        vision_tower=model.config.mm_vision_tower,
        mm_vision_select_layer=-2,
        mm_vision_select_feature="patch",
        pretrain_mm_mlp_adapter=str(tmp_path / "mm_projector.bin"),
        mm_patch_merge_type="flat",
        mm_projector_type="mlp2x_gelu",
    )
    with pytest.raises(UserError, match=r"mm_projector\.bin: expected projector weights"):
        model.get_model().initialize_vision_modules(arguments)


def test_the_last_logits_alone_can_be_had(tiny: Path) -> None:
    for family in ("llava-1.5", "1.6-mistral"):
        _, model, _, _ = load(tiny / family, dtype="float32")
        logits = model(input_ids=torch.tensor([[1, 5, 6]]), logits_to_keep=1).logits
        assert logits.shape[:2] == (1, 1), family


def test_the_mpt_class_names_what_replaces_it() -> None:
    models: Any = importlib.import_module("llava.model")
    with pytest.raises(ImportError, match=r"MPT models are not supported: .* use a Llama, Vicuna or Mistral"):
        _ = models.LlavaMptForCausalLM
