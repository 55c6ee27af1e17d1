"""The chat template inside a GGUF file, chosen so that llama.cpp's tokens are those of training.

llama.cpp hands each message over as one string, a mark `<__media_N__>` in place of each picture, and tokenises every
stretch between pictures by itself, as upstream does. So the template puts the marks first and writes after each what
training wrote there.

    choice = choose_template(vocabulary, tokenizer, "vicuna_v1", [(probe, ids)])
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from data_prep.records.marks import IMAGE_TOKEN_INDEX
from llava_finetune.convert.gguf.engine_tokens import EngineTokens
from llava_finetune.convert.gguf.vocabulary import SENTENCEPIECE, Vocabulary
from llava_finetune.convert.probes import Probe
from llava_finetune.convert.styles import difference_of_ids
from llava_finetune.convert.template import STYLES, chat_template, own_chat_template
from llava_finetune.data.masking import adds_bos
from llava_finetune.data.own_template import NAME as OWN
from llava_finetune.data.templates import conversation
from llava_finetune.errors import UserError

MARK = re.compile(r"<__media\w*__>")
PLAIN = ("plain", "v0_plain")

_CONTENT = """\
{%- set ns.text = '' -%}
{%- set ns.rest = '' -%}
{%- for piece in message['content'].split('<__media') -%}
{%- if loop.first -%}
{%- set ns.rest = piece -%}
{%- else -%}
{%- set cut = piece.split('__>', 1) -%}
{%- set ns.text = ns.text + '<__media' + cut[0] + '__>' + @after@ -%}
{%- if ns.rest | trim and cut[1] | trim -%}{%- set ns.rest = ns.rest + '\\n' -%}{%- endif -%}
{%- set ns.rest = ns.rest + cut[1] -%}
{%- endif -%}
{%- endfor -%}
{%- set ns.text = (ns.text + (ns.rest | trim)) | trim -%}
"""


@dataclass(frozen=True)
class Choice:
    """The template's text, what it writes first (BOS, or nothing), and the vocabulary with its habit of spaces."""

    template: str
    beginning: str
    vocabulary: Vocabulary


def choose_template(
    vocabulary: Vocabulary, tokenizer: Any, name: str, references: Sequence[tuple[Probe, list[int]]]
) -> Choice:
    """The template that gives llama.cpp upstream's ids for every probe (-200 stands for a picture).

    Raises UserError when none does, and for the template of stage 1, which is no conversation.
    """
    if name in PLAIN:
        raise UserError(
            f'the conversation "{name}" is stage 1\'s, a caption without a question; llama.cpp has no chat for it. '
            "Export the fine-tuned model, or name its conversation with --conversation"
        )
    problems = []
    for choice in _candidates(vocabulary, tokenizer, name):
        problem = _first_difference(choice, tokenizer, references)
        if not problem:
            return choice
        problems.append(problem)
    raise UserError(
        f'no chat template gives llama.cpp the ids of training with "{name}": {problems[0]}. The model would see '
        f"another "
        "prompt than the trained one, so nothing was written"
    )


def _candidates(vocabulary: Vocabulary, tokenizer: Any, name: str) -> Iterator[Choice]:
    """Every style, once as the template writes it and, for SentencePiece, once with llama.cpp's own spaces first."""
    bos = tokenizer.bos_token if adds_bos(tokenizer) else None
    for prefix in (True, False) if vocabulary.model == SENTENCEPIECE else (False,):
        for style in STYLES:
            if name == OWN:
                text = own_chat_template(tokenizer.chat_template, style, bos, _CONTENT)
            else:
                text = chat_template(conversation(name), style, bos, _CONTENT)
            text = text.replace("{%- generation -%}", "").replace("{%- endgeneration -%}", "")
            yield Choice(text, bos + style.bos_gap if bos else "", replace(vocabulary, space_prefix=prefix))


def _first_difference(choice: Choice, tokenizer: Any, references: Sequence[tuple[Probe, list[int]]]) -> str:
    engine = EngineTokens(choice.vocabulary, tokenizer)
    for probe, expected in references:
        ids = prompt_ids(choice.template, engine, tokenizer, engine_messages(probe), is_open=probe.is_open)
        problem = difference_of_ids(expected, ids, IMAGE_TOKEN_INDEX, tokenizer, probe.name)
        if problem:
            return problem
    return ""


def engine_messages(probe: Probe) -> list[dict[str, str]]:
    """A probe's messages as llama.cpp gives them to a template."""
    out = []
    for message in probe.messages:
        marks = "".join(f"<__media_{number}__>" for number, part in enumerate(message["content"]) if "image" in part)
        out.append({"role": message["role"], "content": marks + message["content"][-1]["text"]})
    return out


def prompt_ids(
    template: str, engine: EngineTokens, tokenizer: Any, messages: Sequence[dict[str, str]], *, is_open: bool = True
) -> list[int]:
    """The ids that llama.cpp makes of messages, -200 for a picture; `is_open`: an answer is asked for."""
    text = tokenizer.apply_chat_template(
        messages, chat_template=template, tokenize=False, add_generation_prompt=is_open
    )
    ids: list[int] = []
    for number, stretch in enumerate(MARK.split(text)):
        if number:
            ids.append(IMAGE_TOKEN_INDEX)
        ids += engine.ids(stretch)
    return ids
