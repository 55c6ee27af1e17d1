"""How a byte-level BPE tokenizer cuts text before merging, recognised among those that llama.cpp has by name.

Why by what it does and not by the model's name: a wrong name loads, and answers a little worse for ever.

    token_splitter(tokenizer_json, "merged")        # "smollm"
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from llava_finetune.errors import UserError

Step = tuple[str, ...]

LLAMA_3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
QWEN_2 = LLAMA_3.replace(r"\p{N}{1,3}", r"\p{N}")
TEKKEN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
BYTES, BYTES_ONLY, DIGITS = ("bytes", "words"), ("bytes",), ("digits",)

COMPOSED = {"type": "NFC"}
"""Qwen's normalizer, which writes a letter and its accent as one character: texts mostly are so already."""

#: llama.cpp's name by the steps, and whether a whole word that is a token is taken without merging (ignore_merges).
KNOWN: Mapping[tuple[tuple[Step, ...], bool], str] = {
    ((BYTES,), False): "gpt-2",
    ((DIGITS, BYTES), False): "smollm",
    ((("split", LLAMA_3), BYTES_ONLY), True): "llama-bpe",
    ((("split", QWEN_2), BYTES_ONLY), False): "qwen2",
    ((("split", TEKKEN), BYTES_ONLY), True): "tekken",
}


def token_splitter(backend: Mapping[str, Any], name: str) -> str:
    """llama.cpp's name for what a tokenizer.json does before merging. Raises UserError when it has none."""
    found, ignores_merges = steps(backend), bool(backend["model"].get("ignore_merges"))
    known = KNOWN.get((found, ignores_merges))
    if known is None or backend.get("normalizer") not in (None, COMPOSED):
        shown = json.dumps(backend.get("pre_tokenizer"), ensure_ascii=False)
        raise UserError(
            f"{name}: this tokenizer cuts text in a way that has no known name in llama.cpp (normalizer "
            f"{json.dumps(backend.get('normalizer'))}, pre_tokenizer {shown[:300]}, ignore_merges {ignores_merges}); "
            f"known: {', '.join(KNOWN.values())}. The model would read other tokens than in training, so nothing was "
            f"written"
        )
    return known


def steps(backend: Mapping[str, Any]) -> tuple[Step, ...]:
    """The pre-tokenizer of a tokenizer.json as a flat tuple of steps; an unknown one keeps its own description."""
    part = backend.get("pre_tokenizer") or {}
    parts = part.get("pretokenizers", [part]) if part else []
    return tuple(_step(each) for each in parts)


def _step(part: Mapping[str, Any]) -> Step:
    kind = part.get("type")
    if kind == "ByteLevel" and not part.get("add_prefix_space"):
        return BYTES if part.get("use_regex", True) else BYTES_ONLY
    if kind == "Digits" and part.get("individual_digits"):
        return DIGITS
    if kind == "Split" and part.get("behavior") == "Isolated" and not part.get("invert"):
        return ("split", str(part["pattern"].get("Regex")))
    return ("unknown", json.dumps(part, sort_keys=True))
