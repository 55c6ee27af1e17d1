"""`model_type` of the language models that upstream has no class for, and that get a LLaVA class here.

language_of("llava_qwen3")        # "qwen3"; model/language_models.py has the classes
"""

from __future__ import annotations

PREFIXES = {
    "qwen2": "Qwen2",
    "qwen3": "Qwen3",
    "phi3": "Phi3",
    "gemma2": "Gemma2",
    "gemma3_text": "Gemma3",
    "smollm3": "SmolLM3",
    "olmo2": "Olmo2",
}
"""How transformers' classes of each `model_type` begin."""
OTHER_LANGUAGES = tuple(PREFIXES)


def language_of(model_type: str) -> str | None:
    """The language model below a `model_type` (`qwen3` of qwen3 and llava_qwen3); None for upstream's own."""
    name = model_type.removeprefix("llava_")
    return name if name in PREFIXES else None
