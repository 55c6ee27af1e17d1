"""Which tokens llama.cpp makes of a text with a vocabulary, told without the engine.

Its SentencePiece differs from transformers' in its spaces alone: one stands before the text and after each special
token, or nowhere. Byte-level BPE is the same in both, once the way of cutting text is (`pre_tokenizers`).

    EngineTokens(vocabulary, tokenizer).ids("USER: What is this?")
"""

from __future__ import annotations

import json
import re
from typing import Any

from gguf import TokenType

from llava_finetune.convert.gguf.vocabulary import SENTENCEPIECE, Vocabulary, backend_of

WHOLE = (TokenType.CONTROL, TokenType.USER_DEFINED, TokenType.UNKNOWN)


class EngineTokens:
    """llama.cpp's tokenizer for one vocabulary, special tokens in the text recognised (as its server does)."""

    def __init__(self, vocabulary: Vocabulary, tokenizer: Any) -> None:
        self.vocabulary = vocabulary
        self.tokenizer = tokenizer
        whole = {text: row for row, text in enumerate(vocabulary.tokens) if vocabulary.types[row] in WHOLE}
        self.whole = whole
        ordered = sorted(whole, key=len, reverse=True)
        self.split = re.compile("(" + "|".join(map(re.escape, ordered)) + ")") if ordered else None
        self.merges = _merges_alone(tokenizer) if vocabulary.model == SENTENCEPIECE else None

    def ids(self, text: str) -> list[int]:
        """The ids of one stretch of text, without BOS."""
        if self.merges is None:
            return list(self.tokenizer(text, add_special_tokens=False).input_ids)
        out: list[int] = []
        after_special = True
        for piece in self.split.split(text) if self.split else [text]:
            if piece in self.whole:
                out.append(self.whole[piece])
                after_special = True
            elif piece:
                space = " " if self.vocabulary.space_prefix and after_special else ""
                out += self.merges.encode(space + piece, add_special_tokens=False).ids
                after_special = False
        return out


def _merges_alone(tokenizer: Any) -> Any:
    """The tokenizer without its special tokens and its own rule of spaces: `▁` for a space, then the merges."""
    from tokenizers import Tokenizer

    backend = backend_of(tokenizer)
    backend |= {"added_tokens": [], "normalizer": None, "post_processor": None}
    backend["pre_tokenizer"] = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "never", "split": False}
    return Tokenizer.from_str(json.dumps(backend))
