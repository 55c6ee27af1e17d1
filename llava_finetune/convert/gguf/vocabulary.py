"""A tokenizer as llama.cpp holds it: token texts, their types, and scores (SentencePiece) or merges (byte-level BPE).

Read from the tokenizer as training loaded it, not from its files: transformers rebuilds some tokenizers while loading.

    vocabulary = read_vocabulary(tokenizer, rows=49280)
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from gguf import TokenType

from llava_finetune.convert.gguf.pre_tokenizers import token_splitter
from llava_finetune.errors import UserError

SENTENCEPIECE, BYTE_LEVEL = "llama", "gpt2"
BYTE = re.compile(r"<0x[0-9A-F]{2}>")
NO_SCORE = -1e4
"""Score of a piece that no merge makes (a letter, an added token): below every merge's."""


@dataclass(frozen=True)
class Vocabulary:
    """`model` is llama.cpp's name of the algorithm, `pre` of how text is cut before it; one entry per row.

    `space_prefix`: llama.cpp puts a space before a text and after each special token by itself.
    """

    model: str
    pre: str
    tokens: list[str]
    types: list[int]
    special: Mapping[str, int]
    scores: list[float] = field(default_factory=list)
    merges: list[str] = field(default_factory=list)
    space_prefix: bool = False

    def add_to(self, writer: Any) -> None:
        """Write the tokenizer's keys. BOS and EOS are never added by the engine: the chat template writes them."""
        writer.add_tokenizer_model(self.model)
        writer.add_tokenizer_pre(self.pre)
        writer.add_token_list(self.tokens)
        writer.add_token_types(self.types)
        if self.model == SENTENCEPIECE:
            writer.add_token_scores(self.scores)
        else:
            writer.add_token_merges(self.merges)
        writer.add_add_space_prefix(self.space_prefix)
        for name, token in self.special.items():
            getattr(writer, f"add_{name}_token_id")(token)
        writer.add_add_bos_token(False)
        writer.add_add_eos_token(False)


def read_vocabulary(tokenizer: Any, rows: int, end: int | None = None) -> Vocabulary:
    """The vocabulary of a loaded tokenizer, filled up to the embedding's `rows`; `end` is the token that ends an
    answer.

    Raises UserError, naming it, for an algorithm or a way of cutting text that llama.cpp has not.
    """
    backend = backend_of(tokenizer)
    model = backend["model"]
    name = tokenizer.name_or_path or type(tokenizer).__name__
    if model.get("type") != "BPE":
        raise UserError(
            f"{name}: a tokenizer of the kind {model.get('type')} cannot be written as GGUF here; supported: "
            "SentencePiece of the kind BPE (Llama 2, Vicuna, Mistral) and byte-level BPE (SmolLM2, Llama 3, Qwen)"
        )
    tokens, types = _tokens(tokenizer, backend, rows)
    special = _special(tokenizer, rows, end)
    if model.get("byte_fallback"):
        scores = _scores(tokens, [_pair(merge) for merge in model["merges"]], name)
        types = [_sentencepiece_type(text, kind) for text, kind in zip(tokens, types, strict=True)]
        if "unk" in special:
            types[special["unk"]] = TokenType.UNKNOWN
        return Vocabulary(SENTENCEPIECE, "default", tokens, types, special, scores=scores)
    merges = [" ".join(_pair(merge)) for merge in model["merges"]]
    return Vocabulary(BYTE_LEVEL, token_splitter(backend, name), tokens, types, special, merges=merges)


def backend_of(tokenizer: Any) -> dict[str, Any]:
    """The tokenizer.json of a loaded tokenizer. Raises UserError for a tokenizer that has none."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise UserError(f"{type(tokenizer).__name__} has no tokenizer.json, from which GGUF's vocabulary is read")
    found: dict[str, Any] = json.loads(backend.to_str())
    return found


def _pair(merge: Any) -> tuple[str, str]:
    left, right = merge.split(" ") if isinstance(merge, str) else merge
    return left, right


def _tokens(tokenizer: Any, backend: Mapping[str, Any], rows: int) -> tuple[list[str], list[int]]:
    """Text and type per row: added special tokens are CONTROL, other added ones USER_DEFINED, empty rows UNUSED."""
    tokens, types = [f"[PAD{row}]" for row in range(rows)], [int(TokenType.UNUSED)] * rows
    for text, row in backend["model"]["vocab"].items():
        if row < rows:
            tokens[row], types[row] = text, int(TokenType.NORMAL)
    for added in backend["added_tokens"]:
        if added["lstrip"] or added["rstrip"]:
            raise UserError(
                f"{tokenizer.name_or_path}: the added token {added['content']!r} takes spaces around it away; "
                "llama.cpp does not, so the model would read other tokens than in training"
            )
        if added["id"] < rows:
            kind = TokenType.CONTROL if added["special"] else TokenType.USER_DEFINED
            tokens[added["id"]], types[added["id"]] = added["content"], int(kind)
    return tokens, types


def _special(tokenizer: Any, rows: int, end: int | None) -> dict[str, int]:
    ids = {name: getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "unk", "pad")}
    if end is not None and end != ids["eos"]:
        ids["eot"] = end
    beyond = [name for name, token in ids.items() if token is not None and token >= rows]
    if beyond:
        raise UserError(
            f"{tokenizer.name_or_path}: its {beyond[0]} token is {ids[beyond[0]]}, the model has {rows} rows"
        )
    return {name: int(token) for name, token in ids.items() if token is not None}


def _scores(tokens: list[str], merges: list[tuple[str, str]], name: str) -> list[float]:
    """SentencePiece's score of each piece, from the order of the merges: the earlier, the higher.

    All merges that make one piece have its score, so they must follow one another; else the two algorithms differ.
    """
    rank: dict[str, int] = {}
    last = ""
    for left, right in merges:
        piece = left + right
        if piece != last and piece in rank:
            raise UserError(
                f"{name}: merges that make {piece!r} stand apart; this is no SentencePiece tokenizer, and llama.cpp "
                "would split text otherwise"
            )
        rank.setdefault(piece, len(rank))
        last = piece
    return [-float(rank[text]) if text in rank else NO_SCORE for text in tokens]


def _sentencepiece_type(text: str, kind: int) -> int:
    return int(TokenType.BYTE) if kind == TokenType.NORMAL and BYTE.fullmatch(text) else kind
