"""The tokenizer's own chat template as the template of a run: what a language model was taught to be asked with.

A conversation is written as the template asks for its last answer, so that what is taught there is what generation
begins with; earlier answers are found in that text. Qwen3's template, for one, writes an empty thought before the last
answer alone. What is taught is each answer and the token that ends it.

    own_segments(record["conversations"], tokenizer)
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from data_prep.errors import first_line
from data_prep.records.marks import IMAGE_TOKEN
from llava_finetune.data.segment import Segment, single_image_first
from llava_finetune.errors import UserError

NAME = "chat_template"
"""What `--version` and a result's manifest call it."""
DATE = "26 Jul 2024"
"""The day that Llama-3's and SmolLM3's templates are told: a prompt must not change with the calendar."""
ROLES = {"human": "user", "gpt": "assistant", "system": "system"}


def named_template(value: Any, where: str) -> str:
    """The text of a chat template as a file holds it: the text itself, or the one called "default" of several by name.

    `value` is text, {name: text}, an older [{"name", "template"}], or None. Returns "" for none; raises UserError that
    begins with `where` for anything else, and for names without a default.
    """
    if isinstance(value, list):
        value = {one.get("name"): one.get("template") for one in value if isinstance(one, dict)}
    if isinstance(value, dict) and value:
        if "default" not in value:
            names = ", ".join(map(str, value))
            raise UserError(f"{where}: chat_template: none of its templates is called default; there are {names}")
        value = value["default"]
    if value and not isinstance(value, str):
        remedy = "copy the chat template again from where the model came from"
        raise UserError(f"{where}: chat_template: expected text, found {repr(value)[:80]}; {remedy}")
    return value or ""


def own_segments(turns: Sequence[Mapping[str, Any]], tokenizer: Any) -> list[Segment]:
    """The pieces of a conversation, the last answer None for a prompt. Raises UserError where the template refuses."""
    messages = [{"role": ROLES[turn["from"]], "content": _content(turn)} for turn in turns if turn["value"] is not None]
    answers = [index for index, turn in enumerate(turns) if turn["from"] == "gpt"]
    if not answers:
        return [Segment(render(messages, tokenizer, open_end=True))]
    end, last = end_of(tokenizer), answers[-1]
    prompt = render(messages[:last], tokenizer, open_end=True)
    out: list[Segment] = []
    done = 0
    for index in answers[:-1]:
        text = messages[index]["content"]
        answer = f"{text}{end}" if f"{text}{end}" in prompt[done:] else f"{text.strip()}{end}"
        start = _place(prompt, answer, render(messages[:index], tokenizer, open_end=True), done)
        out += [Segment(prompt[done:start]), Segment(prompt[start : start + len(answer)], True)]
        done = start + len(answer)
    out.append(Segment(prompt[done:]))
    if turns[last]["value"] is not None:
        whole = render(messages[: last + 1], tokenizer, open_end=False)
        stop = whole.rfind(end) + len(end)
        same = whole.startswith(prompt) and stop > len(prompt)
        out.append(Segment(whole[len(prompt) : stop] if same else f"{messages[last]['content'].strip()}{end}", True))
        out.append(Segment(whole[stop:]))
    return [piece for piece in out if piece.text]


def _content(turn: Mapping[str, Any]) -> str:
    text = str(turn["value"])
    if turn["from"] == "human":
        return single_image_first(text)
    if IMAGE_TOKEN in text:
        raise UserError(f"{IMAGE_TOKEN} stands in an answer; pictures belong to the human's words")
    return text


def _place(prompt: str, answer: str, asked: str, done: int) -> int:
    """Where an earlier answer begins: at the end of what it was asked with, or where the two texts part."""
    if prompt.startswith(asked):
        at = prompt.find(answer, len(asked))
        if not prompt[len(asked) : at].strip():
            return at if at >= 0 else _lost(answer)
    pairs = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(prompt, asked, strict=False))
    common = sum(1 for _ in pairs)
    # The answer may begin as the text does that it stands in place of.
    start = next((at for at in range(common, max(done, common - 32) - 1, -1) if prompt.startswith(answer, at)), -1)
    return start if start >= 0 else _lost(answer)


def _lost(answer: str) -> int:
    raise UserError(
        f"the chat template writes the answer {answer[:40]!r} otherwise once others follow; it cannot be taught"
    )


def render(messages: Sequence[Mapping[str, Any]], tokenizer: Any, *, open_end: bool) -> str:
    """The template's text, without the first token that the tokenizer puts there itself."""
    try:
        text = tokenizer.apply_chat_template(
            list(messages),
            tokenize=False,
            add_generation_prompt=open_end,
            enable_thinking=False,
            date_string=DATE,
            strftime_now=lambda _: DATE,
        )
    except Exception as error:  # jinja's, and what templates raise
        raise UserError(f"the tokenizer's chat template refuses the conversation: {first_line(error)}") from error
    ids = tokenizer("a").input_ids
    if ids and ids[0] == tokenizer.bos_token_id:
        text = text.removeprefix(tokenizer.bos_token)
    return str(text)


@functools.lru_cache(maxsize=8)
def end_of(tokenizer: Any) -> str:
    """The text of the token that ends an answer. Raises UserError for a tokenizer without a usable chat template."""
    if not getattr(tokenizer, "chat_template", None):
        raise UserError(
            f"--version {NAME}: the tokenizer has no chat template; choose a template with --version, "
            "e.g. chatml_direct or vicuna_v1, or take the instruction-tuned model"
        )
    words = "Yes, 2 of them"
    asked = [{"role": "user", "content": "How many?"}, {"role": "assistant", "content": words}]
    tail = render(asked, tokenizer, open_end=False).rpartition(words)[2]
    special = {*tokenizer.all_special_tokens, *map(str, tokenizer.added_tokens_decoder.values())}
    found = sorted((tail.find(token), token) for token in special if token and token in tail)
    if not found:
        raise UserError(
            f"--version {NAME}: the chat template ends an answer with {tail[:40]!r}, in which is no token of its own; "
            "choose a template with --version"
        )
    return str(tail[: found[0][0]] + found[0][1])
