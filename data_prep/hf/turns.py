"""The turns of a row in any layout, as (role, text) with `<image>` in place, and the answers that it keeps.

    talk_of(row, layout, 1, "What is it?", "")      # Talk([("human", "<image>\\nWhat is it?"), ("gpt", "a dog")], [])

A system text and the list of tools go before the first question, the human says a tool's result, gpt says the call:
human/gpt records have no other place for them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from data_prep.converters.labels import with_names
from data_prep.converters.questions import asked, pairs_of, suffix_for
from data_prep.converters.rows import Row, cell_at
from data_prep.converters.texts import NoText, kind_of_value, text_of, texts_of
from data_prep.converters.vqa_answers import most_common_answer
from data_prep.hf.layouts import Layout
from data_prep.hf.marks import Turn, with_images
from data_prep.hf.parts import Unseen, calls_text, content_text

ROLES = {
    "human": "human", "user": "human", "observation": "tool", "tool": "tool", "function": "tool", "ipython": "tool",
    "tool_response": "tool", "gpt": "gpt", "assistant": "gpt", "bot": "gpt", "model": "gpt", "chatgpt": "gpt",
    "function_call": "call", "tool_call": "call", "system": "system", "developer": "system",
}  # fmt: skip
SPOKEN = {"human": "human", "tool": "human", "gpt": "gpt", "call": "gpt"}
UNTAUGHT: dict[str, tuple[object, ...]] = {"weight": (0,), "loss": (False,), "train": (False,)}
"""How OpenAI, ms-swift and axolotl say that an answer is there to be read only."""
UNSEEN_COLUMNS = ("videos", "video", "audios", "audio")


class Talk(NamedTuple):
    """Turns, and all answers of the one question where the layout has one; `apart`: its questions are independent."""

    turns: list[Turn]
    answers: list[str]
    apart: bool = False


def talk_of(row: Row, layout: Layout, num_images: int, question: str, suffix: str) -> Talk:
    """Return the turns of a row; `question` goes before captions, `suffix` behind questions.

    Raises ValueError, with the reason, for turns that are not human, gpt, human, gpt ..., and for `<image>` that do not
    pair up with the pictures; NoText for what is no text, Unseen for video and sound.
    """
    if layout.names:
        row = with_names(row, layout.names)
    if unseen := next((name for name in UNSEEN_COLUMNS if row.get(name)), None):
        raise Unseen(f'column "{unseen}"')
    answers: list[str] = []
    apart = False
    if layout.kind == "question":
        turns, answers, apart = _questions(row, layout, suffix)
    elif layout.kind == "caption":
        turns = [("human", question), ("gpt", next(iter(texts_of(cell_at(row, layout.text))), ""))]
    else:
        turns = list(TURNS[layout.kind](row.get(layout.text) or []))
    turns = _joined(_with_history(row, turns), row)
    return Talk(with_images(_in_order(turns), num_images, bare=layout.kind == "caption"), answers, apart)


def _questions(row: Row, layout: Layout, suffix: str) -> tuple[list[Turn], list[str], bool]:
    assert layout.columns is not None
    several = cell_at(row, layout.text)
    if isinstance(several, list):
        pairs = pairs_of(several, cell_at(row, layout.columns.answer))
        ended = [(f"{text}\n{suffix}" if suffix and text else text, answer) for text, answer in pairs]
        return [turn for text, answer in ended for turn in (("human", text), ("gpt", answer))], [], True
    found = asked(row, layout.columns)
    if not found.question.strip():
        raise ValueError("an empty question")
    end = suffix_for(found, suffix)
    text = f"{found.question}\n{end}" if end else found.question
    return [("human", text), ("gpt", most_common_answer(found.answers or [""]))], found.answers, False


def _messages(turns: Any) -> Iterator[Turn]:
    for turn in _listed(turns):
        role = _role(turn, "role")
        text = content_text(turn.get("content") if "content" in turn else turn.get("parts"))
        if calls := turn.get("tool_calls"):
            text = "\n".join(part for part in (text, calls_text(calls)) if part)
        yield role, text


def _conversations(turns: Any) -> Iterator[Turn]:
    for turn in _listed(turns):
        yield _role(turn, "from"), content_text(turn.get("value"))


def _texts(turns: Any) -> Iterator[Turn]:
    for turn in _listed(turns):
        if not isinstance(turn, Mapping):
            raise ValueError(f"a turn is an object with user and assistant, found {kind_of_value(turn)}")
        yield "human", text_of(turn.get("user"))
        yield "gpt", text_of(turn.get("assistant"))


TURNS = {"messages": _messages, "conversations": _conversations, "texts": _texts}


def _listed(turns: Any) -> list[Any]:
    if not isinstance(turns, list):
        raise NoText(f"turns are a list, found {kind_of_value(turns)}")
    return turns


def _role(turn: Any, key: str) -> str:
    if not isinstance(turn, Mapping):
        raise ValueError(f"a turn is an object with {key}, found {kind_of_value(turn)}")
    role = ROLES.get(str(turn.get(key)).lower())
    if role is None:
        raise ValueError(f'unknown role "{turn.get(key)}"')
    if SPOKEN.get(role) == "gpt" and (
        untaught := next((key for key in UNTAUGHT if turn.get(key) in UNTAUGHT[key]), None)
    ):
        problem = "is not to be learned, and a record teaches every answer"
        said = f"{untaught} {str(turn[untaught]).lower()}"
        raise ValueError(f"an answer with {said} {problem}: make it a part of the question")
    return role


def _with_history(row: Row, turns: list[Turn]) -> list[Turn]:
    """Return the turns with those of `history` before them: [[question, answer], ...], as LLaMA-Factory has it."""
    history = row.get("history")
    if not isinstance(history, list) or not history:
        return turns
    before: list[Turn] = []
    for pair in history:
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise ValueError("history is a list of [question, answer]")
        before += [("human", text_of(pair[0])), ("gpt", text_of(pair[1]))]
    return [*before, *turns]


def _joined(turns: Iterable[Turn], row: Row) -> list[Turn]:
    """Return spoken turns: system texts and tools before the first question, results and calls joined to neighbours."""
    system = [text for name in ("system", "tools") if (text := _column(row, name))]
    spoken: list[tuple[str, str]] = []
    before = ""
    for role, text in turns:
        if role == "system":
            system += [text] if text.strip() else []
            continue
        joins = spoken and SPOKEN[role] == spoken[-1][0] and (role in {"tool", "call"} or before in {"tool", "call"})
        if joins:
            spoken[-1] = (spoken[-1][0], f"{spoken[-1][1]}\n{text}")
        else:
            spoken.append((SPOKEN[role], text))
        before = role
    words = "\n".join(system)
    if words and spoken:
        spoken[0] = (spoken[0][0], f"{words}\n\n{spoken[0][1]}")
    return spoken


def _column(row: Row, name: str) -> str:
    value = row.get(name)
    return value.strip() if isinstance(value, str) and value.strip() not in {"[]", "{}"} else ""


def _in_order(turns: Sequence[Turn]) -> list[Turn]:
    roles = [role for role, _ in turns]
    if not roles or roles != ["human", "gpt"] * (len(roles) // 2):
        raise ValueError(f"turns {', '.join(roles[:4]) or 'missing'}: expected human, gpt, human, gpt ...")
    empty = next((place for place, (role, text) in enumerate(turns) if role == "gpt" and not text.strip()), None)
    if empty is not None:
        raise ValueError(f"turn {empty + 1}: an empty answer")
    return list(turns)
