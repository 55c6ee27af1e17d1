"""What is wrong with one record's texts: roles, order, empty or strange texts, `<image>` against pictures.

list(faults({"image": "a.jpg", "conversations": [{"from": "human", "value": "What?"}, ...]}))
# [Fault("picture without <image>", "1 picture, no <image> in a question")]
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from data_prep.errors import DataError, quoted, shortened
from data_prep.records.marks import NO_VALUE, UNFILLED
from data_prep.records.preference import is_pair, pair_of, text_of
from data_prep.records.record import IMAGE_TOKEN, images_of

ROLES = {"human", "gpt"}
MEANT_ROLES = {"user": "human", "assistant": "gpt", "bot": "gpt", "model": "gpt", "human": "human", "gpt": "gpt"}
"""What roles in other spellings mean, in small letters."""
END_TOKENS = re.compile(
    r"</?s>|<\|(?:im_start|im_end|endoftext|end_of_text|begin_of_text|eot_id|start_header_id|end_header_id|end)\|>"
    r"|<end_of_turn>|<start_of_turn>|\[/?INST\]|<</?SYS>>"
)
"""Tokens that end or begin a turn in some template (Vicuna, Llama-2 and -3, Mistral, ChatML, MPT, Phi, Gemma)."""

ROLE_MARKERS = re.compile(r"\b(?:USER|ASSISTANT): ")
ESCAPED = re.compile(
    r"&(?:nbsp|amp|lt|gt|quot|apos|#\d{2,6}|[a-zA-Z]{1,5}(?:acute|grave|circ|uml|tilde|cedil|slash|ring|dash|quo));"
)
CONTROL = re.compile("[\0-\x08\x0b\x0c\x0e-\x1f\x7f\ufffd]")
MISREAD = re.compile(
    "\xc3[\x80-\x9f\xa1-\xaa\xac-\xba\xbc-\xbf€‚ƒ„†‡ˆ‰ŠŒŽ•˜™šœžŸ]|(?<=[a-z])\xc3[\xa0«»…‘’“”–—‹›]|\xe2€[\x80-\xbf‚-™Œœ]"
)
"""UTF-8 that was read as Latin-1 or cp1252. What may stand behind a word of capital letters (AMANHÃ…) counts in words
of small ones only."""
LONE_SURROGATE = re.compile("[\ud800-\udfff]")
WRONG_IMAGE_KEYS = ("images", "image_path", "image_file", "img", "picture", "image_id")


PICTURE_MARKS = re.compile(
    r"<img>(?P<name>[^<>]{1,500})</img>"
    r"|<\|?(?:image|img|picture|pic)[ _-]?(?:\d+|pad|placeholder|here|soft_token)?\|?>"
    r"|<start_of_image>|<\|vision_start\|>(?:<\|image_pad\|>)+<\|vision_end\|>|\[IMG\]|<im_patch>|<ImageHere>"
    r"|<\|media_placeholder\|>",
    re.IGNORECASE,
)
"""How other tools mark the place of a picture (Qwen-VL, Phi, InternVL, ms-swift, LLaMA-Factory, Idefics, Gemma)."""

OTHER_MARKS = re.compile(
    r"<\|?(?:video|audio|sound|speech)[ _-]?(?:\d+|pad|placeholder)?\|?>|<audio>[^<>]{1,500}</audio>"
    rf"|<video>[^<>]{{1,500}}</video>|{UNFILLED}|<tool_call>|<tool_response>|<\|vision_(?:start|end)\|>",
    re.IGNORECASE,
)
"""Marks of what is not taken here: videos, sounds, calls of tools, places that ms-swift fills from `objects`."""

UNREAD_KEYS = (
    "system", "history", "video", "videos", "audio", "audios", "tools", "objects", "messages", "instruction", "input",
    "output", "query", "response", "rejected", "rejected_response", "chosen",
)  # fmt: skip
"""Keys of other tools' records that change what they teach, and that training does not read."""

_UNREAD = frozenset(UNREAD_KEYS)


class Fault(NamedTuple):
    """One thing wrong: the name of its kind (see kinds.KINDS) and what exactly is there."""

    kind: str
    detail: str


def faults(record: Mapping[str, Any]) -> Iterator[Fault]:
    """Yield everything that is wrong with the texts of one record."""
    try:
        images_of(record)
    except DataError as error:
        yield Fault("image not a name", error.problem)
    turns = record.get("conversations")
    if not isinstance(turns, list) or not turns:
        yield Fault("no conversation", _why_no_conversation(record))
        return
    if not all(isinstance(turn, dict) and "from" in turn and "value" in turn for turn in turns):
        bad = next(turn for turn in turns if not (isinstance(turn, dict) and "from" in turn and "value" in turn))
        yield Fault("no conversation", f'a turn is {{"from": ..., "value": ...}}, found {quoted(bad, 80)}')
        return
    if is_pair(record):
        yield from _pair_faults(record)
        if turns[-1]["from"] == "human" and (chosen := text_of(record.get("chosen"))):
            turns = [*turns, {"from": "gpt", "value": chosen}]
    yield from _order_faults([turn["from"] for turn in turns])
    for number, turn in enumerate(turns, 1):
        yield from _text_faults(number, turn["from"], turn["value"])
    yield from _image_faults(record, turns)
    if _UNREAD.isdisjoint(record):
        return
    read = {"chosen", "rejected"} if is_pair(record) else set()
    if unread := [key for key in UNREAD_KEYS if record.get(key) and key not in read]:
        shown = ", ".join(f'"{key}": {quoted(record[key], 40)}' for key in unread[:3])
        yield Fault("key nothing reads", shown)


