"""The model's own parts of a loss: the newline that a batch of text does not use, and what the result holds beside."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from llava_finetune.kernels.unpadded_attention import unpad_attention


@pytest.mark.parametrize("unpadded", [True, False])
def test_a_newline_that_no_picture_needs_adds_nothing_to_the_loss_and_has_a_gradient_of_zeros(
    make_model: Callable[..., Any], records: list[dict[str, Any]], unpadded: bool
) -> None:
    model = (made := make_model("1.6-vicuna")).model
    if unpadded:
        unpad_attention(model.config)
    newline = model.get_model().image_newline
    newline.data.fill_(3.0)
    out = model.eval()(**made.batch([record for record in records if "image" not in record], unpadded=unpadded))
    sums, counts = out["row_losses"].sum(0)
    assert out.loss.item() == pytest.approx((sums / counts).item(), rel=1e-6)
    out.loss.backward()
    assert newline.grad is not None and not newline.grad.any()


def test_losses_and_hidden_states_of_tokens_are_kept_where_they_are_wanted_alone(
    make_model: Callable[..., Any], records: list[dict[str, Any]]
) -> None:
    from llava_finetune.model.modeling import ForwardSettings

    model = (made := make_model()).model
    batch = made.batch(records[:2], unpadded=False)
    assert not {"token_losses", "hidden"} & set(model(**batch))
    model.go_forward_by(ForwardSettings(keep_tokens=True))
    out = model(**batch)
    assert len(out["token_losses"]) == len(out["hidden"]) > 0
    assert out["token_losses"].mean().item() == pytest.approx(out.loss.item())
