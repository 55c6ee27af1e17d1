"""The engine: answers that join and leave a batch are those that each request would get alone."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import decoders

from llava_finetune.errors import UserError
from llava_finetune.serve.engine import Done, Engine, Failed, QueueFull, ShuttingDown, Text, Ticket
from llava_finetune.serve.prompts import Message, build_prompt, turns_of
from llava_finetune.serve.sampling import Sampling, TextStream, choose


def text_of(ticket: Ticket) -> str:
    return "".join(event.text for event in ticket if isinstance(event, Text))


def requests(kit: SimpleNamespace) -> list[tuple[list[Message], Sampling]]:
    out = []
    for index in range(7):
        pictures = tuple(kit.noise(40 + 9 * index + n, 60, index + n) for n in range(index % 3))
        text = "Say it " + "again and " * (index % 4) + str(index)
        out.append(([Message("user", text, pictures)], Sampling(max_new_tokens=4 + 3 * index)))
    return out


@pytest.mark.parametrize("name", ["llava-1.5", "1.6-mistral"])
def test_answers_in_a_moving_batch_equal_answers_alone(name: str, family: Any, kit: SimpleNamespace) -> None:
    from llava_finetune.model.loading import load

    engine = Engine(load(str(family(name)), dtype="fp32"), max_batch=4).start()
    asked = requests(kit)
    alone = [text_of(engine.submit(engine.prompt(messages), sampling)) for messages, sampling in asked]
    tickets = []
    for messages, sampling in asked:
        tickets.append(engine.submit(engine.prompt(messages), sampling))
        time.sleep(0.004)
    assert [text_of(ticket) for ticket in tickets] == alone
    assert 1 < engine.largest_batch <= 4
    assert engine.close()


def test_the_engine_answers_as_upstreams_generate(loaded: Any, kit: SimpleNamespace) -> None:
    engine = Engine(loaded).start()
    prompt = engine.prompt([Message("user", "What is it?", (kit.noise(90, 50),))])
    answer = text_of(engine.submit(prompt, Sampling(max_new_tokens=15)))
    ids = loaded.model.generate(
        torch.tensor([prompt.input_ids]),
        images=torch.stack(prompt.pixel_values),
        image_sizes=prompt.sizes,
        attention_mask=torch.ones(1, len(prompt.input_ids), dtype=torch.long),
        do_sample=False,
        max_new_tokens=15,
    )
    assert answer == loaded.tokenizer.decode(ids[0], skip_special_tokens=True).strip()
    engine.close()


def test_a_seed_gives_the_same_words_and_another_gives_others(loaded: Any) -> None:
    engine = Engine(loaded).start()
    prompt = engine.prompt([Message("user", "Tell me")])

    def ask(seed: int) -> str:
        return text_of(engine.submit(prompt, Sampling(20, temperature=1.5, top_p=0.95, seed=seed)))

    assert ask(1) == ask(1) != ask(2)
    engine.close()


def test_top_p_keeps_only_the_likeliest_words() -> None:
    logits = torch.log(torch.tensor([0.5, 0.3, 0.15, 0.05]))
    generator = torch.Generator().manual_seed(0)
    drawn = {choose(logits, Sampling(temperature=1.0, top_p=0.6), generator) for _ in range(200)}
    assert drawn == {0, 1}
    assert {choose(logits, Sampling(temperature=1.0, top_p=0.01), generator) for _ in range(20)} == {0}


def test_a_cancelled_answer_stops_and_the_others_go_on(loaded: Any) -> None:
    engine = Engine(loaded).start()
    prompt = engine.prompt([Message("user", "Count")])
    long = engine.submit(prompt, Sampling(max_new_tokens=1500, temperature=2.0, seed=1))
    other = engine.submit(prompt, Sampling(max_new_tokens=30))
    events = iter(long)
    assert isinstance(next(events), Text)
    long.cancel()
    end = list(events)[-1]
    assert isinstance(end, Done)
    assert end.reason == "cancel"
    assert end.completion_tokens < 1500
    assert isinstance(list(other)[-1], Done)
    engine.close()


def test_a_bounded_queue_refuses_the_one_too_many(loaded: Any) -> None:
    engine = Engine(loaded, max_queue=2)  # not started: nothing is taken from the queue
    prompt = engine.prompt([Message("user", "Hi")])
    for _ in range(2):
        engine.submit(prompt, Sampling())
    with pytest.raises(QueueFull, match="2 requests are waiting already; ask again later"):
        engine.submit(prompt, Sampling())


def test_closing_finishes_what_was_accepted_and_takes_nothing_new(loaded: Any) -> None:
    engine = Engine(loaded, max_batch=1).start()
    prompt = engine.prompt([Message("user", "Hi")])
    tickets = [engine.submit(prompt, Sampling(max_new_tokens=20)) for _ in range(3)]
    assert engine.close(30) is True
    assert all(isinstance(list(ticket)[-1], Done) for ticket in tickets)
    with pytest.raises(ShuttingDown, match="shutting down"):
        engine.submit(prompt, Sampling())


def test_a_failure_reaches_the_one_who_asked_and_the_engine_lives_on(
    loaded: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Engine(loaded).start()
    prompt = engine.prompt([Message("user", "Hi")])

    def broken(prompts: object) -> None:
        raise RuntimeError("the tower is on fire")

    with monkeypatch.context() as patch:
        patch.setattr(engine.batch, "join", broken)
        assert list(engine.submit(prompt, Sampling())) == [Failed("RuntimeError: the tower is on fire")]
    assert isinstance(list(engine.submit(prompt, Sampling(max_new_tokens=3)))[-1], Done)
    engine.close()


def test_a_prompt_beyond_the_context_is_refused_with_both_numbers(loaded: Any) -> None:
    with pytest.raises(
        UserError, match=r"the conversation takes \d+ tokens, pictures included, and the model reads 2048"
    ):
        build_prompt(loaded, [Message("user", "many words " * 2000)])


def test_an_answer_is_cut_to_what_the_context_has_left(loaded: Any) -> None:
    engine = Engine(loaded)
    prompt = engine.prompt([Message("user", "Hi")])
    ticket = engine.submit(prompt, Sampling(max_new_tokens=10**6))
    assert ticket.sampling.max_new_tokens == loaded.context_length - prompt.length


def test_the_text_that_stands_for_a_picture_is_refused() -> None:
    with pytest.raises(UserError, match="attach pictures, do not write it"):
        turns_of([Message("user", "look: <image>")])


@pytest.mark.parametrize(
    ("roles", "message"),
    [
        (["user", "user"], 'message 2 is from "user", expected "assistant"'),
        (["assistant"], 'message 1 is from "assistant", expected "user"'),
        (["user", "assistant"], "the last message must be the user's"),
    ],
)
def test_turns_that_do_not_alternate_are_refused(roles: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        turns_of([Message(role, "x") for role in roles])


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("vicuna_v1", "Be brief. USER: Hi ASSISTANT:"),
        (
            "chatml_direct",
            "<|im_start|>system\nBe brief.<|im_end|><|im_start|>user\nHi<|im_end|><|im_start|>assistant\n",
        ),
        ("llava_llama_2", "[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\nHi [/INST]"),
        ("mistral_instruct", "[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\nHi [/INST]"),
    ],
)
def test_a_system_message_stands_where_the_templates_own_does(template: str, expected: str) -> None:
    from llava_finetune.serve.prompts import ids_with_system

    class Letters:
        """A tokenizer whose ids are letters."""

        is_fast, bos_token_id, pad_token_id = False, None, None

        def __call__(self, text: str, truncation: bool = False) -> Any:
            return SimpleNamespace(input_ids=[ord(letter) for letter in text])

    ids = ids_with_system([{"from": "human", "value": "Hi"}], "Be brief.", template, Letters())
    assert "".join(map(chr, ids)) == expected


class Pieces:
    """A tokenizer that only decodes: ids are places in a list of byte strings."""

    def __init__(self, *pieces: bytes) -> None:
        self.pieces = pieces

    def decode(self, ids: list[int], **_: object) -> str:
        return b"".join(self.pieces[index] for index in ids).decode("utf-8", "replace")

    def convert_ids_to_tokens(self, token: int) -> str:
        return repr(self.pieces[token])


class BytePieces(Pieces):
    """The same as SentencePiece has it: every lone byte is a token of its own kind, and a run of them is one text."""

    DECODER = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )

    def decode(self, ids: list[int], **_: object) -> str:
        return str(self.DECODER.decode([self.convert_ids_to_tokens(token) for token in ids]))

    def convert_ids_to_tokens(self, token: int) -> str:
        piece = self.pieces[token]
        return f"<0x{piece[0]:02X}>" if len(piece) == 1 else piece.decode().replace(" ", "▁")


def streamed(tokenizer: Pieces, stops: tuple[str, ...] = ()) -> tuple[list[str], str]:
    stream = TextStream(tokenizer, stops)
    parts = [stream.push(index) for index in range(len(tokenizer.pieces))]
    return parts, "".join(parts) + stream.finish()


def test_half_a_character_is_held_back() -> None:
    parts, whole = streamed(Pieces(b"caf", b"\xc3", b"\xa9", b"!"))
    assert parts == ["caf", "", "é", "!"]
    assert whole == "café!"


WORDS = st.sampled_from([" red", "box ", "  ", "\n\n", " 画面", "ab"]).map(lambda word: [word.encode()])
EMOJI = st.sampled_from(["😀", "é", "👩‍🚀", "\n", "\ufffd"]).map(lambda text: [bytes([byte]) for byte in text.encode()])
BROKEN = st.sampled_from([b"\xff", b"\xf0", b"\x9f", b"A", b" "]).map(lambda byte: [byte])


@settings(max_examples=200, deadline=None)
@given(st.lists(WORDS | EMOJI | BROKEN, max_size=12), st.sampled_from([0, 1]))
def test_what_is_streamed_is_what_the_whole_answer_decodes_to(runs: list[list[bytes]], kind: int) -> None:
    """Emoji split over tokens, bytes that are no character, runs of byte tokens that a later byte spoils."""
    pieces = [piece for run in runs for piece in run]
    tokenizer = (Pieces, BytePieces)[kind](*pieces)
    _, whole = streamed(tokenizer)
    assert whole == tokenizer.decode(list(range(len(pieces)))).strip()


def test_a_stop_text_of_byte_tokens_ends_at_once() -> None:
    stream = TextStream(BytePieces(b"red", b"\n"), ("\n",))
    assert (stream.push(0), stream.push(1), stream.stopped) == ("red", "", True)


def test_white_space_at_the_ends_is_not_given() -> None:
    parts, whole = streamed(Pieces(b" ", b"red", b" ", b"box", b" "))
    assert parts == ["", "red", "", " box", ""]
    assert whole == "red box"


def test_a_stop_text_is_never_shown_even_in_parts() -> None:
    parts, whole = streamed(Pieces(b"one", b"ST", b"X", b" ST", b"OP", b" more"), ("STOP",))
    assert "".join(parts) == whole == "oneSTX"
    assert parts[1] == ""
