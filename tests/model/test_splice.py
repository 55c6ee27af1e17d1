"""Batches laid out without padding give upstream's loss and gradients, whatever the family, mix and length."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from data_prep.records.marks import IGNORE_INDEX
from llava_finetune.data.example import Example
from llava_finetune.data.layout import Pictures, lay_out
from llava_finetune.errors import UserError
from llava_finetune.kernels.unpadded_attention import can_unpad, unpad_attention
from llava_finetune.model.modeling import model_class
from tests.tiny import FAMILIES

Made = Callable[..., Any]
Records = list[dict[str, Any]]


def loss_and_gradients(model: Any, batch: dict[str, Any]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    model.zero_grad()
    loss = model(**batch).loss
    loss.backward()
    grads = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return loss.detach(), grads


@pytest.mark.parametrize("family", sorted(FAMILIES))
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_loss_and_every_gradient_equal_upstreams_splice(
    make_model: Made, records: Records, family: str, attention: str
) -> None:
    made = make_model(family, attention)
    loss, grads = loss_and_gradients(made.model, made.batch(records, unpadded=False))
    unpad_attention(made.model.config)
    fast_loss, fast_grads = loss_and_gradients(made.model, made.batch(records, unpadded=True))
    torch.testing.assert_close(fast_loss, loss, rtol=1e-5, atol=0)
    assert fast_grads.keys() == grads.keys()
    assert any("mm_projector" in name and grad.any() for name, grad in grads.items())
    for name, grad in grads.items():
        torch.testing.assert_close(fast_grads[name], grad, rtol=1e-3, atol=1e-6)


def asked_alone(records: Records) -> Records:
    """A record for every question, each with its record's pictures."""
    out = []
    for record in records:
        turns = record["conversations"]
        pictures = turns[0]["value"].count("<image>") * "<image>\n"
        for human, gpt in zip(turns[::2], turns[1::2], strict=True):
            bare = human["value"].replace("<image>", "").strip()
            out.append({**record, "conversations": [{**human, "value": pictures + bare}, gpt]})
    return out


@pytest.mark.parametrize("family", sorted(FAMILIES))
@pytest.mark.parametrize(("attention", "unpadded"), [("eager", True), ("sdpa", True), ("sdpa", False)])
def test_independent_turns_teach_what_their_questions_teach_in_records_of_their_own(
    make_model: Made, records: Records, family: str, attention: str, unpadded: bool
) -> None:
    made = make_model(family, attention)
    merged = [{**record, "independent_turns": True} for record in records]
    separate = asked_alone(records)
    assert len(separate) == len(merged) + 5
    loss, grads = loss_and_gradients(made.model, made.batch(separate, unpadded=False))
    dependent = made.model(**made.batch(records, unpadded=False)).loss
    assert abs(dependent - loss) > 1e-5, "one conversation is another loss; if not, this test shows nothing"
    if unpadded:
        unpad_attention(made.model.config)
    batch = made.batch(merged, unpadded=unpadded)
    if unpadded:
        assert sum(batch["layout"].lengths) < made.batch(separate, unpadded=True)["layout"].rows.numel()
    branched_loss, branched_grads = loss_and_gradients(made.model, batch)
    torch.testing.assert_close(branched_loss, loss, rtol=1e-5, atol=0)
    assert branched_grads.keys() == grads.keys()
    for name, grad in grads.items():
        torch.testing.assert_close(branched_grads[name], grad, rtol=1e-3, atol=1e-6)


def test_each_path_of_independent_turns_is_cut_where_its_own_record_would_be(
    make_model: Made, records: Records
) -> None:
    made = make_model()
    merged = [{**record, "independent_turns": True} for record in records]
    counts = set()
    for max_length in (60, 70, 80, None):
        layouts = [made.batch(items, True, max_length)["layout"] for items in (merged, asked_alone(records))]
        assert layouts[0].targets.tolist() == layouts[1].targets.tolist()
        counts.add(len(layouts[0].targets))
    assert len(counts) > 2, "the lengths cut nothing; this test shows nothing"


@pytest.mark.parametrize("max_length", [60, 150])
def test_long_records_are_cut_where_upstream_cuts_them(make_model: Made, records: Records, max_length: int) -> None:
    made = make_model()
    made.model.config.tokenizer_model_max_length = max_length
    items = [record for record in records if record["id"] in ("text", "pair", "q-4")]
    taught = made.batch(items, unpadded=True, max_length=max_length)["layout"]
    plain = made.batch(items, unpadded=False)
    out = made.model.prepare_inputs_labels_for_multimodal(
        plain["input_ids"], None, plain["attention_mask"], None, plain["labels"], plain["images"], plain["image_sizes"]
    )
    labels = out[5]
    assert taught.lengths == out[2].sum(1).tolist()
    assert taught.targets.tolist() == labels[:, 1:][labels[:, 1:] != IGNORE_INDEX].tolist()


