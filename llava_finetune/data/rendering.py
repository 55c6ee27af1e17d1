"""Turns rendered into the pieces of a prompt's text, each taught or not, by the rules of every style of conversation.

segments(record["conversations"], "vicuna_v1")      # [Segment("A chat ..."), ..., Segment(" pony tail</s>", True)]
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from data_prep.records.marks import IMAGE_TOKEN
from llava_finetune.data.own_template import NAME as OWN
from llava_finetune.data.own_template import own_segments
from llava_finetune.data.segment import Segment, single_image_first
from llava_finetune.data.templates import conversation as conversation_of
from llava_finetune.errors import UserError

Turn = Mapping[str, Any]


def segments(conversations: Sequence[Turn], template: str, tokenizer: Any = None) -> list[Segment]:
    """Render turns as upstream's `Conversation.get_prompt` would, split into taught and untaught pieces.

    A first turn that is not the human's is dropped, as upstream does. An answer of None leaves the prompt open.
    The tokenizer is needed for its own chat template.
    """
    turns = from_human(conversations)
    for index, turn in enumerate(turns):
        expected = ("human", "gpt")[index % 2]
        if turn["from"] != expected:
            raise UserError(f'turn {index + 1} is from "{turn["from"]}", expected "{expected}": turns must alternate')
    if template == OWN:
        return own_segments(turns, tokenizer)
    conversation = conversation_of(template)
    render = _RENDERERS[conversation.sep_style.name]
    return [segment for segment in render(conversation, turns) if segment.text]


def _message(conversation: Any, value: str) -> str:
    value = single_image_first(value)
    if "mmtag" in conversation.version:
        value = value.replace(IMAGE_TOKEN, f"<Image>{IMAGE_TOKEN}</Image>")
    return value


def _render_named(conversation: Any, turns: Sequence[Turn], end: str) -> list[Segment]:
    """`USER: question ASSISTANT: answer` and its relatives; `end` closes an answer."""
    out = [Segment(conversation.system + conversation.sep)]
    human, gpt = conversation.roles
    for turn in turns:
        if turn["from"] == "human":
            out.append(Segment(f"{human}: {_message(conversation, turn['value'])}{conversation.sep}"))
        elif turn["value"] is None:
            out.append(Segment(f"{gpt}:"))
        else:
            out += [Segment(f"{gpt}:"), Segment(f" {turn['value']}{end}", True)]
    return out


def _render_two(conversation: Any, turns: Sequence[Turn]) -> list[Segment]:
    return _render_named(conversation, turns, conversation.sep2)


def _render_single(conversation: Any, turns: Sequence[Turn]) -> list[Segment]:
    return _render_named(conversation, turns, conversation.sep)


def _render_mpt(conversation: Any, turns: Sequence[Turn]) -> list[Segment]:
    out = [Segment(conversation.system + conversation.sep)]
    human, gpt = conversation.roles
    for turn in turns:
        if turn["from"] == "human":
            out.append(Segment(human + _message(conversation, turn["value"]) + conversation.sep))
        elif turn["value"] is None:
            out.append(Segment(gpt))
        else:
            out += [Segment(gpt), Segment(turn["value"] + conversation.sep, True)]
    return out


def _render_llama_2(conversation: Any, turns: Sequence[Turn]) -> list[Segment]:
    out: list[Segment] = []
    for index, turn in enumerate(turns):
        if turn["from"] == "human":
            text = _message(conversation, turn["value"])
            if index == 0 and conversation.system:
                text = f"<<SYS>>\n{conversation.system}\n<</SYS>>\n\n{text}"
            # The tokenizer puts the first BOS; upstream strips it from the text for that reason.
            begin = conversation.sep if index else ""
            out.append(Segment(f"{begin}[INST] {text} [/INST]"))
        elif turn["value"] is not None:
            out.append(Segment(f" {turn['value']} {conversation.sep2}", True))
    return out


def _render_plain(conversation: Any, turns: Sequence[Turn]) -> list[Segment]:
    """Stage 1: the picture, then its caption; the human's words are dropped, as upstream does."""
    if len(turns) != 2 or IMAGE_TOKEN not in turns[0]["value"]:
        raise UserError(
            f'the "plain" template takes one {IMAGE_TOKEN} and one caption, this record has {len(turns)} turns; '
            "choose a chat template with --version"
        )
    caption = turns[1]["value"]
    return [Segment(IMAGE_TOKEN), *([Segment(caption + conversation.sep, True)] if caption is not None else [])]


def from_human(conversations: Sequence[Turn]) -> list[Turn]:
    """The turns from the human's first on, as upstream takes them."""
    return list(conversations)[bool(conversations) and conversations[0]["from"] != "human" :]


_RENDERERS = {
    "TWO": _render_two,
    "SINGLE": _render_single,
    "MPT": _render_mpt,
    "LLAMA_2": _render_llama_2,
    "PLAIN": _render_plain,
}
