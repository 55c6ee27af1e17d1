"""The part of OpenAI's chat protocol that is spoken here, checked; what would change an answer unnoticed is refused.

request = ChatRequest.model_validate(body)
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from llava_finetune.errors import UserError
from llava_finetune.serve.limits import Limits
from llava_finetune.serve.pictures import picture_from_url
from llava_finetune.serve.prompts import Message
from llava_finetune.serve.sampling import Sampling

DEFAULT_MAX_TOKENS = 512


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
    """Body of POST /v1/chat/completions; fields that nothing here depends on are ignored, as OpenAI's server does."""

    model_config = ConfigDict(extra="allow")

    model: str
    messages: list[ChatMessage] = Field(min_length=1, max_length=256)
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    stop: str | list[str] | None = None
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    n: int | None = None
    logprobs: bool | None = None
    tools: list[Any] | None = None
    response_format: dict[str, Any] | None = None

    def refuse_unsupported(self) -> None:
        """Raise UserError for what would be ignored in silence otherwise."""
        wanted = {
            "n": self.n not in (None, 1),
            "logprobs": bool(self.logprobs),
            "tools": bool(self.tools),
            "response_format": bool(self.response_format) and self.response_format != {"type": "text"},
        }
        for name, asked in wanted.items():
            if asked:
                raise UserError(
                    f"{name} is not supported here; serve the exported model with vLLM for it (docs/deploy.md)"
                )
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
        return [_message(message, limits) for message in self.messages]


def _message(message: ChatMessage, limits: Limits) -> Message:
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
        pictures.append(picture_from_url(url, limits))
    text = "\n".join(part.text for part in message.content if part.type == "text")
    return Message(role, text, tuple(pictures))
