"""Which bases can be trained and loaded: one message for all others, which says what is supported and what to do.

require_language("google/gemma-2-2b", {"model_type": "gemma2", "architectures": ["Gemma2ForCausalLM"]})   # raises
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from typing import Any

from llava_finetune.errors import UserError
from llava_finetune.saved.folders import find_file, read_json
from llava_finetune.saved.language_types import OTHER_LANGUAGES
from llava_finetune.saved.model_files import TOKENIZERS

LANGUAGES = (
    *("llama", "mistral", "llava", "llava_llama", "llava_mistral"),
    *(name for other in OTHER_LANGUAGES for name in (other, f"llava_{other}")),
)
"""`model_type` of all language models, alone and inside a LLaVA; the first five are upstream's."""
CLIPS = ("clip", "clip_vision_model")
"""`model_type` of the vision towers that upstream has a class for, whole CLIPs included."""
TOWERS = (*CLIPS, "siglip", "siglip_vision_model", "dinov2", "dinov2_with_registers")
"""`model_type` of all vision towers. SigLIP-2 of a fixed size is published as `siglip`."""
PACKED = ("siglip2", "siglip2_vision_model")
"""SigLIP-2 NaFlex, which takes patches of any grid, and not pictures."""
OF_TRANSFORMERS = ("LlavaForConditionalGeneration", "LlavaNextForConditionalGeneration")
"""llava-hf's classes, whose checkpoints `llava-finetune import` converts."""
FAMILIES = ("idefics", "idefics2", "idefics3", "smolvlm", "llava_onevision")
"""`model_type` of the families of transformers' own classes that are trained as they are (docs/families.md)."""
SUPPORTED = (
    "Supported are LLaVA-1.5 and 1.6 on Llama, Vicuna, Yi or Mistral (liuhaotian/llava-v1.5-7b, "
    "liuhaotian/llava-v1.6-mistral-7b), for stage 1 their language models (lmsys/vicuna-7b-v1.5) and those of type "
    f"{', '.join(OTHER_LANGUAGES)}, "
    f"and of transformers' own classes {', '.join(FAMILIES)}"
)


def require_language(path: str, config: Mapping[str, Any]) -> None:
    """Raise UserError for a config.json of a model that upstream has no class for, a llava-hf one with its command."""
    architectures = [str(name) for name in config.get("architectures") or []]
    kind = str(config.get("model_type", ""))
    if set(architectures) & set(OF_TRANSFORMERS):
        raise UserError(
            f"{path}: a llava-hf checkpoint ({architectures[0]}), not upstream's layout; convert it with: "
            f"llava-finetune import {path} OUTPUT"
        )
    if kind in ("llava_mpt", "mpt"):
        raise UserError(f"{path}: an MPT model, which upstream's own class no longer runs. {SUPPORTED}")
    if kind in FAMILIES:
        raise UserError(
            f"{path}: a model of transformers' own class ({kind}), which this command does not take; train, evaluate, "
            "merge, chat, serve and python -m data_prep show take it as it is (docs/families.md)"
        )
    if kind in LANGUAGES and not any(name.endswith("ForConditionalGeneration") for name in architectures):
        return
    if kind in (*TOWERS, *PACKED):
        raise UserError(f"{path}: a vision tower ({kind}), not a language model; name it with --vision_tower")
    named = f"model_type {kind or 'not said'}" + (f", {architectures[0]}" if architectures else "")
    raise UserError(
        f"{path}: a model of another family ({named}). {SUPPORTED}; give one of them as MODEL, or add "
        'the family (docs/architecture.md, "Where do I add")'
    )


def require_tower(tower: str) -> None:
    """Raise UserError for no vision tower of a known kind; one whose config is not at hand is left to its loader."""
    config = read_json(tower, "config.json")
    if config is None:
        return
    kind = str(config.get("model_type", ""))
    if kind in PACKED:
        raise UserError(
            f"--vision_tower {tower}: a SigLIP-2 NaFlex, which takes packed patches of any grid, not pictures of one "
            "size; give one of a fixed size, as google/siglip2-so400m-patch14-384"
        )
    if kind not in TOWERS:
        raise UserError(
            f"--vision_tower {tower}: no vision tower of a known kind (model_type {kind or 'not said'}). Supported are "
            "CLIP (openai/clip-vit-large-patch14-336), SigLIP and SigLIP-2 of a fixed size "
            "(google/siglip-so400m-patch14-384) and DINOv2 (facebook/dinov2-large)"
        )


def read_pinpoints(points: Any, where: str) -> tuple[tuple[int, int], ...]:
    """The grids of anyres, (width, height) each: a list or, as LLaVA-1.6's config has it, the list as a text.

    Raises UserError for any other text, `(1x1),...,(6x6)` of later code among them, which training cannot read.
    """
    try:
        found = ast.literal_eval(points) if isinstance(points, str) else points or ()
        return tuple((int(width), int(height)) for width, height in found)
    except (SyntaxError, TypeError, ValueError):
        raise UserError(
            f"{where}: config.json: image_grid_pinpoints: expected a list as [[336, 672], [672, 336]], found "
            f"{str(points)[:60]}; write the list out"
        ) from None


def require_sentences(path: str) -> None:
    """Raise UserError for a tokenizer.model that is no SentencePiece model: the libraries guess at another kind.

    Beside a tokenizer.json it is not read: Llama-3's is of another kind.
    """
    found = find_file(path, "tokenizer.model")
    if found is None or find_file(path, "tokenizer.json"):
        return
    from sentencepiece import SentencePieceProcessor

    try:
        SentencePieceProcessor().LoadFromFile(found)
    except (OSError, RuntimeError):
        raise UserError(
            f"{found}: is no SentencePiece model, or a part of one; copy it again from where the model came from"
        ) from None


def require_tokenizer(path: str) -> None:
    """Raise UserError for a model folder without a tokenizer's vocabulary."""
    if not any(find_file(path, name) for name in TOKENIZERS):
        raise UserError(
            f"{path}: no tokenizer there (none of {', '.join(TOKENIZERS)}). Copy tokenizer.model and "
            "tokenizer_config.json from the model that it was made from"
        )
