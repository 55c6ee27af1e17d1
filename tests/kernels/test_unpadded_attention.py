"""The variable-length kernels are called as they want to be: checked by stand-ins that compute on the CPU."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn import functional
from torch.nn.attention import varlen

from llava_finetune.kernels import unpadded_attention
from llava_finetune.kernels.unpadded_attention import Samples, can_unpad, unpad_attention

Made = Callable[..., Any]
Records = list[dict[str, Any]]


def by_bounds(query: Any, key: Any, value: Any, asking: Any, seen: Any, scale: float) -> torch.Tensor:
    """Causal attention of each span, as FlashAttention's: the last query sees the last key.

    query: T x heads x D, key and value: S x groups x D; asking and seen: their bounds.
    """
    out = []
    for start, end, first, last in zip(asking[:-1], asking[1:], seen[:-1], seen[1:], strict=True):
        parts = [query[start:end], key[first:last], value[first:last]]
        number, all_seen = int(end - start), int(last - first)
        mask = torch.tensor([[j <= i + all_seen - number for j in range(all_seen)] for i in range(number)])
        how = {"attn_mask": mask, "scale": scale, "enable_gqa": True}
        turned = (part.transpose(0, 1)[None] for part in parts)
        out.append(functional.scaled_dot_product_attention(*turned, **how)[0].transpose(0, 1))
    return torch.cat(out)


def loss_and_gradients(model: Any, batch: dict[str, Any]) -> tuple[torch.Tensor, list[torch.Tensor]]:
    model.zero_grad()
    loss = model(**batch).loss
    loss.backward()
    return loss.detach(), [p.grad.clone() for p in model.parameters() if p.grad is not None]


def require_equal(got: Any, wanted: Any) -> None:
    torch.testing.assert_close(got[0], wanted[0], rtol=1e-5, atol=0)
    for one, other in zip(got[1], wanted[1], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("family", ["llava-1.5", "1.6-mistral"])
def test_torchs_kernel_takes_all_samples_in_one_call(
    make_model: Made, records: Records, family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = make_model(family, "sdpa")
    wanted = loss_and_gradients(made.model, made.batch(records, unpadded=False))
    real = inspect.signature(varlen.varlen_attn)
    calls: list[Any] = []

    def kernel(*arguments: Any, **keywords: Any) -> torch.Tensor:
        given = real.bind(*arguments, **keywords)
        given.apply_defaults()
        values = given.arguments
        calls.append(values)
        return by_bounds(
            values["query"], values["key"], values["value"], values["cu_seq_q"], values["cu_seq_k"], values["scale"]
        )

    monkeypatch.setattr(varlen, "varlen_attn", kernel)
    monkeypatch.setattr(unpadded_attention, "_has_varlen", lambda device, dtype: True)
    unpad_attention(made.model.config)
    batch = made.batch(records, unpadded=True)
    require_equal(loss_and_gradients(made.model, batch), wanted)
    lengths = batch["layout"].lengths
    assert len(calls) == made.model.config.num_hidden_layers
    assert calls[0]["cu_seq_q"].dtype == torch.int32 and calls[0]["cu_seq_q"].diff().tolist() == lengths
    assert calls[0]["max_q"] == calls[0]["max_k"] == max(lengths)
    assert calls[0]["window_size"] == (-1, 0), "nothing to the right: torch reads it as causal"
    assert calls[0]["enable_gqa"] == (family == "1.6-mistral")


def test_torchs_kernel_accepts_these_tensors_forward_and_backward() -> None:
    """On the meta device, where torch checks shapes and types and computes nothing."""
    query = torch.randn(1, 4, 12, 16, dtype=torch.bfloat16, device="meta", requires_grad=True)
    key, value = (torch.randn(1, 2, 12, 16, dtype=torch.bfloat16, device="meta", requires_grad=True) for _ in range(2))
    bounds = torch.zeros(4, dtype=torch.int32, device="meta")
    samples = Samples([[5], [3, 4]], bounds, bounds)
    out = unpadded_attention._varied("sdpa", query, key, value, 0.25, samples)
    assert out.shape == (1, 12, 4, 16)
    out.sum().backward()
    assert query.grad is not None and query.grad.shape == query.shape


@pytest.fixture
def flash(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """flash-attn's functions by stand-ins with its signature; transformers' own code stands between. Its calls."""
    from transformers import modeling_flash_attention_utils as utils

    calls: list[Any] = []

    def kernel(
        q: Any, k: Any, v: Any, cu_seqlens_q: Any, cu_seqlens_k: Any, max_seqlen_q: Any, max_seqlen_k: Any,
        dropout_p: float = 0.0, softmax_scale: Any = None, causal: bool = False, window_size: Any = (-1, -1),
        deterministic: bool = False,
    ) -> torch.Tensor:  # fmt: skip
        assert causal and window_size == (-1, -1) and not dropout_p
        calls.append((cu_seqlens_q.tolist(), cu_seqlens_k.tolist(), int(max_seqlen_q), int(max_seqlen_k)))
        return by_bounds(q, k, v, cu_seqlens_q, cu_seqlens_k, softmax_scale)

    functions = (None, kernel, None, utils._pad_input, utils._unpad_input)
    process = (utils._lazy_define_process_function(kernel), None)
    monkeypatch.setattr(utils, "lazy_import_flash_attention", lambda *_, **__: (functions, process))
    return calls


@pytest.mark.parametrize("unpadded", [True, False])
def test_flash_attention_takes_batches_with_padding_and_without(
    make_model: Made, records: Records, flash: list[Any], unpadded: bool
) -> None:
    made = make_model("1.6-mistral", "sdpa")
    wanted = loss_and_gradients(made.model, made.batch(records, unpadded=False))
    config = made.model.config
    config._attn_implementation = "flash_attention_2"
    assert can_unpad(config)
    unpad_attention(config)
    assert config._attn_implementation == "flash_attention_2", "transformers finds the kernels by this name"
    batch = made.batch(records, unpadded=unpadded)
    require_equal(loss_and_gradients(made.model, batch), wanted)
    assert len(flash) == config.num_hidden_layers
    if unpadded:
        layout = batch["layout"]
        bounds = layout.query_bounds.tolist()
        assert flash[0] == (bounds, bounds, *[max(layout.lengths)] * 2)


def test_branches_are_spans_of_one_call(make_model: Made, records: Records, flash: list[Any]) -> None:
    made = make_model("1.6-mistral", "sdpa")
    merged = [{**record, "independent_turns": True} for record in records]
    wanted = loss_and_gradients(made.model, made.batch(merged, unpadded=False))
    made.model.config._attn_implementation = "flash_attention_2"
    unpad_attention(made.model.config)
    batch = made.batch(merged, unpadded=True)
    require_equal(loss_and_gradients(made.model, batch), wanted)
    assert len(flash) == made.model.config.num_hidden_layers
    asking, seen, *_ = flash[0]
    assert asking[-1] == sum(batch["layout"].lengths) < seen[-1], "a branch's keys are its beginning's and its own"
