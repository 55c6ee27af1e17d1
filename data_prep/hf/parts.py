"""The parts of a message: texts and pictures in their order, as OpenAI, Qwen, Anthropic and others write them.

parts_of([{"type": "text", "text": "What?"}, {"type": "image_url", "image_url": {"url": "data:image/png;base64,..."}}])
# ["What?", Seen("data:image/png;base64,...")]
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from data_prep.converters.texts import NoText, kind_of_value, text_of
from data_prep.errors import shortened
from data_prep.records.json_text import json_in
from data_prep.records.record import IMAGE_TOKEN

TEXT_TYPES = {"text", "input_text", "output_text"}
IMAGE_TYPES = {"image", "image_url", "input_image", "img", "picture"}
UNSEEN_TYPES = {"video", "video_url", "audio", "input_audio", "audio_url", "file", "document"}
PICTURE_KEYS = (
    "image", "image_url", "inlineData", "inline_data", "url", "path", "source", "base64", "b64_json", "data", "bytes",
    "image_path", "file",
)  # fmt: skip


class Seen(NamedTuple):
    """A picture's place in a message; `cell` is the picture itself, None where the row keeps it elsewhere."""

    cell: Any


class Unseen(NoText):
    """A video, a sound or a file: what the model cannot see."""


def parts_of(content: Any) -> Iterator[str | Seen]:
    """Yield the texts and pictures of a message's content: a text, a part, or a list of them.

    Raises NoText, with what it is, for a part that is neither; Unseen for video and sound.
    """
    if content is None or isinstance(content, str):
        yield content or ""
    elif isinstance(content, Mapping):
        yield _part(content)
    elif isinstance(content, list):
        for one in content:
            if isinstance(one, str):
                yield one
            elif isinstance(one, Mapping):
                yield _part(one)
            elif one is not None:
                raise NoText(f"a part is a text or an object, found {kind_of_value(one)}")
    else:
        raise NoText(f"content is a text or a list of parts, found {kind_of_value(content)}")


def _part(part: Mapping[str, Any]) -> str | Seen:
    kind = part.get("type")
    if kind is None:
        kind = "image" if picture_in(part) is not None and part.get("text") is None else "text"
    if not isinstance(kind, str):
        raise NoText(f"a part's type is a text, found {kind_of_value(kind)}")
    if kind in TEXT_TYPES:
        text = part.get("text")
        return text_of(text.get("value") if isinstance(text, Mapping) and "value" in text else text)
    if kind in IMAGE_TYPES:
        return Seen(picture_in(part))
    problem = f'a part of type "{shortened(kind, 40)}"'
    raise Unseen(problem) if kind in UNSEEN_TYPES else NoText(f"{problem}; text and image are read")


def picture_in(part: Mapping[str, Any]) -> Any:
    """Return the picture that an object holds: bytes, or a text that is a path, an address or base64; else None."""
    if part.get("bytes") or part.get("path"):
        return part.get("bytes") or part.get("path")
    for key in PICTURE_KEYS:
        value = part.get(key)
        if isinstance(value, Mapping):
            value = picture_in(value)
        if value:
            return value
    return None


def content_text(content: Any) -> str:
    """Return a message's text: as it is, or its parts in order, each picture as `<image>` on a line of its own."""
    if isinstance(content, str):
        return content
    text = ""
    for part in parts_of(content):
        piece = IMAGE_TOKEN if isinstance(part, Seen) else part
        apart = text and piece and IMAGE_TOKEN in (piece, text[-len(IMAGE_TOKEN) :])
        text += ("\n" if apart and not text.endswith("\n") and not piece.startswith("\n") else "") + piece
    return text


def pictures_in(turns: Any) -> list[Any]:
    """Return the pictures that the messages of a row hold themselves, in their order."""
    found: list[Any] = []
    for turn in turns if isinstance(turns, list) else []:
        content = turn.get("content", turn.get("parts")) if isinstance(turn, Mapping) else None
        if isinstance(content, list | Mapping):
            try:
                found += [part.cell for part in parts_of(content) if isinstance(part, Seen) and part.cell is not None]
            except NoText:
                return []  # told where the turns are read
    return found


def calls_text(calls: Any) -> str:
    """Return the calls of tools that a message makes, a line of JSON each, as ShareGPT writes them."""
    texts = []
    for call in calls if isinstance(calls, list) else [calls]:
        function = call.get("function") if isinstance(call, Mapping) else None
        inner = function if isinstance(function, Mapping) else call
        if isinstance(inner, Mapping):
            arguments = inner.get("arguments")
            if isinstance(arguments, str) and (told := json_in(arguments)) is not None:
                arguments = told
            inner = json.dumps({"name": inner.get("name"), "arguments": arguments}, ensure_ascii=False)
        texts.append(text_of(inner))
    return "\n".join(texts)
