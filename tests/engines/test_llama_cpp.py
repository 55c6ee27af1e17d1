"""Our GGUF files in the real llama.cpp engine: the same tokens, the same likelihoods as the model in torch."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from llava_finetune.convert.gguf.export import export_gguf
from llava_finetune.convert.parity import forward
from llava_finetune.convert.probes import noise
from llava_finetune.engines.answers import Answer, Question, Turn
from llava_finetune.engines.class_token import class_token_last
from llava_finetune.engines.llama_cpp import LlamaCpp, llama_cpp
from llava_finetune.model.loading import load
from llava_finetune.serve.prompts import Message, Prompt, build_prompt
from tests.tiny import IMAGE_SIZE, make_tiny_llava

SQUARE = noise(IMAGE_SIZE, IMAGE_SIZE, 3)
OTHER = noise(IMAGE_SIZE, IMAGE_SIZE, 4)
MODELS: Mapping[str, Mapping[str, Any]] = {
    "sentencepiece": {},
    # As SmolLM2: byte-level BPE without BOS, grouped heads, tied head, rows beyond the tokens, trained ChatML.
    "bpe": {"tokenizer": "bytes", "num_key_value_heads": 2, "tie_word_embeddings": True, "vocab_size": 448},
    "legacy": {},
}


@dataclass(frozen=True)
class Pair:
    """A model in torch, and the same in the engine."""

    loaded: Any
    engine: LlamaCpp

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


def make_model(folder: Path, name: str) -> Path:
    """A tiny model whose picture matters to its answers, yet not so much that llama.cpp's table of GELU shows."""
    from safetensors.torch import load_file, save_file

    make_tiny_llava(folder, "llava-1.5", **MODELS[name])
    path = folder / "model.safetensors"
    state = load_file(path)
    for key, value in state.items():
        if value.ndim == 2 and "vision_tower" not in key:
            state[key] = value * (8 if "mm_projector" in key else 2)
    save_file(state, path, metadata={"format": "pt"})
    if name == "legacy":
        settings = folder / "tokenizer_config.json"
        settings.write_text(settings.read_text().replace('"legacy": false', '"legacy": true'))
    return folder


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
                made[name] = Pair(load(str(source), dtype="fp32"), engine)
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


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("question", QUESTIONS.values(), ids=QUESTIONS)
def test_prompt_tokens_are_those_of_training(name: str, question: Question, pair: Callable[[str], Pair]) -> None:
    both = pair(name)
    answer = both.engine.answer(question, 1)
    prompt = both.prompt(question)
    assert answer.prompt_ids == prompt.input_ids
    assert answer.num_prompt == prompt.length


@pytest.mark.parametrize("name", MODELS)
def test_a_text_is_as_likely_as_in_torch(name: str, pair: Callable[[str], Pair]) -> None:
    both = pair(name)
    question = QUESTIONS["text alone"]
    assert away(both.engine.answer(question, 1), both.first(question)) < 1e-3


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("kind", ["one picture", "two pictures", "turns"])
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
