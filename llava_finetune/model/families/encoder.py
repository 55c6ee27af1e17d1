"""Records as examples of a family: ids with every token of its pictures, labels on the answers, pictures as tensors.

example = FamilyEncoder(family, Path("pictures"), max_length=2048).example(record, index=0)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from data_prep.records.marks import IGNORE_INDEX
from data_prep.records.record import open_image
from llava_finetune.data.collator import Batch
from llava_finetune.data.dataset import is_independent, paths_below, require_marks
from llava_finetune.data.example import Example, Picture
from llava_finetune.data.masking import overlaps, separate
from llava_finetune.data.segment import Segment
from llava_finetune.errors import UserError
from llava_finetune.model.families.chat import pictures_in, segments
from llava_finetune.model.families.family import Family, Seen


@dataclass(frozen=True, eq=False)
class FamilyExample(Example):
    """An example with its pictures as the model takes them; `rows`, where questions are independent, one for each."""

    seen: Sequence[Seen] = ()
    rows: tuple[FamilyExample, ...] = ()

    def paths(self) -> list[Example]:
        return list(self.rows) or [self]

    def untaught(self) -> Example:
        rows = tuple(replace(row, labels=torch.full_like(row.labels, IGNORE_INDEX)) for row in self.rows)
        return replace(self, labels=torch.full_like(self.labels, IGNORE_INDEX), rows=rows)


@dataclass(frozen=True)
class Encoded:
    """Ids and labels (-100 where nothing is taught) of one conversation, the pictures that are left, and whether its
    end was cut off."""

    input_ids: list[int]
    labels: list[int]
    seen: Sequence[Seen]
    is_cut: bool


def encode(family: Family, pieces: Sequence[Segment], seen: Sequence[Seen], max_length: int | None = None) -> Encoded:
    """Ids of pieces with their pictures, cut at `max_length` but never through a picture: that one is left out whole.

    A token is taught when one of its characters lies in a taught piece.
    """
    text, marks, used = "", [], 0
    for piece in pieces:
        count = 0 if piece.supervised else pictures_in(piece.text)
        words = piece.text if piece.supervised else family.expand(piece.text, seen[used : used + count])
        used += count
        marks += [(len(text), len(text) + len(words))] if piece.supervised else []
        text += words
    ids, spans = family.tokenize(text)
    labels = [token if overlaps(span, marks) else IGNORE_INDEX for token, span in zip(ids, spans, strict=True)]
    if not max_length or len(ids) <= max_length:
        return Encoded(ids, labels, seen, is_cut=False)
    cut, kept = _cut(family, ids, seen, max_length)
    return Encoded(ids[:cut], labels[:cut], seen[:kept], is_cut=True)


def _cut(family: Family, ids: Sequence[int], seen: Sequence[Seen], max_length: int) -> tuple[int, int]:
    """Where a sequence that is too long ends, and how many of its pictures are left."""
    token = family.tokenizer.convert_tokens_to_ids(family.image_token)
    places = [index for index, one in enumerate(ids) if one == token]
    if not family.pictures_stand_alone and places and places[-1] >= max_length:
        return min(max_length, places[0]), 0
    first = 0
    for kept, picture in enumerate(seen):
        last = first + picture.num_tokens
        if places[last - 1] >= max_length:
            return min(max_length, places[first]), kept
        first = last
    return max_length, len(seen)


@dataclass(frozen=True)
class FamilyEncoder:
    """What turns a record into an example of a family. `independent_turns` None: each record says it by itself."""

    family: Family
    image_folder: Path | None
    max_length: int | None = None
    independent_turns: bool | None = None
    cache: None = None

    @property
    def template(self) -> str:
        """What is written into a run's files for the template's name."""
        return self.family.name

    def example(self, record: Mapping[str, Any], index: int) -> FamilyExample:
        """The record as an example. Raises UserError that names it; DataError for a picture that cannot be read."""
        name = str(record.get("id", index))
        require_marks(record)
        opened = [(path, open_image(path)) for path in paths_below(self.image_folder, record)]
        try:
            seen = self.family.see([image for _, image in opened])
            conversation = list(record["conversations"])
            independent = is_independent(record, self.independent_turns)
            turns = [self._own(conversation)] if not independent else separate(conversation)
            rows = tuple(self._row(name, one, seen, index) for one in turns)
        except UserError as error:
            raise UserError(f"record {record.get('id')!r}: {error}") from None
        pictures = [Picture(str(path), image.size) for path, image in opened]
        tokens = [one.num_tokens for one in seen]
        first = replace(rows[0], pictures=pictures, image_tokens=tokens)
        if not independent:
            return first
        is_cut = any(row.text_is_cut for row in rows)
        return replace(first, rows=rows, branches=tuple(range(len(rows))), text_is_cut=is_cut)

    def num_tokens(self, record: Mapping[str, Any]) -> int:
        """Positions that a record takes, negative without a picture; its pictures are opened for it."""
        example = self.example(record, 0)
        length = sum(path.length for path in example.paths())
        return length if example.pictures else -length

    def prompt(self, text: str, images: Sequence[Image.Image]) -> Encoded:
        """A question alone, with its pictures, up to where the answer begins."""
        turns: list[dict[str, Any]] = [{"from": "human", "value": text}, {"from": "gpt", "value": None}]
        return encode(self.family, segments(turns, self.family.render, self.family.end), self.family.see(images))

    def _row(self, name: str, turns: Sequence[Mapping[str, Any]], seen: Sequence[Seen], index: int) -> FamilyExample:
        pieces = segments(turns, self.family.render, self.family.end)
        if not any(piece.supervised for piece in pieces):
            raise UserError("no supervised token: there is no answer in it")
        made = encode(self.family, pieces, seen, self.max_length)
        ids, labels = torch.tensor(made.input_ids), torch.tensor(made.labels)
        return FamilyExample(name, ids, labels, len(ids), text_is_cut=made.is_cut, index=index, seen=made.seen)

    def _own(self, conversation: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
        """The turns from the first of the human's or of the system's on, as upstream takes them."""
        return conversation[bool(conversation) and conversation[0]["from"] == "gpt" :]


@dataclass(frozen=True)
class FamilyCollator:
    """Examples of a family as one padded batch; independent questions take a row each."""

    family: Family
    max_length: int | None = None
    unpadded: bool = False

    def __call__(self, examples: Sequence[Example]) -> Batch:
        rows: list[Any] = [path for example in examples for path in example.paths()]
        batch: Any = self.family.batch([row.input_ids for row in rows], [row.seen for row in rows])
        pad = torch.nn.utils.rnn.pad_sequence
        batch["labels"] = pad([row.labels for row in rows], True, IGNORE_INDEX)
        batch["record_ids"] = [example.id for example in examples]
        batch["record_indices"] = [example.index for example in examples]
        batch["num_tokens"] = sum(len(row.input_ids) for row in rows)
        return batch  # type: ignore[no-any-return]
