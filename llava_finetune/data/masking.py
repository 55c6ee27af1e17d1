"""Turn a conversation into token ids and labels: supervised exactly on the answers and their end tokens.

Upstream has one masker per template, each re-tokenising the rounds and subtracting constants; on any mismatch it masks
the whole sample in silence. Here every template is rendered once into segments, tokenised whole, and a token is
supervised when its characters lie in an answer. One masker serves every template and every tokenizer.

    encoded = encode(record["conversations"], "vicuna_v1", tokenizer)
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from data_prep.records.marks import IGNORE_INDEX, IMAGE_TOKEN, IMAGE_TOKEN_INDEX
from llava_finetune.data.rendering import Turn, from_human, segments
from llava_finetune.data.segment import Segment
from llava_finetune.errors import UserError


@dataclass(frozen=True)
class Encoded:
    """Token ids with -200 for a picture, and labels of the same length with -100 where nothing is taught.

    `spans` are the half-open index ranges of the supervised tokens, one per answer. `branches`, where questions are
    independent, is where each begins: all see the tokens before the first branch, none sees another branch. `is_cut`
    says that the text was longer than allowed and lost its end.
    """

    input_ids: list[int]
    labels: list[int]
    spans: list[tuple[int, int]]
    branches: tuple[int, ...] = ()
    is_cut: bool = False

    @property
    def places(self) -> list[int]:
        """Each token's place in its own path, a picture counted as one; the place in the list without branches."""
        bounds = [*self.branches, len(self.input_ids)]
        shared = bounds[0]
        return [*range(shared), *(shared + i for a, b in itertools.pairwise(bounds) for i in range(b - a))]

    @property
    def num_supervised(self) -> int:
        return sum(label != IGNORE_INDEX for label in self.labels)


SHORT = 500
"""Characters of a text of which every prefix is looked at where a tokenizer tells no offsets."""
AROUND = 32
"""Of a longer one only prefixes that end so few characters before a bound: further back all of them agree."""


def _tokenize(text: str, tokenizer: Any, bounds: Sequence[int] = ()) -> tuple[list[int], list[tuple[int, int]]]:
    """Token ids and their character spans. A tokenizer without offsets gets them from growing prefixes.

    Of a long text only on which side of the `bounds` a token lies is exact then: every prefix would take a square.
    """
    if getattr(tokenizer, "is_fast", False):
        out = tokenizer(text, return_offsets_mapping=True, truncation=False)
        return list(out["input_ids"]), [tuple(span) for span in out["offset_mapping"]]
    ids = list(tokenizer(text, truncation=False).input_ids)
    ends = [0] * len(ids)
    known = 0
    for length in _prefixes(len(text), bounds):
        prefix = tokenizer(text[:length], truncation=False).input_ids
        same = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(prefix, ids, strict=False)))
        for index in range(known, same):
            ends[index] = length
        known = max(known, same)
    starts = [0, *ends[:-1]]
    return ids, [(start, end or len(text)) for start, end in zip(starts, ends, strict=True)]


def _prefixes(length: int, bounds: Sequence[int]) -> Sequence[int]:
    """The lengths of the prefixes that are looked at, growing."""
    if length <= SHORT:
        return range(1, length + 1)
    near = {one for bound in (*bounds, length) for one in range(bound - AROUND, bound + 1)}
    return sorted(one for one in near if 0 < one <= length)


def overlaps(span: tuple[int, int], supervised: Sequence[tuple[int, int]]) -> bool:
    """Whether a token from `start` to `end` has a character in a taught stretch of text."""
    start, end = span
    return any(start < right and left < end for left, right in supervised)


def encode_segments(pieces: Sequence[Segment], tokenizer: Any) -> tuple[list[int], list[int]]:
    """Tokenise between pictures as upstream's `tokenizer_image_token` does: one BOS, the rest joined by -200.

    A picture that stands first (stage 1) gets a BOS before it even from a tokenizer that adds none, as Llama's does for
    upstream: a causal model rests its attention on its first token, and cannot rest it on a picture's patch. At the
    quickstart's settings stage 1 names 25 % of the captions' tokens without it, 96 % with it. Qwen's tokenizers have no
    BOS; their pad token, `<|endoftext|>`, stands before every text that the model learned from.
    """
    text = "".join(piece.text for piece in pieces)
    marks: list[tuple[int, int]] = []
    position = 0
    for piece in pieces:
        if piece.supervised:
            marks.append((position, position + len(piece.text)))
        position += len(piece.text)
    ids: list[int] = []
    labels: list[int] = []
    position = 0
    bos, eos = added_around(tokenizer)
    for index, chunk in enumerate(text.split(IMAGE_TOKEN)):
        chunk_ids, spans = _tokenize(chunk, tokenizer, [edge - position for mark in marks for edge in mark])
        if index == 0:
            first = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.pad_token_id
            if bos or (text and not chunk and first is not None):
                ids.append(first)
                labels.append(IGNORE_INDEX)
        else:
            ids.append(IMAGE_TOKEN_INDEX)
            labels.append(IGNORE_INDEX)
        own = slice(bos, len(chunk_ids) - eos)
        for token, (start, end) in zip(chunk_ids[own], spans[own], strict=True):
            ids.append(token)
            taught = overlaps((position + start, position + end), marks)
            labels.append(token if taught else IGNORE_INDEX)
        position += len(chunk) + len(IMAGE_TOKEN)
    return ids, labels


