"""Compiled layers and Liger's kernels: the same losses and files, and a reason where they cannot be had."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

from llava_finetune.config.arguments import for_the_loop, parse
from llava_finetune.errors import UsageError
from llava_finetune.kernels.fast_lora import speed_up
from llava_finetune.kernels.layer_kernels import LayerKernels, compile_layers, use_liger
from llava_finetune.kernels.unpadded_attention import unpad_attention

Made = Callable[..., Any]
Records = list[dict[str, Any]]
BASE = ["--model_name_or_path", "base", "--data_path", "r.json", "--output_dir", "out", "--precision", "fp32"]


def adapted(made: Any, dropout: float = 0.0) -> Any:
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    config = LoraConfig(r=4, target_modules=r"model\.layers\..*(q|v|down)_proj", lora_dropout=dropout)
    model = get_peft_model(made.model, config)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
        if "mm_projector" in name:  # as in a run: with it the first layer's input asks for gradients as the others' do
            parameter.requires_grad = True
    return model.train()


def loss_and_gradients(model: Any, batch: dict[str, Any]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    model.zero_grad()
    torch.manual_seed(0)
    loss = model(**batch).loss
    loss.backward()
    return loss.detach(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.slow
@pytest.mark.parametrize(("family", "unpadded"), [("llava-1.5", True), ("1.6-mistral", False)])
def test_compiled_layers_give_the_same_gradients_and_are_compiled_once_for_all_lengths(
    make_model: Made, records: Records, family: str, unpadded: bool
) -> None:
    made = make_model(family, "sdpa")
    model = adapted(made)
    if unpadded:
        unpad_attention(made.model.config)
        assert speed_up(model) == 6
    batches = [made.batch(part, unpadded=unpadded) for part in (records[:3], records[3:6], records[1:5])]
    wanted = [loss_and_gradients(model, batch) for batch in batches]
    names = list(model.state_dict())
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    compile_layers(model, counter)  # type: ignore[arg-type]
    counts = []
    for batch, (loss, grads) in zip(batches, wanted, strict=True):
        got, found = loss_and_gradients(model, batch)
        torch.testing.assert_close(got, loss, rtol=1e-5, atol=0)
        assert found.keys() == grads.keys()
        for name, grad in grads.items():
            torch.testing.assert_close(found[name], grad, rtol=1e-3, atol=1e-6)
        counts.append(counter.frame_count)
    assert 0 < counts[0] == counts[1] == counts[2]
    assert list(model.state_dict()) == names


def test_transformers_switches_are_taken_over_and_its_trainer_does_nothing_of_its_own() -> None:
    parsed = parse([*BASE, "--torch_compile", "True", "--torch_compile_mode", "max-autotune"])
    assert parsed.kernels == LayerKernels(backend="inductor", mode="max-autotune")
    loop = for_the_loop(parsed.training)
    assert not loop.torch_compile and loop.torch_compile_backend is None
    assert parsed.training.torch_compile, "what was asked stays as it was asked"
    assert parse([*BASE, "--torch_compile_backend", "aot_eager"]).kernels.backend == "aot_eager"
    assert parse(BASE).kernels == LayerKernels()


@pytest.mark.parametrize(
    ("kernels", "bits", "stage", "reason"),
    [
        (LayerKernels(backend="inductor"), 4, 2, "--torch_compile True with --bits 4: .*; leave --bits 4 out"),
        (LayerKernels(backend="inductor"), 16, 3, r"--torch_compile True with ZeRO-3: .*; take ZeRO-2 \(DEEP"),
        (LayerKernels(True, "inductor"), 16, 0, "--torch_compile True contradicts --use_liger_kernel True"),
        (LayerKernels(True), 16, 0, r"Liger is not installed; pip install -e '\.\[gpu\]'"),
    ],
)
def test_what_cannot_be_had_is_refused_with_the_reason(
    kernels: LayerKernels, bits: int, stage: int, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "liger_kernel" else find(name))
    with pytest.raises(UsageError, match=reason):
        kernels.require_usable(bits, stage)


def test_liger_without_a_gpu_is_refused_on_the_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: SimpleNamespace(name=name))
    with pytest.raises(UsageError, match="written in Triton and need a GPU; leave it out"):
        parse([*BASE, "--use_liger_kernel", "True"])


@pytest.mark.parametrize("family", ["llava-1.5", "1.6-mistral"])
def test_liger_gets_the_base_below_the_adapters_and_leaves_the_loss_to_us(
    make_model: Made, family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    called: list[Any] = []
    names = ("apply_liger_kernel_to_llama", "apply_liger_kernel_to_mistral")
    stand_in = SimpleNamespace(
        **{name: lambda name=name, **keywords: called.append((name, keywords)) for name in names}
    )
    monkeypatch.setitem(sys.modules, "liger_kernel", SimpleNamespace(transformers=stand_in))
    made = make_model(family)
    use_liger(adapted(made))
    [(name, keywords)] = called
    assert name == names["mistral" in family]
    assert keywords.pop("model") is made.model
    assert keywords == {"cross_entropy": False, "fused_linear_cross_entropy": False}
