"""Our GGUF files in the real llama.cpp engine: the same tokens, the same likelihoods as the model in torch."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch

from llava_finetune.convert.gguf import pre_tokenizers
from llava_finetune.convert.gguf.export import export_gguf
from llava_finetune.convert.parity import forward
from llava_finetune.convert.probes import noise
from llava_finetune.convert.tokenizer_files import load_tokenizer
from llava_finetune.engines.answers import Answer, Question, Turn, data_url
from llava_finetune.engines.class_token import class_token_last
from llava_finetune.engines.http import post
from llava_finetune.engines.llama_cpp import LlamaCpp, llama_cpp
from llava_finetune.model.loading import load
from llava_finetune.serve.limits import Limits
from llava_finetune.serve.prompts import Message, Prompt, build_prompt
from llava_finetune.serve.protocol import ChatRequest
from tests.engines.models import LANGUAGES, MODELS, TOWERS, make_model
from tests.tiny import IMAGE_SIZE, make_tiny_llava

ALL = (*MODELS, *LANGUAGES)
SQUARE = noise(IMAGE_SIZE, IMAGE_SIZE, 3)
OTHER = noise(IMAGE_SIZE, IMAGE_SIZE, 4)


@dataclass(frozen=True)
class Pair:
    """A model in torch, and the same in the engine."""

    loaded: Any
    engine: LlamaCpp
    folder: Path

    def prompt(self, question: Question) -> Prompt:
        return build_prompt(self.loaded, [Message(turn.role, turn.text, turn.pictures) for turn in question.turns])

    def first(self, question: Question) -> torch.Tensor:
        """Log-probabilities of the first answer token in torch."""
        run = forward(self.loaded, self.prompt(question).input_ids, question.pictures)
        return torch.log_softmax(run.logits[-1], -1)


def away(answer: Answer, expected: torch.Tensor) -> float:
    """The largest difference over the tokens that the engine names."""
    assert len(answer.first) == 20
    return max(abs(value - expected[token].item()) for token, value in answer.first.items())


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Pair]]:
    """A model by name, exported as F32 and served, made when first asked for."""
    root = tmp_path_factory.mktemp("gguf")
    made: dict[str, Pair] = {}
    with contextlib.ExitStack() as stack:

        def make(name: str) -> Pair:
            if name not in made:
                source = make_model(root / name, name)
                export_gguf(str(source), root / f"{name}-gguf", file_type="f32")
                engine = stack.enter_context(llama_cpp(root / f"{name}-gguf", root / f"{name}.log", context=2048))
                made[name] = Pair(load(str(source), dtype="fp32"), engine, root / f"{name}-gguf")
            return made[name]

        yield make


QUESTIONS = {
    "text alone": Question("1", (Turn("user", "Hello!\n\nWhat is  that?"),)),
    "one picture": Question("2", (Turn("user", "What is in the picture?", (SQUARE,)),)),
    "two pictures": Question("3", (Turn("user", "Compare them.", (SQUARE, OTHER)),)),
    "turns": Question(
        "4",
        (
            Turn("user", "What colour is it?", (SQUARE,)),
            Turn("assistant", "dark red"),
            Turn("user", "And 2?"),
            Turn("assistant", "No."),
            Turn("user", "Why?\nSay it."),
        ),
    ),
    "system": Question("5", (Turn("system", "Be brief."), Turn("user", "Is it red?", (OTHER,)))),
    "other letters": Question("6", (Turn("user", "Größe 3.14, 東京? <b>x</b>", (SQUARE,)),)),
}


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("question", QUESTIONS.values(), ids=QUESTIONS)
def test_prompt_tokens_are_those_of_training(name: str, question: Question, pair: Callable[[str], Pair]) -> None:
    both = pair(name)
    answer = both.engine.answer(question, 1)
    prompt = both.prompt(question)
    assert answer.prompt_ids == prompt.input_ids
    assert answer.num_prompt == prompt.length


ONE, TWO = ({"type": "image_url", "image_url": {"url": data_url(picture)}} for picture in (SQUARE, OTHER))
FIRST, SECOND = ({"type": "text", "text": text} for text in ("Look at this.", "What is  it?\nSay."))
PARTS = {
    "text first": [FIRST, ONE],
    "text around": [FIRST, ONE, SECOND],
    "several texts": [ONE, FIRST, SECOND],
    "two pictures apart": [ONE, FIRST, TWO, SECOND],
    "two pictures last": [FIRST, SECOND, ONE, TWO],
}


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("parts", PARTS.values(), ids=PARTS)
def test_parts_in_any_order_take_as_many_tokens_as_in_our_own_server(
    name: str, parts: list[dict[str, Any]], pair: Callable[[str], Pair]
) -> None:
    both = pair(name)
    asked = {"model": "mine", "messages": [{"role": "user", "content": parts}], "max_tokens": 1}
    prompt = build_prompt(both.loaded, ChatRequest(**asked).to_messages(Limits()))
    assert post(both.engine.url, "/v1/chat/completions", asked)["usage"]["prompt_tokens"] == prompt.length


@pytest.mark.parametrize("name", ALL)
def test_a_text_is_as_likely_as_in_torch(name: str, pair: Callable[[str], Pair]) -> None:
    both = pair(name)
    question = QUESTIONS["text alone"]
    assert away(both.engine.answer(question, 1), both.first(question)) < 1e-3


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        *((name, kind) for name in ALL for kind in ("one picture", "two pictures", "turns")),
        *((name, "one picture") for name in TOWERS),
    ],
)
def test_an_answer_about_square_pictures_is_as_likely_as_in_torch(
    name: str, kind: str, pair: Callable[[str], Pair], note: Callable[[str], None]
) -> None:
    """Either order of CLIP's class token is the engine's (its issue 25814); which one, it has for all pictures."""
    both, question = pair(name), QUESTIONS[kind]
    answer = both.engine.answer(question, 1)
    first = away(answer, both.first(question))
    with class_token_last(both.loaded.model):
        last = away(answer, both.first(question))
    near, far = sorted((first, last))
    note(f"{name}, {kind}: llama.cpp is {first:.1e} away with the class token first, {last:.1e} with it last")
    assert near < 5e-3, f"class token first: {first}, last: {last}"
    assert far > 4 * near, f"class token first: {first}, last: {last}: the picture hardly matters"


HARD = "I'll pay $1,234.50 in 2024;\n\n  it's  HTMLParser's\tturn: Größe, 東京 и ещё... {x:07}\r\n--> don't!"
TEKKEN = [{"type": "Split", "pattern": {"Regex": pre_tokenizers.TEKKEN}, "behavior": "Isolated", "invert": False}]
DIGITS = [{"type": "Digits", "individual_digits": True}]


@pytest.mark.parametrize(("name", "cut"), [("qwen3", "qwen2"), ("llama3", "llama-bpe")])
def test_a_text_is_cut_as_the_language_models_own_tokenizer_does(
    name: str, cut: str, pair: Callable[[str], Pair]
) -> None:
    both = pair(name)
    assert both.engine.ids(HARD) == both.loaded.tokenizer(HARD, add_special_tokens=False).input_ids
    fields = gguf.GGUFReader(both.folder / "model-f32.gguf").fields
    assert fields["tokenizer.ggml.pre"].contents() == cut


@pytest.mark.parametrize(
    ("name", "first", "ignores_merges"),
    [("smollm", DIGITS, False), ("tekken", TEKKEN, True)],
)
def test_each_known_way_of_cutting_text_gives_the_engine_our_ids(
    name: str, first: list[dict[str, Any]], ignores_merges: bool, tmp_path: Path
) -> None:
    source = make_model(tmp_path / "source", "bpe")
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": first is DIGITS}
    backend = json.loads((source / "tokenizer.json").read_text())
    backend["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [*first, level]}
    backend["model"]["ignore_merges"] = ignores_merges
    (source / "tokenizer.json").write_text(json.dumps(backend))
    settings = json.loads((source / "tokenizer_config.json").read_text())
    settings["tokenizer_class"] = "PreTrainedTokenizerFast"
    (source / "tokenizer_config.json").write_text(json.dumps(settings))
    export_gguf(str(source), tmp_path / "gguf", file_type="f32")
    tokenizer = load_tokenizer(source)
    with llama_cpp(tmp_path / "gguf", tmp_path / "log", context=512) as engine:
        assert engine.ids(HARD) == tokenizer(HARD, add_special_tokens=False).input_ids
    fields = gguf.GGUFReader(tmp_path / "gguf" / "model-f32.gguf").fields
    assert fields["tokenizer.ggml.pre"].contents() == name


def test_k_quants_are_made_and_answered_by_llama_cpp_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of 256 are what K-quants pack; narrower ones would fall back to other types in silence."""
    monkeypatch.delenv("LLAMA_QUANTIZE", raising=False)
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    source = make_tiny_llava(tmp_path / "model", hidden_size=256, intermediate_size=512)
    written = export_gguf(str(source), tmp_path / "gguf", file_type="q4_k_m")
    tensors = gguf.GGUFReader(tmp_path / "gguf" / written.model).tensors
    types = {tensor.tensor_type.name for tensor in tensors if ".attn" in tensor.name or ".ffn" in tensor.name}
    assert {"Q4_K", "Q6_K"} <= types <= {"Q4_K", "Q6_K", "F32"}
    loaded = load(str(source), dtype="fp32")
    with llama_cpp(tmp_path / "gguf", tmp_path / "log", context=2048) as engine:
        both, question = Pair(loaded, engine, source), QUESTIONS["text alone"]
        answer = engine.answer(question, 1)
        assert answer.prompt_ids == both.prompt(question).input_ids
        assert 1e-3 < away(answer, both.first(question)) < 0.5