def adds_bos(tokenizer: Any) -> bool:
    """Whether the tokenizer puts a BOS before every text. A text that begins with the BOS token itself is no sign."""
    return bool(added_around(tokenizer)[0])


def added_around(tokenizer: Any) -> tuple[int, int]:
    """How many tokens the tokenizer puts before and after every text: a BOS, and an EOS with `add_eos_token`.

    The template ends answers itself; an EOS more would stand behind each stretch between pictures and end a question.
    """
    ids = tokenizer("a").input_ids
    bos = int(bool(ids) and ids[0] == tokenizer.bos_token_id)
    return bos, int(len(ids) > bos + 1 and ids[-1] == getattr(tokenizer, "eos_token_id", None))


def spans_of(labels: Sequence[int]) -> list[tuple[int, int]]:
    """The half-open ranges of taught tokens."""
    spans = []
    start: int | None = None
    for index, label in enumerate([*labels, IGNORE_INDEX]):
        if label != IGNORE_INDEX and start is None:
            start = index
        elif label == IGNORE_INDEX and start is not None:
            spans.append((start, index))
            start = None
    return spans


def encode(conversations: Sequence[Turn], template_name: str, tokenizer: Any, max_length: int | None = None) -> Encoded:
    """Token ids and labels of a whole conversation.

    `max_length` counts a picture as one token and cuts the end, as upstream does. Raises UserError when no token
    of an answer is left to learn from.
    """
    ids, labels = encode_segments(segments(conversations, template_name, tokenizer), tokenizer)
    is_cut = len(ids) > (max_length or len(ids))
    encoded = Encoded(ids[:max_length], labels[:max_length], spans_of(labels[:max_length]), is_cut=is_cut)
    if not encoded.num_supervised:
        cut = f" within {max_length} tokens (the record has {len(ids)})" if is_cut else ""
        raise UserError(f"no supervised token{cut}: the answers are empty or cut off; lengthen --model_max_length")
    return encoded


def asked_alone(question: str, first: str) -> str:
    """A question of a conversation with the pictures that `first`, the conversation's first question, has.

    The pictures stand where they stand in `first` if that is before its words, else each on a line before the question.
    """
    count = first.count(IMAGE_TOKEN)
    if question.count(IMAGE_TOKEN) == count:
        return question
    head = re.match(rf"(?:{IMAGE_TOKEN}\s*)*", first)[0]  # type: ignore[index]
    head = head if head.count(IMAGE_TOKEN) == count else f"{IMAGE_TOKEN}\n" * count
    return head + question.replace(IMAGE_TOKEN, "").strip()


def separate(conversations: Sequence[Turn]) -> list[list[Turn]]:
    """Every question of a conversation with its answer, asked alone about the first one's pictures.

    Raises UserError for a question without an answer, and when a picture stands in a later question.
    """
    turns = from_human(conversations)
    if any(IMAGE_TOKEN in turn["value"] for turn in turns[1:]):
        raise UserError(f"independent turns share the first question's pictures, and a later turn has {IMAGE_TOKEN}")
    if len(turns) % 2:
        raise UserError(f"turn {len(turns)} is a question without an answer; independent turns are pairs of both")
    pairs = zip(turns[::2], turns[1::2], strict=True)
    return [[{**human, "value": asked_alone(human["value"], turns[0]["value"])}, gpt] for human, gpt in pairs]


def encode_independent(
    conversations: Sequence[Turn], template_name: str, tokenizer: Any, max_length: int | None = None
) -> Encoded:
    """Token ids and labels of questions about the same pictures, each as if it were asked alone.

    In one conversation the earlier answers stand in view of the later questions: the model learns to read them there
    ("blue" was said before) and not to look. Here the questions share the tokens that they begin with, system prompt
    and pictures, and branch off after them. `max_length` bounds each question's own path. Raises as `encode` and as
    `separate`.
    """
    return joined([encode(pair, template_name, tokenizer, max_length) for pair in separate(conversations)])


def joined(paths: Sequence[Encoded]) -> Encoded:
    """Conversations that begin alike as one: what all share up to their first taught token, then a branch for each."""
    # A branch begins with a token that is not taught: what teaches its first answer token is then in the branch itself.
    shared = min(path.spans[0][0] for path in paths) - 1
    first = paths[0].input_ids
    while any(path.input_ids[:shared] != first[:shared] for path in paths):
        shared -= 1
    ids, labels, branches = first[:shared], paths[0].labels[:shared], []
    for path in paths:
        branches.append(len(ids))
        ids += path.input_ids[shared:]
        labels += path.labels[shared:]
    return Encoded(ids, labels, spans_of(labels), tuple(branches), any(path.is_cut for path in paths))


def prompt_ids(turns: Sequence[Turn], template_name: str, tokenizer: Any) -> list[int]:
    """Token ids of a prompt that ends where the model starts to answer; the last turn is the human's."""
    pieces = segments([*turns, {"from": "gpt", "value": None}], template_name, tokenizer)
    return encode_segments(pieces, tokenizer)[0]
