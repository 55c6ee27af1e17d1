"""What is trained of the published 7B, which precision a machine gets, and what fp16 keeps in fp32."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from llava_finetune.config.precision import Precision, choose_precision
from llava_finetune.errors import UsageError, UserError
from llava_finetune.model.adapters import Lora, add_adapters, target_modules
from llava_finetune.model.building import load_config
from llava_finetune.model.modeling import model_class
from llava_finetune.model.trained_parts import Building, in_use, restore_trainable, settle_dtypes, trainable_table
from llava_finetune.training.learning_rates import use_learning_rate


def building(precision: str = "bf16", deepspeed: bool = False) -> Building:
    """How the driver has a model put together."""
    return Building("base", Precision(precision, "asked for").dtype, torch.device("cpu"), deepspeed=deepspeed)


def of_7b(clip: Path, **changes: Any) -> Any:
    """LLaVA-1.5-7B's shapes on the meta device: names and sizes without the bytes."""
    from llava.model import LlavaConfig

    values = {
        "vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
        "num_attention_heads": 32, "num_key_value_heads": 32, "mm_vision_tower": str(clip), "mm_hidden_size": 1024,
        "mm_projector_type": "mlp2x_gelu", "mm_vision_select_layer": -2, "tie_word_embeddings": False, **changes,
    }  # fmt: skip
    with torch.device("meta"):
        return model_class("llava_llama")(LlavaConfig(**values))


@pytest.fixture(scope="module")
def shapes(models: dict[str, Path]) -> Any:
    """The 7B without adapters, built once."""
    return of_7b(models["clip"])


def test_the_7b_default_trains_319_8_m_and_a_projector_of_21_m(models: dict[str, Path]) -> None:
    with torch.device("meta"):
        model = add_adapters(of_7b(models["clip"]), Lora(r=128, alpha=256))
    restore_trainable(model, building(), "language")
    table = {part: (trained, total) for part, trained, total in trainable_table(model)}
    assert table["LoRA"] == (319_815_680, 319_815_680)
    assert table["projector"] == (20_979_712, 20_979_712)
    assert table["language model"] == (0, 6_738_415_616)


def test_upstreams_older_name_is_not_taken_for_a_llava_hf_model(models: dict[str, Path]) -> None:
    """transformers has its own layout under `llava`, with a text_config that these checkpoints have not."""
    config = load_config(str(models["llava-llama-2"]))
    assert (type(config).__module__, config.model_type) == ("llava.model.language_model.llava_llama", "llava_llama")
    assert config.hidden_size == 64 and config.mm_hidden_size == 64


@pytest.mark.parametrize(
    ("targets", "count"),
    [("language", 32 * 7), ("language.attention", 32 * 4), ("projector", 2), ("language,projector", 32 * 7 + 2),
     (r"model\.layers\.\d+\.mlp\.up_proj", 32)],
)  # fmt: skip
def test_targets_are_full_names(targets: str, count: int, shapes: Any) -> None:
    assert len(target_modules(targets, shapes)) == count


def test_language_targets_leave_a_loaded_tower_alone(models: dict[str, Path]) -> None:
    """1.6 checkpoints carry their tower; upstream's suffixes (q_proj ...) put adapters on it (problem 24)."""
    model = of_7b(models["clip"], unfreeze_mm_vision_tower=True, num_hidden_layers=2)
    assert any("vision_tower" in name for name, _ in model.named_modules())
    assert not any("vision_tower" in name for name in target_modules("language", model))
    # Of two layers the first is read; the one behind it would get no gradient.
    assert {name.split(".")[-3] for name in target_modules("vision", model)} == {"0"}
    assert len(target_modules("vision", model)) == 6
    assert "lm_head" not in target_modules("language", model)


