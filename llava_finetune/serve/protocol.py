"""The part of OpenAI's chat protocol that is spoken here, checked; what would change an answer unnoticed is refused.

request = ChatRequest.model_validate_json(body)
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from llava_finetune.errors import UserError
from llava_finetune.serve.limits import Limits
from llava_finetune.serve.pictures import picture_from_url
from llava_finetune.serve.prompts import Message, require_fitting
from llava_finetune.serve.sampling import Sampling

DEFAULT_MAX_TOKENS = 512
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "n": (1,),
    "best_of": (1,),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "logit_bias": ({},),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "repetition_penalty": (1,),
    "length_penalty": (1,),
    "top_k": (-1, 0),
    "min_p": (0,),
    "min_tokens": (0,),
    "ignore_eos": (False,),
    "use_beam_search": (False,),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "audio": (),
    "guided_json": (),
    "guided_regex": (),
    "guided_choice": (),
    "guided_grammar": (),
    "structured_outputs": (),
    "prompt_logprobs": (0, False),
    "echo": (False,),
    "suffix": ("",),
    "web_search_options": (),
}
"""Fields that would change an answer, with the values that change nothing; null changes nothing anywhere."""


class ImageUrl(BaseModel):
    """`{"url": "data:image/png;base64,..."}`."""

    url: str
    detail: str | None = None


class Part(BaseModel):
    """A piece of a message: text, or a picture by its URL."""

    type: Literal["text", "image_url"]
    text: str = ""
    image_url: ImageUrl | str | None = None


class ChatMessage(BaseModel):
    """One message; content is a text or a list of parts."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[Part] | None = None


class StreamOptions(BaseModel):
    """`include_usage` adds a last chunk with the token counts."""

    include_usage: bool | None = False


class ChatRequest(BaseModel):
    """Body of POST /v1/chat/completions; what would not change an answer (user, metadata, store) is ignored."""

    model_config = ConfigDict(extra="allow")

    model: str
    messages: list[ChatMessage] = Field(min_length=1, max_length=256)
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0, le=2, allow_inf_nan=False)
    top_p: float | None = Field(None, gt=0, le=1, allow_inf_nan=False)
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    stop: str | list[str] | None = None
    stream: bool | None = False
    stream_options: StreamOptions | None = None

    def refuse_unsupported(self, context_length: int) -> None:
        """Raise UserError for what would be ignored in silence otherwise, and for a text that cannot fit."""
        for name, value in (self.model_extra or {}).items():
            if name in NEUTRAL and value is not None and value not in NEUTRAL[name]:
                raise UserError(
                    f"{name} is not supported here; serve the exported model with vLLM for it (docs/deploy.md)"
                )
        require_fitting(sum(map(_text_length, self.messages)), context_length)
        stops = [self.stop] if isinstance(self.stop, str) else self.stop or []
        if len(stops) > 4 or any(not 0 < len(stop) <= 256 for stop in stops):
            raise UserError("stop: at most 4 texts of 1 to 256 characters")

    def sampling(self) -> Sampling:
        """How the answer is drawn: greedy when no temperature is given, as in evaluation."""
        stops = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return Sampling(
            max_new_tokens=self.max_completion_tokens or self.max_tokens or DEFAULT_MAX_TOKENS,
            temperature=self.temperature or 0.0,
            top_p=1.0 if self.top_p is None else self.top_p,
            seed=self.seed,
            stop=tuple(stops),
        )

    def to_messages(self, limits: Limits) -> list[Message]:
        """The messages with their pictures decoded. Raises UserError with the first thing that is wrong."""
        count = sum(
            part.type == "image_url" for m in self.messages if isinstance(m.content, list) for part in m.content
        )
        if count > limits.pictures:
            raise UserError(f"{count} pictures in one request, at most {limits.pictures} are taken")
        left = limits.pixels
        messages = []
        for message in self.messages:
            messages.append(_message(message, limits, left))
            left -= sum(picture.width * picture.height for picture in messages[-1].pictures)
        return messages


def _text_length(message: ChatMessage) -> int:
    if not isinstance(message.content, list):
        return len(message.content or "")
    return sum(len(part.text) for part in message.content)


def _message(message: ChatMessage, limits: Limits, pixels: int) -> Message:
    """The message with its pictures decoded; `pixels` are left of what all pictures of the request may have."""
    role = "system" if message.role == "developer" else message.role
    if message.content is None or isinstance(message.content, str):
        return Message(role, message.content or "")
    pictures = []
    for part in message.content:
        if part.type != "image_url":
            continue
        if role != "user":
            raise UserError(f"a {message.role} message holds a picture; only the user's may")
        if part.image_url is None:
            raise UserError('a part of type "image_url" has no image_url')
        url = part.image_url if isinstance(part.image_url, str) else part.image_url.url
        try:
            pictures.append(picture_from_url(url, replace(limits, pixels=pixels)))
        except UserError as error:
            if pixels < limits.pixels:
                raise UserError(f"{error} (the pictures of a request share {limits.pixels:,} pixels)") from error
            raise
        pixels -= pictures[-1].width * pictures[-1].height
    text = "\n".join(part.text for part in message.content if part.type == "text")
    return Message(role, text, tuple(pictures))
