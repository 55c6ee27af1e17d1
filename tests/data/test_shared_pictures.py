"""Records about the same picture in one sequence: each loses, learns and sees what it does alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from llava_finetune.config.arguments import parse
from llava_finetune.data.collator import Collator
from llava_finetune.data.dataset import RecordDataset
from llava_finetune.data.replay import Mixed
from llava_finetune.data.shared_pictures import share_pictures
from llava_finetune.data.unreadable_pictures import WithSubstitutes
from llava_finetune.errors import UsageError
from llava_finetune.evaluation.record_losses import record_losses
from llava_finetune.kernels.unpadded_attention import unpad_attention
from llava_finetune.launching.relaunch import halved
from llava_finetune.planning.picture_batches import most_pictures, order

Made = Callable[..., Any]


def asked(number: int, name: str | list[str], question: str, answer: str) -> dict[str, Any]:
    names = [name] if isinstance(name, str) else name
    turns = [
        {"from": "human", "value": "<image>\n" * len(names) + question},
        {"from": "gpt", "value": answer},
    ]
    return {"id": f"q{number}", "image": name, "conversations": turns}


def about_three_pictures() -> list[dict[str, Any]]:
    """Ten records: one picture four times, one twice, a pair twice, text, several turns, and one turned apart."""
    several = asked(7, "1.png", "what is it?", "a boat")
    several["conversations"] += [{"from": "human", "value": "is it red?"}, {"from": "gpt", "value": "no"}]
    apart = {**several, "id": "q8", "independent_turns": True}
    text = {"id": "q9", "conversations": [{"from": "human", "value": "two?"}, {"from": "gpt", "value": "2"}]}
    return [
        asked(0, "0.png", "how many boats?", "three"),
        asked(1, "2.png", "is it night?", "no"),
        asked(2, "0.png", "how many red boats are there?", "one"),
        asked(3, "0.png", "how", "well"),
        asked(4, ["0.png", "1.png"], "the same?", "no"),
        asked(5, ["0.png", "1.png"], "which is darker?", "the first"),
        asked(6, "0.png", "how many boats?", "four"),
        several,
        apart,
        text,
    ]


def collators(made: Any, max_length: int | None = None) -> tuple[Collator, Collator]:
    """Records apart and together."""
    side = made.model.get_vision_tower().config.image_size
    apart = Collator(made.encoder.tokenizer.pad_token_id, torch.zeros(3, side, side), max_length, unpadded=True)
    return apart, replace(apart, shared=True)


@pytest.mark.parametrize("max_length", [None, 44])
@pytest.mark.parametrize("family", ["llava-1.5", "1.6-mistral"])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_each_records_loss_is_what_it_is_alone(
    make_model: Made, family: str, attention: str, max_length: int | None
) -> None:
    made = make_model(family, attention)
    unpad_attention(made.model.config)
    made.model.eval()
    dataset = RecordDataset(about_three_pictures(), made.encoder)
    with torch.no_grad():
        apart, together = (
            record_losses(lambda batch: made.model(**batch), dataset, range(10), collator, batch_size=10)
            for collator in collators(made, max_length)
        )
    for index in range(10):
        assert together[index].num_tokens == apart[index].num_tokens
        assert together[index].total == pytest.approx(apart[index].total, rel=1e-5)


def test_loss_and_every_gradient_of_a_batch_are_the_same(make_model: Made) -> None:
    made = make_model("llava-1.5", "eager")
    unpad_attention(made.model.config)
    dataset = RecordDataset(about_three_pictures(), made.encoder)
    found = []
    for collator in collators(made):
        batch = collator([dataset[index] for index in range(10)])
        made.model.zero_grad()
        loss = made.model(**{key: batch[key] for key in ("layout", "images", "image_sizes")}).loss
        loss.backward()
        found.append((loss.detach(), [one.grad.clone() for one in made.model.parameters() if one.grad is not None]))
    torch.testing.assert_close(found[1][0], found[0][0], rtol=1e-5, atol=0)
    for one, other in zip(found[1][1], found[0][1], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-6)


def test_a_picture_stands_once_and_a_question_sees_it_and_itself(make_model: Made) -> None:
    made = make_model("llava-1.5", "eager")
    dataset = RecordDataset(about_three_pictures(), made.encoder)
    examples = [dataset[index] for index in range(10)]
    apart, together = (collator(examples)["layout"] for collator in collators(made))
    assert [len(spans) - 1 for spans in together.spans] == [4, 0, 2, 3, 0]
    assert [one.owners for one in share_pictures(examples)] == [(0, 2, 3, 6), (1,), (4, 5), (7, 8, 8), (9,)]
    assert sum(together.lengths) < sum(apart.lengths)
    spans, start = together.spans[0], 0
    places = together.positions[0].tolist()
    assert places[: spans[0]] == list(range(spans[0]))
    for length in spans[1:]:
        start = start or spans[0]
        assert places[start : start + length] == list(range(spans[0], spans[0] + length)), "as if asked alone"
        start += length
    seen = together.key_bounds.diff().tolist()[: len(spans)]
    assert seen == [spans[0], *(spans[0] + length for length in spans[1:])]


def test_what_one_question_says_changes_no_other(make_model: Made) -> None:
    """The mask, by what it does: another first question leaves the losses of the others as they are, to the bit."""
    made = make_model("llava-1.5", "eager")
    unpad_attention(made.model.config)
    made.model.eval()
    collator = collators(made)[1]
    totals = []
    for question in ("how many boats?", "how many cats?"):
        records = [asked(0, "0.png", question, "three"), *about_three_pictures()[2:4]]
        dataset = RecordDataset(records, made.encoder)
        with torch.no_grad():
            found = record_losses(lambda batch: made.model(**batch), dataset, range(3), collator, batch_size=3)
        totals.append([found[index].total for index in range(3)])
    assert totals[0][0] != totals[1][0]
    assert totals[0][1:] == totals[1][1:]


def test_records_that_do_not_begin_alike_stay_apart(make_model: Made) -> None:
    made = make_model("llava-1.5", "eager")
    turns = [{"from": "human", "value": "is <image> like <image>?"}, {"from": "gpt", "value": "no"}]
    records = [{"id": "a", "image": ["0.png", "1.png"], "conversations": turns}, about_three_pictures()[4]]
    dataset = RecordDataset(records, made.encoder)
    assert [one.owners for one in share_pictures([dataset[0], dataset[1]])] == [(0,), (1,)]


def test_a_batch_holds_as_many_records_and_few_pictures() -> None:
    keys = [index // 4 for index in range(64)] + [None] * 3
    found = order(keys, 8, seed=1, epoch=0)
    assert sorted(found) == list(range(67))
    assert found == order(keys, 8, seed=1, epoch=0) != order(keys, 8, seed=1, epoch=1)
    pictures = [len({keys[index] for index in found[start : start + 8]}) for start in range(0, 64, 8)]
    assert sum(pictures) <= 22, "groups of four, two in a batch of eight; three texts take them apart here and there"
    assert most_pictures(keys[:64], 8) == 2
    assert most_pictures([1] * 20, 8) == 1
    most = Counter(keys[index] for index in order([1] * 20, 8, 0, 0))
    assert sum(most.values()) == 20


def test_general_records_beside_them_have_keys_of_their_own(make_model: Made, tmp_path: Path) -> None:
    encoder = make_model("llava-1.5", "eager").encoder
    records = about_three_pictures()[:2]
    general = RecordDataset(records, replace(encoder, image_folder=tmp_path))
    mixed = WithSubstitutes(Mixed(RecordDataset(records, encoder), general, [1]))
    assert mixed.picture_keys == [
        (encoder.image_folder, "0.png"),
        (encoder.image_folder, "2.png"),
        (tmp_path, "2.png"),
    ]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ("--unpadded False", "contradicts --unpadded False: in padded batches every record has a row of its own"),
        ("--group_by_modality_length True", "contradicts --group_by_modality_length True"),
        ("--group_by_real_length True", "contradicts --group_by_real_length True"),
        ("--train_sampling_strategy sequential", "contradicts --train_sampling_strategy sequential"),
    ],
)
def test_what_takes_records_apart_is_refused(flags: str, said: str, tmp_path: Path) -> None:
    given = ["--model_name_or_path", "base", "--data_path", "r.json", "--output_dir", str(tmp_path)]
    with pytest.raises(UsageError, match=said):
        parse([*given, "--share_pictures", "True", *flags.split()])


def test_a_smaller_batch_after_running_out_of_memory_keeps_the_order() -> None:
    assert halved(8, 2, sharing=8)[-2:] == ("--share_among", "8")
    assert "--share_among" not in halved(8, 2)
