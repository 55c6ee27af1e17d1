"""Small changes to the masker that other tests did not notice: lengths, turns, and tokenizers without offsets."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

import pytest
from tokenizers.processors import TemplateProcessing

from data_prep.records.marks import IGNORE_INDEX, IMAGE_TOKEN_INDEX
from data_prep.records.record import conversation
from llava_finetune.data.masking import _tokenize, asked_alone, encode, prompt_ids, separate
from llava_finetune.data.rendering import segments, single_image_first
from llava_finetune.errors import UserError
from llava_finetune.model.building import load_tokenizer
from tests.tiny import make_tiny_language_model

TALK = conversation([("what is it?", "a knight, 3"), ("its colour?", "blue"), ("is it old?", "no")])
TEMPLATES = ("vicuna_v1", "llava_llama_2", "chatml_direct", "v1_mmtag", "v0")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("tokenizer")
    return load_tokenizer(str(make_tiny_language_model(folder / "llama", "llama")), None, 64)


@pytest.mark.parametrize("template", TEMPLATES)
def test_a_tokenizer_that_ends_every_text_adds_no_end_of_its_own(template: str, tokenizer: Any) -> None:
    ending = copy.deepcopy(tokenizer)
    tokens = [(name, tokenizer.convert_tokens_to_ids(name)) for name in ("<s>", "</s>")]
    ending.backend_tokenizer.post_processor = TemplateProcessing(single="<s> $A </s>", special_tokens=tokens)
    assert ending("a").input_ids[-1] == tokenizer.eos_token_id
    talk = [{**TALK[0], "value": "<image>\n<image>\nwhat is it?"}, *TALK[1:]]
    assert encode(talk, template, ending) == encode(talk, template, tokenizer)
    assert prompt_ids(talk[:1], template, ending) == prompt_ids(talk[:1], template, tokenizer)


class WithoutOffsets:
    """The tokenizer as one that is not fast: ids alone."""

    is_fast = False

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer, self.bos_token_id = tokenizer, tokenizer.bos_token_id
        self.num_texts = 0

    def __call__(self, text: str, **options: Any) -> Any:
        self.num_texts += 1
        return SimpleNamespace(input_ids=self.tokenizer(text, **options).input_ids)


@pytest.mark.parametrize("template", TEMPLATES)
def test_a_tokenizer_without_offsets_is_taught_the_same(template: str, tokenizer: Any) -> None:
    fast, slow = (encode(TALK, template, one) for one in (tokenizer, WithoutOffsets(tokenizer)))
    assert slow.input_ids == fast.input_ids
    assert slow.labels == fast.labels
    assert slow.spans == fast.spans and len(fast.spans) == 3


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("talk", [TALK * 4, conversation([("what?", "a blue knight, 3. " * 200)])])
def test_a_long_text_without_offsets_is_taught_the_same_by_few_prefixes(
    talk: Any, template: str, tokenizer: Any
) -> None:
    slow = WithoutOffsets(tokenizer)
    talk = [turn if place else {**turn, "value": "<image>\nwhat is it?"} for place, turn in enumerate(talk)]
    talk = [
        {**turn, "value": turn["value"].replace("<image>\n", "")} if place else turn for place, turn in enumerate(talk)
    ]
    fast = encode(talk, template, tokenizer)
    assert encode(talk, template, slow).labels == fast.labels
    assert slow.num_texts <= 500 + 40 * len(talk)


def test_growing_prefixes_find_the_place_of_every_letter() -> None:
    def letters(text: str, **_: Any) -> Any:
        return SimpleNamespace(input_ids=[ord(letter) for letter in text])

    assert _tokenize("red", letters) == ([114, 101, 100], [(0, 1), (1, 2), (2, 3)])


@pytest.mark.parametrize("template", TEMPLATES)
def test_answers_and_their_ends_are_taught_and_nothing_before_them(template: str, tokenizer: Any) -> None:
    encoded = encode(TALK, template, tokenizer)
    for place, (start, end) in enumerate(encoded.spans):
        before = prompt_ids(TALK[: 2 * place + 1], template, tokenizer)
        assert encoded.input_ids[:start] == before
        taught = tokenizer.decode(encoded.input_ids[start:end])
        answer = TALK[2 * place + 1]["value"]
        assert answer in taught and len(taught) <= len(answer) + 14
    assert encoded.num_supervised == sum(end - start for start, end in encoded.spans)
    assert encoded.input_ids.count(IMAGE_TOKEN_INDEX) == 1


def test_a_text_longer_than_the_tokenizers_own_limit_is_cut_where_it_is_told_to_be(tokenizer: Any) -> None:
    talk = conversation([("what is it?", "very " * 200 + "old")], num_images=0)
    whole = encode(talk, "vicuna_v1", tokenizer)
    assert len(whole.input_ids) > 300 > tokenizer.model_max_length and not whole.is_cut
    length = len(whole.input_ids)
    assert not encode(talk, "vicuna_v1", tokenizer, length).is_cut
    cut = encode(talk, "vicuna_v1", tokenizer, length - 1)
    assert cut.is_cut and cut.input_ids == whole.input_ids[:-1] and cut.spans == [(whole.spans[0][0], length - 1)]
    start = whole.spans[0][0]
    with pytest.raises(UserError, match=rf"no supervised token within {start} tokens \(the record has {length}\)"):
        encode(talk, "vicuna_v1", tokenizer, start)
    assert encode(talk, "vicuna_v1", tokenizer, start + 1).num_supervised == 1


@pytest.mark.parametrize(
    ("text", "moved"),
    [
        ("See <image> there", "<image>\nSee  there"),
        ("<image>", "<image>"),
        ("<image> and <image>", "<image> and <image>"),
        ("none", "none"),
    ],
)
def test_one_picture_goes_to_the_front_and_several_stay(text: str, moved: str) -> None:
    assert single_image_first(text) == moved


def test_each_question_is_asked_alone_with_its_own_answer() -> None:
    asked = [[turn["value"] for turn in pair] for pair in separate(TALK)]
    assert asked == [
        ["<image>\nwhat is it?", "a knight, 3"], ["<image>\nits colour?", "blue"], ["<image>\nis it old?", "no"],
    ]  # fmt: skip
    assert asked_alone("and <image> this?", "<image>\n<image>\nwhat?") == "<image>\n<image>\nand  this?"


def test_a_caption_is_taught_after_its_picture_and_the_humans_words_are_dropped(tokenizer: Any) -> None:
    talk = [{"from": "human", "value": "Describe <image>"}, {"from": "gpt", "value": "a red circle"}]
    encoded = encode(talk, "plain", tokenizer)
    assert encoded.input_ids[:2] == [tokenizer.bos_token_id, IMAGE_TOKEN_INDEX]
    assert encoded.labels[:2] == [IGNORE_INDEX] * 2 and encoded.labels[2:] == encoded.input_ids[2:]
    assert tokenizer.decode(encoded.input_ids[2:]) == "a red circle\n"
    with pytest.raises(UserError, match=r'"plain" template takes one <image> and one caption, this record has 4 turns'):
        encode([*talk, *talk], "plain", tokenizer)


def test_turns_that_do_not_alternate_are_named() -> None:
    talk = [*TALK[:2], {"from": "gpt", "value": "again"}]
    with pytest.raises(UserError, match='turn 3 is from "gpt", expected "human": turns must alternate'):
        encode(talk, "vicuna_v1", None)


@pytest.mark.parametrize(("template", "marked"), [("v1_mmtag", True), ("v0_mmtag", True), ("vicuna_v1", False)])
def test_templates_with_tags_put_them_around_the_picture(template: str, marked: bool) -> None:
    text = "".join(piece.text for piece in segments(TALK, template))
    assert ("<Image><image></Image>\nwhat is it?" in text) is marked
