"""Chunks of taught tokens give the loss and the gradients of all at once, and never keep more logits than a chunk's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn import functional

from llava_finetune.kernels.head_loss import token_losses
from llava_finetune.kernels.unpadded_attention import unpad_attention
from llava_finetune.model.modeling import ForwardSettings

VOCABULARY = 53


class Head(torch.nn.Linear):
    """A head that remembers how many tokens it was given at a time."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        super().__init__(16, VOCABULARY, bias=False)
        self.seen: list[int] = []

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        self.seen.append(len(input))
        return super().forward(input)


@pytest.mark.parametrize("chunk", [0, 1, 4, 10, 11, 12, 1024])
def test_losses_and_gradients_do_not_depend_on_the_chunk(chunk: int) -> None:
    head = Head()
    hidden = torch.randn(11, 16, requires_grad=True)
    targets = torch.randint(0, VOCABULARY, (11,))
    functional.cross_entropy(head(hidden), targets).backward()
    wanted = [hidden.grad.clone(), head.weight.grad.clone()]  # type: ignore[union-attr]
    hidden.grad = head.weight.grad = None
    losses = token_losses(hidden, targets, head, chunk)
    losses.mean().backward()
    torch.testing.assert_close(losses, functional.cross_entropy(head(hidden), targets, reduction="none"))
    for got, expected in zip([hidden.grad, head.weight.grad], wanted, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(("chunk", "kept"), [(0, 11), (4, 0)])
def test_no_logits_are_kept_for_the_backward_beyond_a_chunks(chunk: int, kept: int) -> None:
    head, widest = Head(), [0]

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.shape[1:] == (VOCABULARY,) and tensor.data_ptr() != head.weight.data_ptr():
            widest[0] = max(widest[0], len(tensor))
        return tensor

    hidden = torch.randn(11, 16, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        losses = token_losses(hidden, torch.zeros(11, dtype=torch.int64), head, chunk)
    assert widest == [kept]
    losses.sum().backward()
    assert max(head.seen) == (chunk or 11)


def test_under_zero_3_the_head_is_called_once_by_every_rank() -> None:
    head = Head()
    head.weight.ds_id = 1  # type: ignore[attr-defined]  # how DeepSpeed marks what it has partitioned
    token_losses(torch.randn(11, 16), torch.zeros(11, dtype=torch.int64), head, 4)
    assert head.seen == [11]


@pytest.mark.parametrize("unpadded", [True, False])
def test_a_model_in_chunks_has_the_gradients_of_one_without(
    make_model: Callable[..., Any], records: list[dict[str, Any]], unpadded: bool
) -> None:
    made = make_model()
    if unpadded:
        unpad_attention(made.model.config)
    batch = made.batch(records, unpadded=unpadded)
    found = []
    for chunk in (0, 3):
        made.model.go_forward_by(ForwardSettings(loss_chunk=chunk))
        made.model.zero_grad()
        loss = made.model(**batch).loss
        loss.backward()
        found.append((loss.detach(), [p.grad.clone() for p in made.model.parameters() if p.grad is not None]))
    torch.testing.assert_close(found[1][0], found[0][0], rtol=1e-6, atol=0)
    for got, wanted in zip(found[1][1], found[0][1], strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-7)
