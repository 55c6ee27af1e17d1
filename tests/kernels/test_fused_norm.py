"""RMSNorm in one kernel: the same loss and gradients, on the layers that compute the same, on a GPU alone."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers.models.gemma.modeling_gemma import GemmaRMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from llava_finetune.kernels import fused_norm
from llava_finetune.kernels.fused_norm import fuse_norms
from llava_finetune.kernels.known_norms import NORMS


@pytest.fixture
def anywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel's operator on a CPU too, where torch takes it apart."""
    monkeypatch.setattr(fused_norm, "runs_in_a_kernel", lambda x: True)


def norm(width: int = 64) -> LlamaRMSNorm:
    made = LlamaRMSNorm(width, eps=1e-5)
    torch.nn.init.uniform_(made.weight)
    return made


def out_and_gradients(layer: Any, x: torch.Tensor) -> list[torch.Tensor]:
    asked = [x.clone().requires_grad_(), layer.weight]
    out = layer(asked[0])
    return [out.detach(), *torch.autograd.grad(out.float().square().sum(), asked)]


@pytest.mark.parametrize("family", ["llava-1.5", "1.6-mistral"])
def test_a_models_loss_and_gradients_stay(
    anywhere: None, make_model: Callable[..., Any], records: list[dict[str, Any]], family: str
) -> None:
    made = make_model(family, "eager")
    model, batch = made.model.train(), made.batch(records[:3], unpadded=False)

    def run() -> tuple[torch.Tensor, list[torch.Tensor]]:
        trained = [one for one in model.get_model().layers.parameters() if one.requires_grad]
        loss = model(**batch).loss
        return loss.detach(), list(torch.autograd.grad(loss, trained))

    names = list(model.state_dict())
    loss, gradients = run()
    assert fuse_norms(model) == 2 * len(model.get_model().layers) + 1
    fused_loss, fused = run()
    torch.testing.assert_close(fused_loss, loss, rtol=1e-4, atol=0)
    for got, wanted in zip(fused, gradients, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-3, atol=1e-6)
    assert list(model.state_dict()) == names and fuse_norms(model) == 0, "once is enough"


def test_in_16_bit_it_is_nearer_to_the_exact_numbers(anywhere: None) -> None:
    torch.manual_seed(0)
    exact = norm()
    plain = copy.deepcopy(exact).bfloat16()
    fused = copy.deepcopy(plain)
    assert fuse_norms(fused) == 1
    x = torch.randn(32, 64).bfloat16()
    exact.weight.data = plain.weight.data.float()
    wanted = out_and_gradients(exact, x.float())
    for got, other, right in zip(out_and_gradients(fused, x), out_and_gradients(plain, x), wanted, strict=True):
        assert got.dtype == other.dtype == torch.bfloat16
        off, before = ((one.float() - right).norm() / right.norm() for one in (got, other))
        assert off < 5e-3 and off < 1.05 * before


def test_under_autocast_it_stays_in_16_bit(anywhere: None) -> None:
    layer = norm().bfloat16()
    fuse_norms(layer)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(torch.randn(4, 64).bfloat16()).dtype == torch.bfloat16


def test_other_norms_other_types_and_a_cpu_keep_transformers_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "_fused_rms_norm", lambda *_: pytest.fail("the kernel was called"))
    both = torch.nn.ModuleList([norm(), GemmaRMSNorm(64)])
    assert fuse_norms(both) == 1
    x = torch.randn(4, 64)
    torch.testing.assert_close(both[0](x), LlamaRMSNorm.forward(both[0], x))
    monkeypatch.setattr(fused_norm, "runs_in_a_kernel", lambda x: True)
    assert both[0](x.bfloat16()).dtype == torch.float32, "its weight is fp32"


@pytest.mark.parametrize(("kind", "name"), NORMS.items())
def test_every_listed_norm_is_the_same_formula(anywhere: None, kind: str, name: str) -> None:
    """A transformers that changes one of them is seen here."""
    import importlib

    layer = getattr(importlib.import_module(f"transformers.models.{kind}.modeling_{kind}"), name)(64, eps=1e-5)
    torch.nn.init.uniform_(layer.weight)
    x = torch.randn(4, 64)
    wanted = layer(x)
    fuse_norms(layer)
    torch.testing.assert_close(layer(x), wanted)
