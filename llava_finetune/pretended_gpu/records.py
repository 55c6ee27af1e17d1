"""Made-up records of wanted lengths: so many tokens of text, so many of them taught, so many pictures.

Lengths are in tokens of the folder's own tokenizer, to the token, so that a training on them is as long as planned.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from data_prep.records.marks import IGNORE_INDEX
from llava_finetune.data.masking import encode
from llava_finetune.errors import UserError
from llava_finetune.planning.setting import Setting
from llava_finetune.planning.shapes import Shape

TEMPLATE = "mistral_instruct"
"""The template with the fewest tokens of its own."""
FILLER = "a"
"""A text that is one token more where it is added."""


def write_records(folder: Path, shape: Shape, setting: Setting, number: int, texts: Sequence[int] = ()) -> Path:
    """`number` records in `folder`/records.json, with pictures that take the most tokens.

    Each has its own, unless as many of a batch share them as `setting` says. `texts`: tokens of text of each record of
    a batch, where they are not alike.
    """
    from PIL import Image

    wanted = texts or (setting.text_tokens,) * setting.batch
    turns = {tokens: conversation(folder, replace(setting, text_tokens=tokens)) for tokens in set(wanted)}
    size = picture_size(shape)
    rows = []
    for index in range(number):
        batch, place = divmod(index, setting.batch)
        own = batch * setting.batch + place * setting.num_pictures // setting.batch
        names = [f"{own}-{picture}.png" for picture in range(setting.images)]
        for name in names:
            Image.new("RGB", size, (own % 256, 90, 90)).save(folder / name)
        row: dict[str, Any] = {
            "id": str(index),
            "conversations": _begun_by(chr(ord("b") + place), turns[wanted[place]]),
        }
        rows.append(row | ({"image": names} if names else {}))
    path = folder / "records.json"
    path.write_text(json.dumps(rows), encoding="utf-8")
    return path


def conversation(folder: Path, setting: Setting) -> list[dict[str, str]]:
    """A question and an answer of `text_tokens` together, `supervised_tokens` of them taught."""
    from llava_finetune.model.building import load_tokenizer

    tokenizer = load_tokenizer(str(folder), None, setting.max_length)
    marks = "<image>\n" * setting.images

    def turns(asked: int, answered: int) -> list[dict[str, str]]:
        asks = {"from": "human", "value": marks + FILLER * asked}
        return [asks, {"from": "gpt", "value": FILLER * answered}]

    def counts(asked: int, answered: int) -> tuple[int, int]:
        encoded = encode(turns(asked, answered), TEMPLATE, tokenizer, None)
        taught = sum(label != IGNORE_INDEX for label in encoded.labels)
        return len(encoded.input_ids) - setting.images, taught

    total, taught = counts(1, 1)
    answered = 1 + max(0, setting.supervised_tokens - taught)
    asked = 1 + max(0, setting.text_tokens - total - (answered - 1))
    found = counts(asked, answered)
    if found != (max(setting.text_tokens, total), max(setting.supervised_tokens, taught)):
        wanted = f"{setting.text_tokens} tokens, {setting.supervised_tokens} of them taught"
        raise UserError(f"records of {wanted}, cannot be made up: {found[0]} and {found[1]} are the nearest")
    return turns(asked, answered)


def _begun_by(letter: str, turns: list[dict[str, str]]) -> list[dict[str, str]]:
    """The turns with another first word, as long: records of one picture part there."""
    head, mark, asked = turns[0]["value"].rpartition("\n")
    return [{**turns[0], "value": head + mark + letter + asked[1:]}, *turns[1:]]


def picture_size(shape: Shape) -> tuple[int, int]:
    """Width and height of a picture that takes the most tokens."""
    side, size = shape.vision.image_size // shape.vision.patch_size, shape.vision.image_size
    if not shape.anyres:
        return size, size
    grids = shape.pinpoints or ((2 * size, 2 * size),)
    return max(grids, key=lambda pair: (pair[0] // size) * (pair[1] // size) * side**2 + pair[1] // size * side)
