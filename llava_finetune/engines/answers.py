"""A question as every engine gets it, and an answer as every engine gives it.

question = Question("r-7", messages, (picture,))
engine_answer.first                       # {252: -0.0045, 37: -6.0367}: how likely each first token was
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Turn:
    """One message: role (system, user, assistant), its text, the RGB pictures that stand before it."""

    role: str
    text: str
    pictures: tuple[Any, ...] = ()


@dataclass(frozen=True)
class Question:
    """A conversation that ends with the user's words; `name` is the record's id."""

    name: str
    turns: tuple[Turn, ...]

    @property
    def pictures(self) -> tuple[Any, ...]:
        """All pictures, in order."""
        return tuple(picture for turn in self.turns for picture in turn.pictures)

    def openai_messages(self) -> list[dict[str, Any]]:
        """The conversation in OpenAI's protocol, pictures as PNG data URLs: every engine reads the same pixels."""
        out: list[dict[str, Any]] = []
        for turn in self.turns:
            parts = [{"type": "image_url", "image_url": {"url": data_url(picture)}} for picture in turn.pictures]
            content: Any = [*parts, {"type": "text", "text": turn.text}] if parts else turn.text
            out.append({"role": turn.role, "content": content})
        return out


@dataclass(frozen=True)
class Answer:
    """What an engine answered.

    `first`: log-probability of the likeliest first tokens by id, empty where an engine does not tell; `prompt_ids`: the
    prompt's ids, -200 for a picture, None where it does not tell; `num_prompt`: positions of the prompt, pictures too;
    `ids`: the answer's own ids, end token too, empty where it does not tell.
    """

    text: str
    num_prompt: int | None = None
    first: Mapping[int, float] = field(default_factory=dict)
    prompt_ids: list[int] | None = None
    ids: tuple[int, ...] = ()


def data_url(picture: Any) -> str:
    """An RGB picture as a PNG data URL."""
    out = io.BytesIO()
    picture.save(out, "PNG")
    return f"data:image/png;base64,{base64.b64encode(out.getvalue()).decode()}"
