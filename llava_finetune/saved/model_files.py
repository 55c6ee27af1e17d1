"""The files of a model's folder by name, and what the folder is by which of them are there.

kind_by(lambda name: (folder / name).is_file())      # "adapter", "projector" or "model"
"""

from __future__ import annotations

from collections.abc import Callable

ADAPTER, PROJECTOR, MODEL = "adapter", "projector", "model"

MANIFEST = "llava_finetune.json"
ADAPTER_CONFIG = "adapter_config.json"
BESIDE_ADAPTER = "non_lora_trainables.bin"
"""What an adapter's run trained besides: the projector, and a tuned tower."""
PROJECTOR_WEIGHTS = "mm_projector.bin"
SINGLE_FILES = ("model.safetensors", "pytorch_model.bin")
INDEX_FILES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
"""A whole model's weights: in one file, or in the files that an index names."""

TOKENIZERS = ("tokenizer.model", "tokenizer.json", "vocab.json")
"""A folder without any of these has no tokenizer."""
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
)


def kind_by(has: Callable[[str], object]) -> str:
    """adapter, projector or model. `has` tells whether a file of a name is there; a hub may be asked, so few are."""
    if has(ADAPTER_CONFIG):
        return ADAPTER
    if has(PROJECTOR_WEIGHTS) and not has_weights(has):
        return PROJECTOR
    return MODEL


def has_weights(has: Callable[[str], object]) -> bool:
    """Whether whole-model weights are there."""
    return any(has(name) for name in (*SINGLE_FILES, *INDEX_FILES))
