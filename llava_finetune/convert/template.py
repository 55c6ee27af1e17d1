"""A chat template (jinja) that writes what training wrote: BOS, system prompt, turns and end tokens, answers marked.

Why: the stock llava-hf template has no BOS, no system prompt and no end token, so a served model sees another prompt
than the one it was trained on. Tokenizers differ in two habits that the text must make up for, found by trying
(`STYLES`): upstream tokenises each stretch between pictures by itself, which gives a Llama tokenizer's leading space
back after a picture and after BOS, and drops the first token after a picture when the text itself begins with BOS.

    template = chat_template("vicuna_v1", Style(" ", " ", "\\n"), bos_token="<s>")
"""

from __future__ import annotations

import itertools
import json
import re
from dataclasses import dataclass
from typing import Any

from data_prep.records.marks import IMAGE_TOKEN
from llava_finetune.data.own_template import DATE


@dataclass(frozen=True)
class Style:
    """What stands after BOS and after a picture so that one tokenisation gives upstream's ids.

    `bos_gap` follows BOS and `gap` each picture (a Llama tokenizer needs the space); `newline` follows each picture.
    """

    bos_gap: str
    gap: str
    newline: str


STYLES = tuple(Style(*texts) for texts in itertools.product(("", " "), ("", " "), ("\n", "")))

_CONTENT = """\
{%- set ns.text = '' -%}
{%- if message['content'] is string -%}
{%- set ns.text = message['content'] | replace('<image>\\n', @picture@) -%}
{%- else -%}
{%- for part in message['content'] -%}
{%- if part['type'] in ['image', 'image_url'] -%}{%- set ns.text = ns.text + @picture@ -%}{%- endif -%}
{%- endfor -%}
{%- set ns.words = '' -%}
{%- set ns.joint = '' -%}
{%- for part in message['content'] -%}
{%- if part['type'] == 'text' -%}
{%- set ns.words = ns.words + ns.joint + part['text'] -%}{%- set ns.joint = '\\n' -%}
{%- endif -%}
{%- endfor -%}
{%- set ns.text = ns.text + (ns.words | trim) -%}
{%- endif -%}
{%- set ns.text = ns.text | trim -%}
"""

_SYSTEM = """\
{%- set ns = namespace(system=@system@, text='', index=0) -%}
{%- for message in messages -%}
{%- if message['role'] == 'system' -%}
@content@{%- set ns.system = @system_head@ + ns.text -%}
{%- endif -%}
{%- endfor -%}
{{- @bos@ -}}
"""

_LOOP = """\
{%- for message in messages -%}
{%- if message['role'] != 'system' -%}
@content@{%- if message['role'] == 'user' -%}
@user@
{%- elif message['role'] == 'assistant' -%}
@assistant@
{%- else -%}
{{- raise_exception('roles are system, user and assistant; got ' + message['role']) -}}
{%- endif -%}
{%- set ns.index = ns.index + 1 -%}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- @open@ -}}{%- endif -%}
"""


def chat_template(conversation: Any, style: Style, bos_token: str | None, content: str = _CONTENT) -> str:
    """The template of an upstream `Conversation`, as llava-hf's `chat_template.jinja`.

    `bos_token` is None for a tokenizer that puts no BOS in front. `content` is the jinja that leaves a message's text
    in `ns.text`, pictures first; in it `@picture@` is llava-hf's mark of a picture and `@after@` what follows any mark.
    """
    kind = conversation.sep_style.name
    pieces = _PIECES[kind](conversation)
    bos = (bos_token + style.bos_gap) if bos_token else ""
    content = _with_marks(content, style)
    values = {
        "system": _quote(conversation.system),
        "system_head": _quote(pieces.system_head),
        "bos": _quote(bos),
        "user": pieces.user,
        "assistant": pieces.assistant,
        "open": _quote(pieces.open),
        "image": _quote(IMAGE_TOKEN + style.gap),
    }
    text = (_SYSTEM + pieces.prefix + _LOOP).replace("@content@", content)
    for key, value in values.items():
        text = text.replace(f"@{key}@", value)
    return text


_OWN = """\
{%- set ns = namespace(text='', words='', joint='', messages=[]) -%}
{%- for message in messages -%}
@content@{%- set ns.messages = ns.messages + [dict(message, content=ns.text)] -%}
{%- endfor -%}
{%- set messages = ns.messages -%}
{%- set enable_thinking = false -%}
{%- set date_string = @date@ -%}
{%- macro strftime_now(format) -%}{{- @date@ -}}{%- endmacro -%}
{{- @bos@ -}}
"""
_OWN_BEGIN = _OWN.partition("\n")[0]
_OWN_END = "{%- macro strftime_now(format) -%}"