def test_targets_that_select_nothing_name_the_parts(shapes: Any) -> None:
    with pytest.raises(UserError, match="--lora_targets nothing selects no linear layer; parts are language"):
        target_modules("nothing", shapes)
    with pytest.raises(UserError, match=r"--lora_targets \(: not a regular expression"):
        target_modules("(", shapes)


@pytest.mark.parametrize(
    ("capability", "name"), [((6, 0), "fp16"), ((7, 0), "fp16"), ((7, 5), "fp16"), ((8, 0), "bf16"), ((9, 0), "bf16")]
)
def test_a_gpu_gets_bf16_where_it_is_native(
    capability: tuple[int, int], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    chosen = choose_precision("auto", "cuda")
    assert chosen.name == name
    assert f"{capability[0]}.{capability[1]} has" in chosen.reason and "native bf16" in chosen.reason


@pytest.mark.parametrize(("native", "name"), [(True, "bf16"), (False, "fp32")])
def test_a_cpu_gets_bf16_where_it_multiplies_it(native: bool, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llava_finetune.config.precision.cpu_has_bf16", lambda: native)
    assert choose_precision("auto", "cpu").name == name


def test_the_choice_can_be_overridden_and_a_wrong_one_lists_the_names() -> None:
    assert choose_precision("fp32", "cuda") == Precision("fp32", "asked for")
    with pytest.raises(UsageError, match="--precision int8: expected auto, bf16, fp16, fp32"):
        choose_precision("int8", "cpu")


def half(trained: bool = True) -> Any:
    model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 4)).half()
    model[0].requires_grad_(False)
    model[1].requires_grad_(trained)
    return model


def test_fp16_keeps_trainables_in_fp32_and_the_base_in_fp16() -> None:
    model = half()
    settle_dtypes(model, building("fp16"))
    assert model[0].weight.dtype == torch.float16
    assert model[1].weight.dtype == model[1].bias.dtype == torch.float32


def test_the_loss_scaler_takes_what_fp16_trains() -> None:
    """Upstream's fp16 trainables are refused by the scaler ("Attempting to unscale FP16 gradients", #1684)."""
    for settle, refused in ((False, True), (True, False)):
        model = half()
        if settle:
            settle_dtypes(model, building("fp16"))
        scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
        optimizer = torch.optim.SGD(model[1].parameters(), lr=0.1)
        before = model[1].weight.detach().clone()
        with torch.autocast("cpu", torch.float16):
            loss = model(torch.ones(2, 4, dtype=torch.float16)).float().sum()
        scaler.scale(loss).backward()
        if refused:
            with pytest.raises(ValueError, match="Attempting to unscale FP16 gradients"):
                scaler.step(optimizer)
            continue
        scaler.step(optimizer)
        assert not torch.equal(before, model[1].weight)


def test_deepspeed_gets_one_dtype() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(4, 4).bfloat16(), torch.nn.Linear(4, 4))
    settle_dtypes(model, building("bf16", deepspeed=True))
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}


def test_the_tower_has_its_own_learning_rate() -> None:
    model = torch.nn.ModuleDict({"vision_tower": torch.nn.Linear(2, 2), "layers": torch.nn.Linear(2, 2)})
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.1)
    use_learning_rate(optimizer, model, "vision tower", 1e-6)
    rates = {id(p): (group["lr"], group["weight_decay"]) for group in optimizer.param_groups for p in group["params"]}
    assert rates[id(model["vision_tower"].weight)] == (1e-6, 0.1)
    assert rates[id(model["layers"].weight)] == (1e-3, 0.1)
    assert len(rates) == 4


@pytest.mark.parametrize(("selected", "last"), [(-2, 3), (-1, 4), ([-1, 2], 4), ([1, -3], 2), ([2], 2)])
def test_of_several_selected_layers_the_last_decides_what_takes_part(selected: Any, last: int) -> None:
    taken = [n for n in range(4) if in_use(f"vision_model.encoder.layers.{n}.mlp.fc1", 4, selected)]
    assert taken == list(range(last))
