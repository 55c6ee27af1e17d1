"""Under which of llama.cpp's architectures a language model is written, and how its tensors stand there.

architecture_of("llava_qwen3").name          # "qwen3"
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from gguf import MODEL_ARCH

from llava_finetune.errors import UserError

_PARTS = ("attn_norm", "attn_q", "attn_k", "attn_v", "attn_output", "ffn_norm", "ffn_gate", "ffn_up", "ffn_down")


@dataclass(frozen=True)
class Architecture:
    """llama.cpp's name and number of an architecture, and the tensors that every layer of it has.

    `turns_pairs`: neighbouring pairs of a head's channels are turned, where transformers turns its halves.
    `rotary`: the kinds of rotary scaling that it reads.
    """

    name: str
    number: MODEL_ARCH
    layer: tuple[str, ...]
    turns_pairs: bool = False
    rotary: tuple[str, ...] = ("default", "linear")


_LLAMA = Architecture(
    "llama",
    MODEL_ARCH.LLAMA,
    tuple(f"{part}.weight" for part in _PARTS),
    turns_pairs=True,
    rotary=("default", "linear", "llama3"),
)
_QWEN2 = Architecture("qwen2", MODEL_ARCH.QWEN2, (*_LLAMA.layer, *(f"attn_{part}.bias" for part in ("q", "k", "v"))))
_SMOLLM3 = replace(_LLAMA, name="smollm3", number=MODEL_ARCH.SMOLLM3, rotary=("default", "linear"))
_QWEN3 = Architecture("qwen3", MODEL_ARCH.QWEN3, (*_LLAMA.layer, "attn_q_norm.weight", "attn_k_norm.weight"))

ARCHITECTURES: Mapping[str, Architecture] = {
    **dict.fromkeys(("llava_llama", "llava", "llava_mistral"), _LLAMA),
    "llava_qwen2": _QWEN2,
    "llava_qwen3": _QWEN3,
    "llava_smollm3": _SMOLLM3,
}
"""By the `model_type` of a LLaVA; all but these are refused."""

_WHY: Mapping[str, str] = {
    "llava_phi3": "Phi-3's tokenizer takes the spaces after its marks away, which llama.cpp's does not",
    "llava_gemma2": "llama.cpp scales a picture's features as it does the words of Gemma-2, which training did not",
    "llava_gemma3_text": "Gemma-3's tokenizer has tokens of several spaces, which llama.cpp cuts otherwise",
}


def architecture_of(model_type: str) -> Architecture:
    """The architecture of a LLaVA's `model_type`. Raises UserError for one that is not written, with the reason."""
    if model_type in ARCHITECTURES:
        return ARCHITECTURES[model_type]
    why = f": {_WHY[model_type]}" if model_type in _WHY else ""
    raise UserError(
        f'config.json: model_type "{model_type}" cannot be written as GGUF here{why}; supported: '
        f"{', '.join(name for name in ARCHITECTURES if name != 'llava')}. Serve it with: llava-finetune serve"
    )
