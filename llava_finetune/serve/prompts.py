"""Messages with pictures as a prompt: the ids that training would have written, and the pixel values.

prompt = build_prompt(loaded, [Message("user", "What is this?", (picture,))])
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from data_prep.check.texts import LONE_SURROGATE
from data_prep.records.marks import IMAGE_TOKEN
from llava_finetune.errors import UserError

CHARACTERS_PER_TOKEN = 32
"""A text of more characters than this for each token of the context cannot fit; a token rarely has more than 16."""


@dataclass(frozen=True)
class Message:
    """One message of a conversation: role (system, user or assistant), text, and RGB pictures of a user's message."""

    role: str
    text: str
    pictures: tuple[Any, ...] = ()


@dataclass(frozen=True)
class Prompt:
    """Token ids with -200 for a picture, pixel values and (width, height) of each picture, positions it all takes.

    A family of transformers' own classes has every token of a picture in its ids, and its pictures in `seen`.
    """

    input_ids: list[int]
    pixel_values: list[torch.Tensor]
    sizes: list[tuple[int, int]]
    length: int
    seen: Sequence[Any] = ()


def build_prompt(loaded: Any, messages: Sequence[Message]) -> Prompt:
    """The prompt that asks for the next answer.

    Raises UserError when the roles do not alternate, a text holds `<image>`, or the context is full.
    """
    from llava_finetune.data.dataset import num_image_tokens, process_image

    require_readable(messages, loaded.context_length)
    system, turns = turns_of(messages)
    if loaded.family is not None:
        return _family_prompt(loaded, system, turns, [picture for each in messages for picture in each.pictures])
    ids = ids_with_system(turns, system, loaded.template, loaded.tokenizer)
    pictures = [picture for message in messages for picture in message.pictures]
    config, tower = loaded.model.config, loaded.model.get_vision_tower()
    length = len(ids) + sum(num_image_tokens(config, tower, picture.size) - 1 for picture in pictures)
    _require_room(loaded, length)
    pixels = [process_image(picture, loaded.image_processor, config) for picture in pictures]
    return Prompt(ids, pixels, [picture.size for picture in pictures], length)


def require_readable(messages: Sequence[Message], context_length: int) -> None:
    """Raise UserError for texts that cannot fit into the context, or hold what is no character, before they are cut."""
    require_fitting(sum(len(message.text) for message in messages), context_length)
    for message in messages:
        if found := LONE_SURROGATE.search(message.text):
            at = f"character {found.start() + 1}"
            raise UserError(f"a message holds half of a surrogate pair ({at}), which is no character; write it again")


def require_fitting(length: int, context_length: int) -> None:
    """Raise UserError for more characters than the context's tokens can hold."""
    most = context_length * CHARACTERS_PER_TOKEN
    if length > most:
        raise UserError(
            f"the messages hold {length:,} characters, and the model reads {context_length} tokens (at most "
            f"{most:,} characters are looked at); shorten them"
        )


def turns_of(messages: Sequence[Message]) -> tuple[str | None, list[dict[str, str]]]:
    """The system text (None: the training's own) and human/gpt turns that end with the user's."""
    system = None
    turns: list[dict[str, str]] = []
    for message in messages:
        if IMAGE_TOKEN in message.text:
            raise UserError(
                f"a message holds the text {IMAGE_TOKEN}, which stands for a picture; attach pictures, do not write it"
            )
        if message.role == "system":
            system = message.text if system is None else f"{system}\n{message.text}"
            continue
        expected = "user" if len(turns) % 2 == 0 else "assistant"
        if message.role != expected:
            raise UserError(
                f'message {len(turns) + 1} is from "{message.role}", expected "{expected}": turns alternate'
            )
        marks = f"{IMAGE_TOKEN}\n" * len(message.pictures)
        turns.append(
            {"from": "human" if expected == "user" else "gpt", "value": (marks + message.text.strip()).strip()}
        )
    if len(turns) % 2 == 0:
        raise UserError("the last message must be the user's: there is nothing to answer")
    return system, turns


def _require_room(loaded: Any, length: int) -> None:
    if length >= loaded.context_length:
        raise UserError(
            f"the conversation takes {length} tokens, pictures included, and the model reads {loaded.context_length}; "
            "shorten it, or send fewer pictures"
        )


def _family_prompt(loaded: Any, system: str | None, turns: Sequence[dict[str, str]], pictures: Sequence[Any]) -> Prompt:
    """The prompt by the family's own chat template and pictures."""
    from llava_finetune.model.families.chat import segments
    from llava_finetune.model.families.encoder import encode

    family = loaded.family
    begin: list[dict[str, Any]] = [{"from": "system", "value": system}] if system is not None else []
    pieces = segments([*begin, *turns, {"from": "gpt", "value": None}], family.render, family.end)
    made = encode(family, pieces, family.see(pictures))
    _require_room(loaded, len(made.input_ids))
    return Prompt(made.input_ids, [], [], len(made.input_ids), made.seen)


def ids_with_system(turns: Sequence[dict[str, str]], system: str | None, template: str, tokenizer: Any) -> list[int]:
    """Prompt ids; a given `system` text stands where the template's own does."""
    from llava_finetune.data.masking import encode_segments, prompt_ids
    from llava_finetune.data.own_template import NAME as OWN
    from llava_finetune.data.own_template import own_segments
    from llava_finetune.data.rendering import segments
    from llava_finetune.data.templates import conversation

    if system is None:
        return prompt_ids(turns, template, tokenizer)
    if template == OWN:
        begin = {"from": "system", "value": system}
        return encode_segments(own_segments([begin, *turns, {"from": "gpt", "value": None}], tokenizer), tokenizer)[0]
    own = conversation(template)
    if own.sep_style.name == "PLAIN":
        raise UserError(f'the template "{template}" has no place for a system message')
    pieces = segments([*turns, {"from": "gpt", "value": None}], template)  # type: ignore[dict-item,list-item]
    head = re.match(r"[^\n]*\n*", own.system) if own.sep_style.name == "MPT" else None
    wanted = (head.group() if head else "") + system
    first = pieces[0].text
    if own.system:
        first = first.replace(own.system, wanted, 1)
    else:
        first = first.replace("[INST] ", f"[INST] <<SYS>>\n{system}\n<</SYS>>\n\n", 1)
    return encode_segments([type(pieces[0])(first), *pieces[1:]], tokenizer)[0]
