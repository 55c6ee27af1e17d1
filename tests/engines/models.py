"""Tiny models whose picture matters to their answers, in torch and as GGUF files in llama.cpp's own engine."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.tiny import make_tiny_llava
from tests.tiny_languages import make_tiny_language_llava

MODELS: Mapping[str, Mapping[str, Any]] = {
    "sentencepiece": {},
    # As SmolLM2: byte-level BPE without BOS, grouped heads, tied head, rows beyond the tokens, ChatML.
    "bpe": {"tokenizer": "bytes", "num_key_value_heads": 2, "tie_word_embeddings": True, "vocab_size": 448},
    "legacy": {},
}
TOWERS: Mapping[str, Mapping[str, Any]] = {f"layer {layer}": {"mm_vision_select_layer": layer} for layer in (1, 2)}
"""Towers whose layer is counted from the first one: the last but one of two, and the last."""
LANGUAGES = ("qwen2", "qwen3", "llama3", "smollm3")
"""Language models that upstream has no class for, or no template."""


def make_model(folder: Path, name: str) -> Path:
    """A tiny model whose picture matters to its answers, yet not so much that llama.cpp's table of GELU shows."""
    from safetensors.torch import load_file, save_file

    if name in LANGUAGES:
        make_tiny_language_llava(name, folder)
    else:
        make_tiny_llava(folder, "llava-1.5", **(MODELS | TOWERS)[name])
    path = folder / "model.safetensors"
    state = load_file(path)
    for key, value in state.items():
        if value.ndim == 2 and "vision_tower" not in key:
            state[key] = value * (8 if "mm_projector" in key else 2)
    save_file(state, path, metadata={"format": "pt"})
    if name == "legacy":
        settings = folder / "tokenizer_config.json"
        settings.write_text(settings.read_text().replace('"legacy": false', '"legacy": true'))
    return folder
