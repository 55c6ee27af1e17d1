"""The fast LoRA layer gives peft's numbers, forward and backward, and leaves peft what it does not cover."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.lora import Linear
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from llava_finetune.kernels import fast_lora
from llava_finetune.kernels.fast_lora import FastLoraLinear, keep_mask, masked, speed_up


class Two(torch.nn.Module):
    """A layer with bias after one without."""

    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.Linear(24, 40, bias=False)
        self.second = torch.nn.Linear(40, 16)

    def forward(self, x: torch.Tensor) -> Any:
        return self.second(torch.tanh(self.first(x)))


def adapted(**settings: Any) -> Any:
    torch.manual_seed(0)
    config = LoraConfig(r=8, lora_alpha=12, target_modules=["first", "second"], **settings)
    model = get_peft_model(Two(), config)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    return model


def gradients(model: Any, x: torch.Tensor, autocast: bool = False) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    x = x.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        out = model(x)
    out.float().square().mean().backward()
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert x.grad is not None
    return out.detach(), {**found, "input": x.grad}


@pytest.mark.parametrize("shape", [(5, 24), (2, 3, 24)])
def test_output_and_every_gradient_equal_pefts(shape: tuple[int, ...]) -> None:
    slow = adapted()
    fast = copy.deepcopy(slow)
    assert speed_up(fast) == 2
    x = torch.randn(shape)
    (out, grads), (fast_out, fast_grads) = gradients(slow, x), gradients(fast, x)
    torch.testing.assert_close(fast_out, out, rtol=1e-5, atol=1e-6)
    assert fast_grads.keys() == grads.keys() and len(grads) == 5
    for name, grad in grads.items():
        torch.testing.assert_close(fast_grads[name], grad, rtol=1e-4, atol=1e-6)


def test_under_autocast_adapters_stay_fp32_and_equal_pefts_within_bf16_noise() -> None:
    slow = adapted()
    fast = copy.deepcopy(slow)
    speed_up(fast)
    x = torch.randn(64, 24)
    (out, grads), (fast_out, fast_grads) = gradients(slow, x, True), gradients(fast, x, True)
    assert fast_out.dtype == out.dtype == torch.bfloat16
    torch.testing.assert_close(fast_out.float(), out.float(), rtol=0.03, atol=0.05)
    for name, grad in grads.items():
        assert fast_grads[name].dtype == grad.dtype == torch.float32
        assert (fast_grads[name] - grad).norm() < 0.02 * grad.norm()


@pytest.mark.parametrize("settings", [{"use_dora": True}, {"lora_bias": True}])
def test_what_is_not_plain_lora_runs_pefts_forward(settings: dict[str, bool], monkeypatch: pytest.MonkeyPatch) -> None:
    slow = adapted(**settings)
    fast = copy.deepcopy(slow)
    speed_up(fast)
    called: list[int] = []
    original = Linear.forward
    monkeypatch.setattr(Linear, "forward", lambda self, x: called.append(1) or original(self, x))
    x = torch.randn(3, 24)
    assert torch.equal(fast(x), slow(x))
    assert len(called) == 4


def test_a_disabled_or_merged_adapter_is_pefts_affair() -> None:
    model = adapted()
    speed_up(model)
    x = torch.randn(3, 24)
    with_adapter = model(x)
    with model.disable_adapter():
        assert not torch.allclose(model(x), with_adapter)
    model.merge_adapter()
    torch.testing.assert_close(model(x), with_adapter, rtol=1e-4, atol=1e-5)


def test_the_saved_adapter_has_the_same_names_and_values() -> None:
    from peft import get_peft_model_state_dict

    slow = adapted()
    fast = copy.deepcopy(slow)
    speed_up(fast)
    before, after = get_peft_model_state_dict(slow), get_peft_model_state_dict(fast)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert isinstance(fast.base_model.model.first, FastLoraLinear)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("probability", [0.05, 0.5])
def test_dropout_keeps_the_asked_share_and_the_mean(dtype: torch.dtype, probability: float) -> None:
    torch.manual_seed(0)
    x = torch.randn(3001, 131).to(dtype) + 3
    mask, factor = keep_mask(x, probability)
    out = masked(x, mask)
    kept = out != 0
    assert torch.equal(out[kept], x[kept])
    assert abs(kept.double().mean().item() - (1 - probability)) < 0.003
    assert abs((out.double() * factor).mean().item() / x.double().mean().item() - 1) < 0.005
    assert not torch.equal(masked(x, keep_mask(x, probability)[0]), out)
    assert abs(kept.double().mean(0) - (1 - probability)).max() < 0.06


@pytest.fixture(params=["integers", "kernel"])
def mask_kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Masks as a CPU draws them, and as a GPU does, in one kernel that a CPU has too."""
    monkeypatch.setattr(fast_lora, "draws_in_a_kernel", lambda x: request.param == "kernel")
    return str(request.param)


@pytest.mark.parametrize("probability", [0.05, 0.5])
def test_a_gpus_dropout_keeps_share_and_mean_and_a_byte_an_element(
    probability: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fast_lora, "draws_in_a_kernel", lambda x: True)
    torch.manual_seed(0)
    x = torch.randn(3001, 131) + 3
    kept, mask, factor = fast_lora.dropped(x, probability)
    assert mask is not None and mask.element_size() == 1 and factor == 1
    assert abs(mask.double().mean().item() - (1 - probability)) < 0.003
    assert abs(kept.double().mean().item() / x.double().mean().item() - 1) < 0.005
    torch.testing.assert_close(fast_lora.dropped_again(x, mask, probability), kept)


def test_a_checkpoint_computes_neither_wide_product_again() -> None:
    """Run again, a layer whose result nobody keeps stops at its r-wide product."""
    layer = adapted().base_model.model.first
    layer.__class__ = FastLoraLinear
    with FlopCounterMode(display=False) as without:
        layer(torch.randn(6, 24, requires_grad=True)).sum().backward()
    with FlopCounterMode(display=False) as checkpointed:
        checkpoint(layer, torch.randn(6, 24, requires_grad=True), use_reentrant=False).sum().backward()
    assert checkpointed.get_total_flops() - without.get_total_flops() == 2 * 6 * 24 * 8


def test_gradients_follow_the_mask_of_their_forward(mask_kind: str) -> None:
    """With the dropped inputs fixed by the seed, the function is linear in B: its gradient must equal a difference."""
    model = adapted(lora_dropout=0.3).double()
    speed_up(model)
    model.train()
    x = torch.randn(6, 24, dtype=torch.float64)
    weight = model.base_model.model.first.lora_A["default"].weight

    def loss() -> torch.Tensor:
        torch.manual_seed(7)
        return model(x).square().sum()

    loss().backward()
    step = torch.zeros_like(weight)
    step[2, 3] = 1e-5
    with torch.no_grad():
        weight += step
        up = loss()
        weight -= 2 * step
        difference = (up - loss()) / 2e-5
    torch.testing.assert_close(weight.grad[2, 3], difference, rtol=1e-5, atol=1e-7)
