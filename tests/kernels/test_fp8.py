"""A frozen base in e4m3: how exact its products are, what is refused, and that a model learns over it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional

from llava_finetune.config.arguments import parse
from llava_finetune.errors import UsageError
from llava_finetune.kernels import fp8
from llava_finetune.kernels.fast_lora import FastLoraLinear, speed_up
from llava_finetune.model.adapters import Lora, add_adapters


def apart(got: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((got - wanted).norm() / wanted.norm())


@pytest.fixture(scope="module")
def numbers() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Inputs with outlier channels as language models have them, a weight, and a gradient."""
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(96, 512, generator=draw)
    x[:, torch.randperm(512, generator=draw)[:4]] *= 30
    return x, torch.randn(384, 512, generator=draw) / 20, torch.randn(96, 384, generator=draw)


def test_products_are_as_exact_as_e4m3_and_twelve_times_less_than_bf16(numbers: Any) -> None:
    x, weight, grad = numbers
    kept, scales = fp8.packed(weight)
    forward = apart(fp8.product(x, kept, scales, None), x @ weight.T)
    backward = apart(fp8.input_gradient(grad, kept, scales), grad @ weight)
    bf16 = apart((x.bfloat16() @ weight.bfloat16().T).float(), x @ weight.T)
    assert 0.01 < forward < 0.05 and 0.01 < backward < 0.05, "3.6e-2 at 4096 x 4096"
    assert 1e-3 < bf16 < 5e-3


def test_a_layer_gives_its_products_and_no_gradient_to_its_weight(numbers: Any) -> None:
    x, weight, grad = numbers
    plain = torch.nn.Linear(512, 384)
    plain.weight.data.copy_(weight)
    plain.requires_grad_(False)
    layer = fp8.Fp8Linear(plain, "cpu")
    assert layer.weight.dtype == torch.uint8 and layer.weight.numel() == weight.numel()
    given = x.clone().requires_grad_()
    out = layer(given[None])
    out.backward(grad[None])
    assert out.shape == (1, 96, 384) and given.grad is not None
    assert apart(out[0], functional.linear(x, weight, plain.bias)) < 0.05
    assert apart(given.grad, grad @ weight) < 0.05
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16


def test_a_cast_of_the_whole_model_leaves_the_weights_as_they_are(numbers: Any) -> None:
    """DeepSpeed's engine casts every floating point tensor of a module."""
    x, weight, _ = numbers
    plain = torch.nn.Linear(512, 384, bias=False).requires_grad_(False)
    plain.weight.data.copy_(weight)
    layer = fp8.Fp8Linear(plain, "cpu")
    before = layer(x)
    assert torch.equal(layer.bfloat16()(x), before)


def test_rows_of_zeros_and_huge_numbers_stay_finite() -> None:
    rows = torch.tensor([[0.0] * 16, [3e38] * 16, [1e-30] * 16])
    inside, scales = fp8.rounded(rows)
    assert torch.isfinite(inside.float()).all() and torch.isfinite(scales).all()
    assert apart(inside[1].float() * scales[1], rows[1]) < 1e-6


def test_fast_lora_over_fp8_gives_pefts_outputs_and_gradients(make_model: Any) -> None:
    made = make_model("llava-1.5", "eager")
    model = add_adapters(made.model, Lora(8, 16, 0.0))
    count = fp8.to_fp8(model)
    assert count == 7 * model.config.num_hidden_layers
    layer = model.get_model().layers[0].mlp.down_proj
    torch.nn.init.normal_(layer.lora_B["default"].weight)
    x = torch.randn(3, 5, layer.in_features)
    found = []
    for fast in (False, True):
        if fast:
            assert speed_up(model) == count and type(layer) is FastLoraLinear
        model.zero_grad()
        given = x.clone().requires_grad_()
        out = layer(given)
        out.square().sum().backward()
        grads = (layer.lora_A["default"].weight.grad, layer.lora_B["default"].weight.grad, given.grad)
        found.append((out.detach(), *(grad.clone() for grad in grads)))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ("--base_dtype fp4 --lora_enable True", "--base_dtype fp4: expected auto .* or fp8"),
        ("--base_dtype fp8", "without --lora_enable True: weights in e4m3 cannot be trained"),
        ("--base_dtype fp8 --lora_enable True --bits 4", "contradicts --bits 4"),
        ("--base_dtype fp8 --lora_enable True --use_dora True", "contradicts --use_dora True"),
        ("--base_dtype fp8 --lora_enable True --precision fp16", "contradicts fp16"),
    ],
)
def test_what_a_base_in_e4m3_cannot_do_is_refused(flags: str, said: str, tmp_path: Path) -> None:
    given = ["--model_name_or_path", "base", "--data_path", "r.json", "--output_dir", str(tmp_path)]
    with pytest.raises(UsageError, match=said):
        parse([*given, *flags.split()])


@pytest.mark.parametrize(("capability", "fits"), [((8, 0), False), ((7, 5), False), ((8, 9), True), ((9, 0), True)])
def test_a_card_without_such_units_is_refused_by_its_name(
    capability: tuple[int, int], fits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: "NVIDIA A100")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: capability)
    if fits:
        fp8.require_hardware()
        return
    with pytest.raises(UsageError, match=r"NVIDIA A100 has compute capability .* need 8.9 \(Ada\) or 9.0 \(Hopper\)"):
        fp8.require_hardware()
