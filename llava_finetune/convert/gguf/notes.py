"""What llama.cpp does otherwise with a model that can be written: said at the export, because no file can mend it.

notes_on(source, "vicuna_v1", tokenizer)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llava_finetune.convert.gguf.pre_tokenizers import COMPOSED
from llava_finetune.convert.gguf.source import Source
from llava_finetune.convert.gguf.vocabulary import backend_of
from llava_finetune.data.templates import end_text

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
"""The mean that llama.cpp's padding colour (122, 116, 104) comes from."""

CLASS_TOKEN = (
    "llama.cpp puts CLIP's class token last instead of first (its issue 25814), so each patch has its neighbour's "
    "position and the first patch is lost. `llava-finetune certify` tells whether your engine does, and which of your "
    "answers change by it"
)


def notes_on(source: Source, template: str, tokenizer: Any) -> list[str]:
    """One sentence for each thing that llama.cpp does otherwise than training did."""
    notes = [CLASS_TOKEN]
    if padding := note_on_padding(source.config.get("image_aspect_ratio"), source.pictures["image_mean"]):
        notes.append(padding)
    if backend_of(tokenizer).get("normalizer") == COMPOSED:
        notes.append(
            "the tokenizer writes a letter and its accent as one character (NFC) and llama.cpp does not: send composed "
            "text, as keyboards write it"
        )
    end = end_text(template, tokenizer)
    if end and len(tokenizer(end, add_special_tokens=False).input_ids) != 1:
        notes.append(f'answers end at the text {end!r}, which is no token here: send it as "stop"')
    return notes


def note_on_padding(aspect_ratio: str | None, mean: Sequence[float]) -> str | None:
    """What llama.cpp does otherwise with pictures that are not square; `mean`: the processor's, 3 values of 0 to 1."""
    if (aspect_ratio or "square") != "pad":
        return (
            "this model was trained on pictures cut to a square (image_aspect_ratio square) and llama.cpp always pads: "
            "send it square pictures"
        )
    if any(abs(own - clip) > 1e-4 for own, clip in zip(mean, CLIP_MEAN, strict=True)):
        return (
            "llama.cpp pads with the colour (122, 116, 104) and this model was trained on its own mean's: pictures "
            "that are not square differ at their borders"
        )
    return None
