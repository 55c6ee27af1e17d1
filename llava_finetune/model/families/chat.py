"""A record's turns as a chat template writes them, in pieces that are taught and pieces that are not.

for piece in segments(turns, family.render, family.end): print(piece.supervised, piece.text)
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from data_prep.records.marks import IMAGE_TOKEN
from llava_finetune.data.segment import Segment
from llava_finetune.errors import UserError

Turn = Mapping[str, Any]
Render = Callable[[Sequence[Mapping[str, Any]], bool], str]
ROLES = {"human": "user", "gpt": "assistant", "system": "system"}


def messages_of(turns: Sequence[Turn]) -> list[dict[str, Any]]:
    """Turns as messages of parts. Line breaks around `<image>` are upstream's; a template sets pictures its own way."""
    out = []
    for turn in turns:
        if turn["from"] not in ROLES:
            raise UserError(f'a turn is from "{turn["from"]}", expected {" or ".join(ROLES)}')
        text, parts = str(turn["value"]), []
        if turn["from"] == "human":
            for index, piece in enumerate(text.split(IMAGE_TOKEN)):
                parts += [{"type": "image"}] if index else []
                words = piece.strip("\n") if IMAGE_TOKEN in text else piece
                parts += [{"type": "text", "text": words}] if words else []
        elif IMAGE_TOKEN in text:
            raise UserError(f"{IMAGE_TOKEN} stands in an answer; pictures belong to the human's words")
        out.append({"role": ROLES[turn["from"]], "content": parts or [{"type": "text", "text": text}]})
    return out


def segments(turns: Sequence[Turn], render: Render, end: str) -> list[Segment]:
    """The pieces of a conversation: an answer is taught from where a prompt ends to its own end token.

    A prompt is what the template writes when an answer is asked for, so that what is learned is what generation
    begins with. The last answer may be None: then the pieces are a prompt.
    """
    messages = messages_of([turn for turn in turns if turn["value"] is not None])
    out: list[Segment] = []
    done = ""
    for index, turn in enumerate(turns):
        if turn["from"] != "gpt":
            continue
        prompt = render(messages[:index], True)
        if not prompt.startswith(done):
            raise UserError("the chat template writes earlier turns otherwise once others follow; it cannot be taught")
        out.append(Segment(prompt[len(done) :]))
        if turn["value"] is None:
            return out
        whole = render(messages[: index + 1], False)
        stop = whole.rfind(end) + len(end)
        if stop < len(end):
            raise UserError(f"the chat template does not end an answer with {end}; take the base's own template")
        # LLaVA-OneVision's template writes an answer otherwise than it asks for one.
        answer = whole[len(prompt) : stop] if whole.startswith(prompt) else f"{turn['value']}{end}"
        out += [Segment(answer, supervised=True), Segment(whole[stop:])]
        done = whole
    return [piece for piece in out if piece.text]


def pictures_in(text: str) -> int:
    """How many marks of pictures a text holds."""
    return len(re.findall(re.escape(IMAGE_TOKEN), text))
