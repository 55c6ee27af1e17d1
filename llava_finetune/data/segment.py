"""A piece of a prompt's text, taught or not, and where a message's picture stands.

Segment(" pony tail</s>", supervised=True)
"""

from __future__ import annotations

from dataclasses import dataclass

from data_prep.records.marks import IMAGE_TOKEN


@dataclass(frozen=True)
class Segment:
    """A piece of the prompt's text; `supervised` pieces are what the model is taught to write.

    A prompt for generation ends before the space of "ASSISTANT: yes", so that space belongs to what is taught: Llama's
    tokenizer gives it a token of its own before a digit.
    """

    text: str
    supervised: bool = False


def single_image_first(text: str) -> str:
    """Move the one picture of a message to its front, on a line of its own (upstream's `preprocess_multimodal`)."""
    if text.count(IMAGE_TOKEN) != 1:
        return text
    return f"{IMAGE_TOKEN}\n{text.replace(IMAGE_TOKEN, '').strip()}".strip()