def own_chat_template(own: str, style: Style, bos_token: str | None, content: str = _CONTENT) -> str:
    """A tokenizer's own chat template with pictures in it, which takes messages of text alone otherwise.

    Each message's parts become one text, pictures first; thoughts are off and the day is the one of training.
    `bos_token`: what the tokenizer put in front, or None; written where the template does not. `content` is as for
    `chat_template`.
    """
    bos = "" if bos_token is None or "bos_token" in own or bos_token in own else bos_token
    head = _OWN.replace("@content@", _with_marks(content, style)).replace("@date@", _quote(DATE))
    return head.replace("@bos@", _quote(bos)) + own


def without_pictures(template: str) -> str:
    """A tokenizer's own chat template again, of what `own_chat_template` made of it; any other is left as it is."""
    if not template.startswith(_OWN_BEGIN) or _OWN_END not in template:
        return template
    return template.partition(_OWN_END)[2].split("\n", 2)[2]  # behind the rest of its line, and that of the BOS


def _with_marks(content: str, style: Style) -> str:
    """Jinja of a message's content with what this style writes after a picture."""
    content = content.replace("@picture@", _quote(IMAGE_TOKEN + style.gap + style.newline))
    return content.replace("@after@", _quote(style.gap + style.newline))


@dataclass(frozen=True)
class _Pieces:
    """Jinja for one separator style: what precedes the turns, a user's turn, an answer, and the open end."""

    prefix: str
    user: str
    assistant: str
    open: str
    system_head: str = ""


def _answer(expression: str) -> str:
    return "{%- generation -%}{{- " + expression + " -}}{%- endgeneration -%}"


def _named_roles(conversation: Any, end: str) -> _Pieces:
    """`USER: question ASSISTANT: answer</s>` and its relatives (styles SINGLE and TWO)."""
    human, gpt = conversation.roles
    return _Pieces(
        prefix="{{- ns.system + " + _quote(conversation.sep) + " -}}",
        user="{{- " + _quote(f"{human}: ") + " + ns.text + " + _quote(conversation.sep) + " -}}",
        assistant="{{- " + _quote(f"{gpt}:") + " -}}" + _answer("' ' + ns.text + " + _quote(end)),
        open=f"{gpt}:",
    )


def _chatml(conversation: Any) -> _Pieces:
    """`<|im_start|>user\\nquestion<|im_end|>` (style MPT); the system text carries its own head."""
    human, gpt = conversation.roles
    head = re.match(r"[^\n]*\n*", conversation.system)
    return _Pieces(
        prefix="{{- ns.system + " + _quote(conversation.sep) + " -}}",
        user="{{- " + _quote(human) + " + ns.text + " + _quote(conversation.sep) + " -}}",
        assistant="{{- " + _quote(gpt) + " -}}" + _answer("ns.text + " + _quote(conversation.sep)),
        open=gpt,
        system_head=head.group() if head else "",
    )


def _llama_2(conversation: Any) -> _Pieces:
    """`[INST] question [/INST] answer </s>`; the system text stands inside the first instruction."""
    system = "('<<SYS>>\\n' + ns.system + '\\n<</SYS>>\\n\\n' if ns.system and ns.index == 0 else '')"
    begin = "(" + _quote(conversation.sep) + " if ns.index else '')"
    return _Pieces(
        prefix="",
        user="{{- " + begin + " + '[INST] ' + " + system + " + ns.text + ' [/INST]' -}}",
        assistant=_answer("' ' + ns.text + " + _quote(f" {conversation.sep2}")),
        open="",
    )


def _plain(conversation: Any) -> _Pieces:
    """Stage 1: a picture and its caption, without words of the user."""
    user = "{{- @image@ -}}"
    return _Pieces(prefix="", user=user, assistant=_answer("ns.text + " + _quote(conversation.sep)), open="")


_PIECES = {
    "TWO": lambda conversation: _named_roles(conversation, conversation.sep2),
    "SINGLE": lambda conversation: _named_roles(conversation, conversation.sep),
    "MPT": _chatml,
    "LLAMA_2": _llama_2,
    "PLAIN": _plain,
}


def _quote(text: str) -> str:
    """A jinja string literal."""
    return json.dumps(text)