def _pair_faults(record: Mapping[str, Any]) -> Iterator[Fault]:
    try:
        pair = pair_of(record)
    except DataError as error:
        yield Fault("pair not whole", error.problem)
        return
    if " ".join(pair.chosen.split()) == " ".join(pair.rejected.split()):
        yield Fault("chosen is rejected", f"both are {quoted(pair.chosen)}")
    if not record.get("image"):
        yield Fault("pair without a picture", f"rejected {quoted(pair.rejected, 40)}")
    for fault in _text_faults(len(pair.turns) + 1, "gpt", pair.rejected):
        yield Fault(fault.kind, f"rejected, {fault.detail}")


def _why_no_conversation(record: Mapping[str, Any]) -> str:
    if "conversations" in record:
        return f'"conversations" is {quoted(record["conversations"])}, expected a list of turns'
    keys = ", ".join(shortened(key, 40) for key in list(record)[:6])
    hint = "; this is the layout of `messages`: python -m data_prep hf reads it" if "messages" in record else ""
    return f'no "conversations", only {keys}{hint}'


def _order_faults(roles: list[Any]) -> Iterator[Fault]:
    unknown = [role for role in roles if not isinstance(role, str) or role not in ROLES]
    if unknown:
        near = MEANT_ROLES.get(str(unknown[0]).lower())
        hint = f"; write {near}" if near else ""
        said = f'"{shortened(unknown[0], 40)}"' if isinstance(unknown[0], str) else quoted(unknown[0], 40)
        yield Fault("unknown role", f"role {said}, expected human or gpt{hint}")
        return
    expected = ["human", "gpt"] * ((len(roles) + 1) // 2)
    wrong = next((place for place, role in enumerate(roles) if role != expected[place]), None)
    if wrong is not None:
        yield Fault("turns not alternating", f"turn {wrong + 1} is from {roles[wrong]}, expected {expected[wrong]}")
    elif len(roles) % 2:
        yield Fault("turns not alternating", f"turn {len(roles)} is a question without an answer")


def _text_faults(number: int, role: Any, text: Any) -> Iterator[Fault]:
    if not isinstance(text, str):
        yield Fault("text not a string", f"turn {number}: {quoted(text)}")
        return
    if not text.strip():
        yield Fault("empty text", f"turn {number} ({role}) is empty")
    elif role == "gpt" and text.strip() in NO_VALUE:
        yield Fault("answer is nan", f"turn {number}: {quoted(text)}")
    may_hold_marks = "<" in text or "[" in text  # all of them begin so, and few texts hold one
    if may_hold_marks and (found := END_TOKENS.search(text)):
        yield Fault("end token in text", f"turn {number}: {found.group()} in {_around(text, found)!r}")
    if found := ROLE_MARKERS.search(text):
        yield Fault("role marker in text", f"turn {number}: {_around(text, found)!r}")
    if found := _unclean(text):
        yield Fault("text not clean", f"turn {number}: {_around(text, found)!r}")
    if not text.isascii() and (found := LONE_SURROGATE.search(text)):
        yield Fault("broken Unicode", f"turn {number}: {_around(text, found)!r}")
    if not may_hold_marks:
        return
    if found := next((mark for mark in PICTURE_MARKS.finditer(text) if mark.group() != IMAGE_TOKEN), None):
        yield Fault("mark of another tool", f"turn {number}: {found.group():.60}, expected {IMAGE_TOKEN}")
    elif found := OTHER_MARKS.search(text):
        yield Fault("mark of another tool", f"turn {number}: {found.group():.60} is not taken")
    if role == "gpt" and IMAGE_TOKEN in text:
        yield Fault("<image> in answer", f"turn {number}: {quoted(text)}")


def _unclean(text: str) -> re.Match[str] | None:
    """Return an escape of HTML, a control character, or UTF-8 read in another encoding: what copied texts bring along.

    A pattern is tried where the letter that it begins with is there: tried on every text, it is the dearest of all.
    """
    found = (ESCAPED.search(text) if "&" in text else None) or CONTROL.search(text)
    return found or (MISREAD.search(text) if "\xc3" in text or "\xe2€" in text else None)


def _around(text: str, found: re.Match[str], width: int = 12) -> str:
    return text[max(0, found.start() - width) : found.end() + width]


def _image_faults(record: Mapping[str, Any], turns: list[Any]) -> Iterator[Fault]:
    try:
        num_images = len(images_of(record))
    except DataError:
        return
    questions = [turn["value"] for turn in turns if turn["from"] != "gpt" and isinstance(turn["value"], str)]
    num_tokens = sum(text.count(IMAGE_TOKEN) for text in questions)
    if "image" not in record and (key := next((key for key in WRONG_IMAGE_KEYS if key in record), None)):
        yield Fault("wrong image key", f'"{key}": {quoted(record[key])}, expected "image"')
    elif num_images and not num_tokens:
        yield Fault("picture without <image>", f"{_plural(num_images, 'picture')}, no <image> in a question")
    elif num_tokens and not num_images:
        yield Fault("<image> without picture", f"{num_tokens} <image>, no picture named")
    elif num_tokens != num_images:
        yield Fault("<image> count", f"{num_tokens} <image> for {_plural(num_images, 'picture')}")


def images_under_wrong_key(record: Mapping[str, Any]) -> list[str]:
    """Return the names that a record without `image` has under another tool's key."""
    if "image" in record:
        return []
    value: Any = next((record[key] for key in WRONG_IMAGE_KEYS if key in record), None)
    names = [value] if isinstance(value, str) else value
    is_names = isinstance(names, list) and all(isinstance(name, str) and name for name in names)
    return list(names) if is_names else []


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