def test_a_batch_of_text_alone_still_runs_the_tower_and_the_projector(make_model: Made, records: Records) -> None:
    made = make_model()
    text = [record for record in records if "image" not in record]
    loss, _ = loss_and_gradients(made.model, made.batch(text, unpadded=False))
    unpad_attention(made.model.config)
    fast_loss, grads = loss_and_gradients(made.model, made.batch(text, unpadded=True))
    torch.testing.assert_close(fast_loss, loss, rtol=1e-5, atol=0)
    assert [name for name in grads if "mm_projector" in name]


def test_a_picture_that_several_records_share_is_encoded_once(make_model: Made, records: Records) -> None:
    made = make_model()
    batch = made.batch(records, unpadded=True)
    assert len(batch["images"]) == 4  # eight uses in seven records, text alone adds none
    assert len(made.batch(records, unpadded=False)["images"]) == 8


def test_checkpointed_layers_give_the_same_gradients(make_model: Made, records: Records) -> None:
    made = make_model()
    unpad_attention(made.model.config)
    batch = made.batch(records, unpadded=True)
    made.model.train()
    _, grads = loss_and_gradients(made.model, batch)
    made.model.enable_input_require_grads()
    made.model.gradient_checkpointing_enable({"use_reentrant": False})
    _, again = loss_and_gradients(made.model, batch)
    for name, grad in grads.items():
        torch.testing.assert_close(again[name], grad, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_padded_batches_and_generation_go_on_as_before(make_model: Made, records: Records, attention: str) -> None:
    made = make_model("llava-1.5", attention)
    batch = made.batch(records[:3], unpadded=False)
    prompt = {key: batch[key] for key in ("input_ids", "attention_mask")}
    options = {"images": batch["images"], "max_new_tokens": 3, "do_sample": False}
    loss = made.model(**batch).loss
    answer = made.model.generate(prompt["input_ids"], attention_mask=prompt["attention_mask"], **options)
    unpad_attention(made.model.config)
    assert torch.equal(made.model(**batch).loss, loss)
    again = made.model.generate(prompt["input_ids"], attention_mask=prompt["attention_mask"], **options)
    assert torch.equal(again, answer)


def test_features_that_do_not_match_the_layout_are_refused(make_model: Made, records: Records) -> None:
    made = make_model()
    batch = made.batch(records[:2], unpadded=True)
    batch["layout"] = replace(batch["layout"], num_features=batch["layout"].num_features + 1)
    with pytest.raises(UserError, match=r"gave 32 features where 33 were laid out.*--unpadded False"):
        made.model(**batch)


@pytest.mark.parametrize(("name", "value"), [("sliding_window", 64), ("attention_dropout", 0.1)])
def test_windows_and_attention_dropout_keep_padded_batches(make_model: Made, name: str, value: float) -> None:
    config = make_model("1.6-mistral").model.config
    assert can_unpad(config)
    setattr(config, name, value)
    assert not can_unpad(config)


def test_a_token_that_stands_second_is_taught_from_the_first() -> None:
    ids = torch.tensor([5, 6, 7])
    example = Example("a", ids, torch.tensor([5, 6, IGNORE_INDEX]), 3)
    layout = lay_out([example, example], Pictures([], [], [], [], [[], []]))
    assert (layout.taught.tolist(), layout.targets.tolist()) == ([0, 3], [6, 6])


@pytest.mark.parametrize("unpadded", [True, False])
def test_losses_of_each_row_are_told_in_evaluation_alone(make_model: Made, records: Records, unpadded: bool) -> None:
    made = make_model()
    if unpadded:
        unpad_attention(made.model.config)
    batch = made.batch(records, unpadded=unpadded)
    made.model.train()
    trained = made.model(**batch)
    assert "row_losses" not in trained
    made.model.eval()
    out = made.model(**batch)
    assert out["row_losses"].shape == (len(records), 2)
    sums, counts = out["row_losses"].sum(0)
    torch.testing.assert_close(sums / counts, out.loss)
    torch.testing.assert_close(out.loss, trained.loss)
    alone = made.model(**made.batch(records[2:3], unpadded=unpadded))
    torch.testing.assert_close(out["row_losses"][2], alone["row_losses"][0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("tuned", [True, False])
def test_a_tower_that_was_not_tuned_is_not_looked_for_in_the_checkpoint(make_model: Made, tuned: bool) -> None:
    model = make_model().model
    config = type(model.config)(**{**model.config.to_dict(), "unfreeze_mm_vision_tower": tuned})
    with torch.device("meta"):
        again = model_class("llava_llama")(config)
    assert (r"model\.vision_tower\." in again._keys_to_ignore_on_load_unexpected) is not tuned


def test_an_unknown_family_is_named_with_those_that_are_known() -> None:
    with pytest.raises(UserError, match='unknown model family "gpt2"; known: llama, llava, llava_llama, llava_mistral'):
        model_class("gpt2")
