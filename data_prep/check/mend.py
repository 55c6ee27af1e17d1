"""Mend one record: what can be made right without guessing at what it means.

mend({"image": "a.jpg", "conversations": [{"from": "user", "value": "What?"}, ...]}, 0)
# ({"image": ..., "conversations": [{"from": "human", "value": "<image>\\nWhat?"}, ...]}, {"unknown role", ...})
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any

from data_prep.check.kinds import KINDS, Severity
from data_prep.check.texts import END_TOKENS, LONE_SURROGATE, MEANT_ROLES, PICTURE_MARKS, WRONG_IMAGE_KEYS, faults
from data_prep.errors import DataError
from data_prep.records.preference import is_pair
from data_prep.records.record import IMAGE_TOKEN, Record, images_of

RENAMED = "name of a picture"
"""What is counted as mended where a picture's name was not its file's."""

ERRORS = {name for name, kind in KINDS.items() if kind.severity is Severity.ERROR}


def mend(record: Record, index: int, renames: Mapping[str, str] | None = None) -> tuple[Record, set[str]] | str:
    """Return (record, kinds of what was mended), or the kind of what could not be: a reason to drop it.

    The record given is not changed; one with nothing wrong comes back equal, with an empty set. `renames` are the names
    of pictures that are not there, and those that are meant.
    """
    found = {fault.kind for fault in faults(record)} & ERRORS
    named = "id" in record
    new = copy.deepcopy(record)
    if _rename_pictures(new, renames or {}):
        found |= {RENAMED}
    if not found and named:
        return record, set()
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
    _mend_marks(new, turns)
    turns = _without_system(turns)
    _mend_texts(turns)
    new["conversations"] = _in_order(turns, ends_with_question=is_pair(new))
    _rename_pictures(new, renames or {})
    try:
        _pair_images(new)
    except DataError:
        return "image not a name"
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


def _rename_pictures(record: Record, renames: Mapping[str, str]) -> bool:
    """Write the names that are meant for those that are not there; return whether there was one."""
    try:
        names = images_of(record)
    except DataError:
        return False
    if not any(name in renames for name in names):
        return False
    right = [renames.get(name, name) for name in names]
    record["image"] = right if isinstance(record["image"], list) else right[0]
    return True


def _mend_marks(record: Record, turns: list[dict[str, Any]]) -> None:
    """Write <image> for other tools' marks in questions, and take the names in them; drop the marks of answers."""
    names = []
    for turn in turns:
        text = turn["value"]
        if not isinstance(text, str) or not PICTURE_MARKS.search(text):
            continue
        is_answer = _role(turn) == "gpt"
        names += [mark["name"].strip() for mark in PICTURE_MARKS.finditer(text) if mark["name"] and not is_answer]
        turn["value"] = PICTURE_MARKS.sub("" if is_answer else IMAGE_TOKEN, text)
    if names and "image" not in record:
        record["image"] = names[0] if len(names) == 1 else names


def _without_system(turns: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Put the text of a first system turn before the first question: training has system words of its own."""
    first, *rest = turns or [{}]
    if first.get("from") != "system" or not rest or _role(rest[0]) != "human":
        return turns
    if not (isinstance(first["value"], str) and isinstance(rest[0]["value"], str)):
        return turns
    rest[0]["value"] = f"{first['value'].strip()}\n\n{rest[0]['value']}".lstrip("\n")
    return rest


def _role(turn: Mapping[str, Any]) -> Any:
    return MEANT_ROLES.get(str(turn["from"]).lower(), turn["from"])


def _mend_texts(turns: list[dict[str, Any]]) -> None:
    for turn in turns:
        turn["from"], text = _role(turn), turn["value"]
        if isinstance(text, int | float) and not isinstance(text, bool) and math.isfinite(text):
            text = str(int(text) if text == int(text) else text)
        if isinstance(text, str):
            if END_TOKENS.search(text):
                text = END_TOKENS.sub("", text).strip()
            text = LONE_SURROGATE.sub("", text)
            if turn["from"] == "gpt" and IMAGE_TOKEN in text:
                text = text.replace(IMAGE_TOKEN, "").strip()
        turn["value"] = text


def _in_order(turns: list[dict[str, Any]], ends_with_question: bool) -> list[dict[str, Any]]:
    """Return turns that alternate: neighbours of one role merged; first gpt, last human, empty pairs dropped.

    A last question stays where it may: the two answers to it stand elsewhere in a pair.
    Turns of other roles, and neighbours that are no texts, come back as they are: such a record cannot be mended.
    """
    if not all(turn["from"] in ("human", "gpt") and isinstance(turn["value"], str) for turn in turns):
        return turns
    merged: list[dict[str, Any]] = []
    for turn in turns:
        before = merged[-1] if merged else None
        if before and before["from"] == turn["from"]:
            before["value"] = "\n".join(text for text in (before["value"], turn["value"]) if text)
        else:
            merged.append(turn)
    if merged and merged[0]["from"] == "gpt":
        merged = merged[1:]
    last = merged.pop() if merged and merged[-1]["from"] == "human" else None
    kept: list[dict[str, Any]] = []
    waiting = ""  # <image> of a question that is dropped moves on to the next
    for question, answer in zip(merged[::2], merged[1::2], strict=True):
        if not (question["value"].strip() and answer["value"].strip()):
            waiting += IMAGE_TOKEN * question["value"].count(IMAGE_TOKEN)
            continue
        if waiting:
            question["value"] = f"{waiting}\n{question['value']}"
            waiting = ""
        kept += [question, answer]
    return [*kept, last] if last and ends_with_question else kept


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
