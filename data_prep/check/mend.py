"""Mend one record: what can be made right without guessing at what it means.

mend({"image": "a.jpg", "conversations": [{"from": "user", "value": "What?"}, ...]}, 0)
# ({"image": ..., "conversations": [{"from": "human", "value": "<image>\\nWhat?"}, ...]}, {"unknown role", ...})
"""

from __future__ import annotations

import copy
from typing import Any

from data_prep.check.kinds import KINDS, Severity
from data_prep.check.texts import END_TOKENS, LONE_SURROGATE, WRONG_IMAGE_KEYS, faults
from data_prep.records.record import IMAGE_TOKEN, Record, images_of

ROLES = {"user": "human", "assistant": "gpt", "bot": "gpt", "model": "gpt"}
ERRORS = {name for name, kind in KINDS.items() if kind.severity is Severity.ERROR}


def mend(record: Record, index: int) -> tuple[Record, set[str]] | str:
    """Return (record, kinds of what was mended), or the kind of what could not be: a reason to drop it.

    The record given is not changed; one with nothing wrong comes back equal, with an empty set.
    """
    found = {fault.kind for fault in faults(record)} & ERRORS
    named = "id" in record
    if not found and named:
        return record, set()
    new = copy.deepcopy(record)
    if not named:
        new = {"id": f"record-{index + 1}", **new}
        found |= {"no id"}
    if "wrong image key" in found:
        _rename_image(new)
    turns = new.get("conversations")
    if not isinstance(turns, list) or not all(
        isinstance(turn, dict) and {"from", "value"} <= set(turn) for turn in turns
    ):
        return "no conversation"
    _mend_texts(turns)
    new["conversations"] = _in_order(turns)
    if "image not a name" not in found:
        _pair_images(new)
    left = [fault.kind for fault in faults(new) if fault.kind in ERRORS]
    return left[0] if left else (new, found)


def _rename_image(record: Record) -> None:
    key = next(key for key in WRONG_IMAGE_KEYS if key in record)
    value = record[key]
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if isinstance(value, str) or (isinstance(value, list) and all(isinstance(name, str) for name in value)):
        record["image"] = value
        del record[key]


def _mend_texts(turns: list[dict[str, Any]]) -> None:
    for turn in turns:
        role, text = turn["from"], turn["value"]
        turn["from"] = ROLES.get(str(role).lower(), role)
        if isinstance(text, int | float) and not isinstance(text, bool):
            text = str(text)
        if isinstance(text, str):
            if END_TOKENS.search(text):
                text = END_TOKENS.sub("", text).strip()
            text = LONE_SURROGATE.sub("", text)
            if turn["from"] == "gpt" and IMAGE_TOKEN in text:
                text = text.replace(IMAGE_TOKEN, "").strip()
        turn["value"] = text


def _in_order(turns: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return turns that alternate: neighbours of one role merged; first gpt, last human, empty pairs dropped."""
    merged: list[dict[str, Any]] = []
    for turn in turns:
        before = merged[-1] if merged else None
        if (
            before
            and before["from"] == turn["from"]
            and isinstance(before["value"], str)
            and isinstance(turn["value"], str)
        ):
            before["value"] = "\n".join(text for text in (before["value"], turn["value"]) if text)
        else:
            merged.append(turn)
    if merged and merged[0]["from"] == "gpt":
        merged = merged[1:]
    if merged and merged[-1]["from"] == "human":
        merged = merged[:-1]
    kept: list[dict[str, Any]] = []
    waiting = ""  # <image> of a question that is dropped moves on to the next
    for question, answer in zip(merged[::2], merged[1::2], strict=True):
        if _is_blank(question["value"]) or _is_blank(answer["value"]):
            waiting += IMAGE_TOKEN * str(question["value"]).count(IMAGE_TOKEN)
            continue
        if waiting:
            question["value"] = f"{waiting}\n{question['value']}"
            waiting = ""
        kept += [question, answer]
    return kept


def _is_blank(value: Any) -> bool:
    return isinstance(value, str) and not value.strip()


def _pair_images(record: Record) -> None:
    """Make the number of <image> in questions that of the pictures: surplus ones go, missing ones come to the front."""
    wanted = len(images_of(record))
    questions = [turn for turn in record["conversations"] if turn["from"] == "human" and isinstance(turn["value"], str)]
    missing = wanted - sum(turn["value"].count(IMAGE_TOKEN) for turn in questions)
    if missing > 0 and questions:
        questions[0]["value"] = "\n".join([IMAGE_TOKEN] * missing + [questions[0]["value"]])
    for turn in reversed(questions):
        while missing < 0 and IMAGE_TOKEN in turn["value"]:
            head, _, tail = turn["value"].rpartition(IMAGE_TOKEN)
            turn["value"] = (head.rstrip("\n") + "\n" + tail.lstrip("\n")).strip("\n")
            missing += 1
