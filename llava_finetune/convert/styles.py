"""Which style of chat template gives a tokenizer the ids that training gave it, found by trying them all.

style = choose_style([(probe, input_ids)], tokenizer, "vicuna_v1", image_token)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from data_prep.records.marks import IMAGE_TOKEN_INDEX
from llava_finetune.convert.probes import Probe
from llava_finetune.convert.template import STYLES, Style, chat_template, own_chat_template
from llava_finetune.data.masking import adds_bos
from llava_finetune.data.own_template import NAME as OWN
from llava_finetune.data.templates import conversation
from llava_finetune.errors import UserError


def choose_style(
    references: Sequence[tuple[Probe, list[int]]], tokenizer: Any, template: str, image_token: int
) -> Style:
    """The template style whose tokenisation gives upstream's ids for every probe.

    `tokenizer` is the exported one, with `<image>` in it. Raises UserError when no style does.
    """
    problems = []
    for style in STYLES:
        text = render_template(template, style, tokenizer)
        problem = ""
        for probe, expected in references:
            rendered = tokenizer.apply_chat_template(
                probe.messages, chat_template=text, tokenize=False, add_generation_prompt=probe.is_open
            )
            ids = list(tokenizer(rendered, add_special_tokens=False).input_ids)
            problem = problem or difference_of_ids(expected, ids, image_token, tokenizer, probe.name)
        if not problem:
            return style
        problems.append(problem)
    problem = problems[0]
    raise UserError(
        f'no chat template gives this tokenizer the ids of training with "{template}": {problem}. '
        "The exported model would see another prompt than the trained one, so nothing was written"
    )


def render_template(template: str, style: Style, tokenizer: Any) -> str:
    """The chat template text of an upstream conversation for one tokenizer."""
    bos = tokenizer.bos_token if adds_bos(tokenizer) else None
    if template == OWN:
        return own_chat_template(tokenizer.chat_template, style, bos)
    return chat_template(conversation(template), style, bos)


def difference_of_ids(ours: Sequence[int], theirs: Sequence[int], image_token: int, tokenizer: Any, name: str) -> str:
    """Empty when two id lists agree, a run of picture tokens counting as one picture; else where they part."""
    left, right = _stretches(ours, IMAGE_TOKEN_INDEX), _stretches(theirs, image_token)
    if left == right:
        return ""
    for a, b in zip(left, right, strict=False):
        if a != b:
            at = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
            shown = [tokenizer.convert_ids_to_tokens(list(ids[max(0, at - 1) : at + 3])) for ids in (a, b)]
            return f"{name}: expected ...{shown[0]}, got ...{shown[1]}"
    return f"{name}: expected {len(left)} stretches of text, got {len(right)}"


def _stretches(ids: Sequence[int], picture: int) -> list[list[int]]:
    """The stretches of text between pictures, empty ones dropped."""
    out: list[list[int]] = [[]]
    for token in ids:
        if token == picture:
            out.append([])
        else:
            out[-1].append(token)
    return [stretch for stretch in out if stretch]
