"""Questions with choices: the choices are listed under the question, and the letter of the right one is taught.

    with_choices("Which is heavier?", ["feather", "brick"])      # 'Which is heavier?\\nA. feather\\nB. brick'
    letters_of(1, ["feather", "brick"])                          # 'B'

The layout is the one in which LLaVA-1.5 met ScienceQA and A-OKVQA (Liu et al., 2023): letters, and a prompt that asks
for the letter. An answer may be the place of the right choice (from 0), its letter, or its text.
"""

from __future__ import annotations

import re
import string
from collections.abc import Mapping, Sequence
from typing import Any

from data_prep.converters.texts import NoText, parsed_list, text_of
from data_prep.errors import quoted

CHOICE_COLUMNS = ("choices", "options", "answer_choices", "candidates", "multiple_choices")
LETTER_PROMPT = "Answer with the option's letter from the given choices directly."
MARKED = re.compile(r"\s*\(?([A-Z])[).:]\s*", re.I)
LETTER = re.compile(r"\(?([A-Z])[).:]?", re.I)


def choice_columns(row: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the column of choices of a row, or its columns A, B, C ...; none where there are none."""
    lowered = {str(name).strip().lower(): str(name) for name in row}
    if found := next((lowered[name] for name in CHOICE_COLUMNS if name in lowered), None):
        return (found,)
    if not {"a", "b"} <= set(lowered):
        return ()
    some = []
    for letter in string.ascii_lowercase:
        if letter not in lowered:
            break
        some.append(lowered[letter])
    return tuple(some)


def choices_in(row: Mapping[str, Any], columns: Sequence[str]) -> list[str]:
    """Return the choices of a row, without the letters that they may begin with; none where its cells are empty.

    Raises NoText for a cell that lists nothing.
    """
    if len(columns) > 1:
        some = [text_of(row.get(name)) for name in columns]
        while some and not some[-1].strip():
            some.pop()
    else:
        some = _listed(row.get(columns[0])) if columns else []
    marks = [MARKED.match(text) for text in some]
    if some and all(mark and mark[1].upper() == letter for mark, letter in zip(marks, string.ascii_uppercase)):  # noqa: B905
        return [text[mark.end() :] for text, mark in zip(some, marks, strict=True) if mark]
    return some


def _listed(value: Any) -> list[str]:
    if isinstance(value, Mapping):
        values = value["text"] if isinstance(value.get("text"), list) else list(value.values())
        return [text_of(one) for one in values if one is not None]
    if isinstance(value, list | tuple):
        return [text_of(one["text"] if isinstance(one, Mapping) and "text" in one else one) for one in value]
    text = text_of(value).strip()
    if not text:
        return []
    if text[0] == "[" and (values := parsed_list(text)) is not None:
        return [text_of(one) for one in values]
    mark = next((mark for mark in ("\n", "|", ";", ",") if mark in text), None)
    if mark is None:
        raise NoText("one choice only")
    return [part.strip() for part in text.split(mark) if part.strip()]


def with_choices(question: str, choices: Sequence[str]) -> str:
    """Return the question with its choices under it, a letter before each."""
    lines = [f"{letter}. {choice}" for letter, choice in zip(string.ascii_uppercase, choices, strict=False)]
    return "\n".join([question, *lines])


def letters_of(answer: Any, choices: Sequence[str]) -> str:
    """Return the letter of the answer, or the letters of several: `B`, `A, C`; "" where there is no answer.

    Raises NoText for an answer that is none of the choices, or that may mean two of them.
    """
    if len(choices) > len(string.ascii_uppercase):
        raise NoText(f"{len(choices)} choices; letters end at {len(string.ascii_uppercase)}")
    values = answer if isinstance(answer, list | tuple) else [answer]
    letters = [_letter(value, choices) for value in values if not isinstance(value, str) or value.strip()]
    return ", ".join(letter for letter in letters if letter)


def _letter(answer: Any, choices: Sequence[str]) -> str:
    text = text_of(answer).strip()
    if not text:
        return ""
    same = [place for place, choice in enumerate(choices) if choice.strip().lower() == text.lower()]
    meant = set(same[:1])
    if text.isdecimal() and len(text) < 3 and int(text) < len(choices) and not (same and isinstance(answer, str)):
        meant.add(int(text))
    elif (found := LETTER.fullmatch(text)) and (place := ord(found[1].upper()) - ord("A")) < len(choices):
        meant.add(place)
    if len(meant) > 1:
        both = " or ".join(string.ascii_uppercase[place] for place in sorted(meant))
        raise NoText(f"answer {quoted(text, 40)} may mean choice {both}")
    if meant:
        return string.ascii_uppercase[meant.pop()]
    letters = [part.strip() for part in text.split(",")] if "," in text else list(text)
    if len(letters) > 1 and all(LETTER.fullmatch(one) for one in letters):
        return ", ".join(_letter(one, choices) for one in letters)
    raise NoText(f"answer {quoted(text, 40)} is none of the {len(choices)} choices (letters, texts, or places from 0)")
