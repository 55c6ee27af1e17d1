"""Questions learned each as if asked alone: what every one of them sees is what the evaluation shows the model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from data_prep.records.marks import IGNORE_INDEX
from data_prep.records.record import conversation
from llava_finetune.config.arguments import parse
from llava_finetune.data.masking import encode, encode_independent, prompt_ids
from llava_finetune.data.pairs import PairEncoder
from llava_finetune.data.templates import template_names
from llava_finetune.errors import UsageError, UserError
from llava_finetune.model.building import load_tokenizer
from tests.tiny import make_tiny_language_model

QUESTIONS = [("what is it?", "a knight"), ("what is its colour?", "blue"), ("is it blue?", "yes"), ("what?", "blue")]


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("tokenizers")
    kinds = ("llama", "chatml")
    return {kind: load_tokenizer(str(make_tiny_language_model(folder / kind, kind)), None, 2048) for kind in kinds}


@pytest.mark.parametrize("kind", ["llama", "chatml"])
@pytest.mark.parametrize("template", [name for name in template_names() if "plain" not in name])
@pytest.mark.parametrize("num_images", [0, 1, 2])
def test_every_path_is_the_prompt_of_its_question_alone_and_its_answer(
    template: str, kind: str, num_images: int, tokenizers: dict[str, Any]
) -> None:
    tokenizer = tokenizers[kind]
    encoded = encode_independent(conversation(QUESTIONS, num_images), template, tokenizer)
    bounds = [*encoded.branches, len(encoded.input_ids)]
    assert len(encoded.branches) == len(QUESTIONS)
    for place, (question, answer) in enumerate(QUESTIONS):
        branch = slice(bounds[place], bounds[place + 1])
        path = encoded.input_ids[: bounds[0]] + encoded.input_ids[branch]
        labels = encoded.labels[: bounds[0]] + encoded.labels[branch]
        alone = conversation([(question, answer)], num_images)
        assert path == encode(alone, template, tokenizer).input_ids
        prompt = prompt_ids(alone[:1], template, tokenizer)
        taught = [label != IGNORE_INDEX for label in labels]
        assert taught == [False] * len(prompt) + [True] * (len(path) - len(prompt))
        assert not taught[bounds[0]], "what teaches a branch's first answer token stands in the branch"
    assert encoded.input_ids[: bounds[0]].count(-200) == num_images


def test_the_same_question_twice_still_makes_two_branches(tokenizers: dict[str, Any]) -> None:
    turns = conversation([("is it blue?", "yes"), ("is it blue?", "yes")])
    encoded = encode_independent(turns, "v1", tokenizers["llama"])
    assert len(encoded.branches) == len(encoded.spans) == 2


def test_a_picture_in_a_later_question_is_refused(tokenizers: dict[str, Any]) -> None:
    turns = [*conversation(QUESTIONS[:1]), {"from": "human", "value": "and <image>?"}, {"from": "gpt", "value": "no"}]
    with pytest.raises(UserError, match="a later turn has <image>"):
        encode_independent(turns, "v1", tokenizers["llama"])


def test_an_answer_cut_off_is_refused_as_in_a_conversation(tokenizers: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="no supervised token within 8 tokens"):
        encode_independent(conversation(QUESTIONS), "v1", tokenizers["llama"], 8)


def test_another_value_of_the_flag_is_wrong_use(tmp_path: Path) -> None:
    flags = ["--model_name_or_path", "base", "--data_path", "r.json", "--output_dir", str(tmp_path)]
    with pytest.raises(UsageError, match="--independent_turns maybe: expected auto, True or False"):
        parse([*flags, "--independent_turns", "maybe"])


def test_a_question_without_an_answer_is_told(tokenizers: Any) -> None:
    turns = [*conversation(QUESTIONS), {"from": "human", "value": "and then?"}]
    with pytest.raises(UserError, match="is a question without an answer"):
        encode_independent(turns, "v1", tokenizers["llama"])


def test_of_a_pair_behind_independent_questions_the_last_is_seen_alone(tokenizers: dict[str, Any]) -> None:
    tokenizer = tokenizers["llama"]
    turns = conversation(QUESTIONS, 1)
    record = {"id": "a", "image": "a.png", "conversations": turns, "rejected": "green", "independent_turns": True}
    alone = {**record, "conversations": conversation(QUESTIONS[-1:], 1)}
    encoder = PairEncoder(tokenizer, "v1", None, None, None)
    assert encoder.encode(record) == encoder.encode(alone)
    said = replace(encoder, independent_turns=True).encode({**record, "independent_turns": False})
    assert said == encoder.encode(alone) != replace(encoder, independent_turns=False).encode(record)
