"""The layouts of Hugging Face rows, recognised by their columns, each to turns of (role, text) with `<image>` in place.

    layout = recognise({"messages": [...], "images": [...]}, Columns(), "mix-vsft")
    turns_of(row, layout)      # [("human", "<image>\\nWhat is it?"), ("gpt", "a dog")]

| Layout | Columns | Known from |
|---|---|---|
| messages | `messages` [{role, content: text or parts}], `images` | TRL; HuggingFaceH4/llava-instruct-mix-vsft |
| conversations | `conversations` [{from, value}], `image` or `images` | LLaVA |
| texts | `texts` [{user, assistant}], `images` | HuggingFaceM4/the_cauldron |
| question | `image`, `question`, `answer` or `answers` | OK-VQA and VQAv2 mirrors |
| caption | `image`, `caption` or `text` | COCO captions, chess pieces |
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from data_prep.converters.rows import Row, column
from data_prep.converters.vqa_answers import most_common_answer
from data_prep.errors import DataError
from data_prep.records.record import IMAGE_TOKEN

IMAGE_COLUMNS = ("images", "image", "img", "picture", "jpg", "png", "image_path")
QUESTION_COLUMNS = ("question", "query", "prompt", "instruction")
ANSWER_COLUMNS = ("answers", "answer", "multiple_choice_answer", "label", "response", "output")
CAPTION_COLUMNS = ("caption", "text", "captions", "description", "sentences")
ROLES = {"human": "human", "user": "human", "gpt": "gpt", "assistant": "gpt", "bot": "gpt", "model": "gpt"}

Turn = tuple[str, str]


class Columns(NamedTuple):
    """Columns that the caller named; None where they are to be recognised."""

    image: str | None = None
    messages: str | None = None
    question: str | None = None
    answer: str | None = None
    caption: str | None = None


class Layout(NamedTuple):
    """A recognised layout: its kind (see the table above) and the columns that play each part."""

    kind: str
    image: str | None
    text: str
    answer: str | None = None


def recognise(row: Row, asked: Columns, source: str) -> Layout:
    """Return the layout of a data set by its first row; raise DataError that lists the columns when there is none."""
    image = _image_column(row, asked.image, source)
    if asked.messages:
        name = column(row, asked.messages, (), "messages", source, "--messages-column")
        return Layout(_kind_of_turns(row[name]), image, name)
    if not (asked.question or asked.caption):
        for name in ("messages", "conversations", "conversation", "texts"):
            if isinstance(row.get(name), list):
                return Layout(_kind_of_turns(row[name]), image, name)
    has_question = any(str(name).lower() in QUESTION_COLUMNS for name in row)
    if asked.question or (has_question and not asked.caption):
        question = column(row, asked.question, QUESTION_COLUMNS, "question", source, "--question-column")
        answer = column(row, asked.answer, ANSWER_COLUMNS, "answer", source, "--answer-column")
        return Layout("question", image, question, answer)
    return Layout("caption", image, column(row, asked.caption, CAPTION_COLUMNS, "caption", source, "--caption-column"))


def _image_column(row: Row, asked: str | None, source: str) -> str | None:
    if asked:
        return column(row, asked, (), "picture", source, "--image-column")
    return next((name for name in IMAGE_COLUMNS if name in row), None)


def _kind_of_turns(turns: Any) -> str:
    first: Any = next(iter(turns or []), {})
    if isinstance(first, Mapping) and {"user", "assistant"} <= set(first):
        return "texts"
    return "conversations" if isinstance(first, Mapping) and "from" in first else "messages"


def turns_of(row: Row, layout: Layout, num_images: int, question: str, suffix: str) -> list[Turn]:
    """Return the turns of a row, `<image>` put at the front where the row does not place it.

    `question` goes before captions, `suffix` behind questions. Raises ValueError, with the reason, for turns that are
    not human, gpt, human, gpt ..., and for `<image>` that do not pair up with the pictures.
    """
    if layout.kind == "messages":
        turns = _joined((_role(turn, "role"), _content(turn.get("content"))) for turn in row[layout.text] or [])
    elif layout.kind == "conversations":
        turns = _joined((_role(turn, "from"), str(turn.get("value") or "")) for turn in row[layout.text] or [])
    elif layout.kind == "texts":
        pairs = [(turn.get("user") or "", turn.get("assistant") or "") for turn in row[layout.text] or []]
        turns = [turn for user, answer in pairs for turn in (("human", user), ("gpt", answer))]
    elif layout.kind == "question":
        asked = str(row[layout.text] or "")
        if not asked.strip():
            raise ValueError("an empty question")
        answer = most_common_answer(answers_of(row, layout) or [""])
        turns = [("human", f"{asked}\n{suffix}" if suffix and asked else asked), ("gpt", answer)]
    else:
        turns = [("human", question), ("gpt", str((_listed(row[layout.text]) or [""])[0] or ""))]
    return _with_images(_in_order(turns), num_images)


def answers_of(row: Row, layout: Layout) -> list[str]:
    """Return all reference answers of a question row: a text, a number, texts, or [{"answer": text}]."""
    values = _listed(row.get(layout.answer or ""))
    texts = [value.get("answer") if isinstance(value, Mapping) else value for value in values]
    return [str(text) for text in texts if text is not None and str(text).strip()]


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]


def _role(turn: Any, key: str) -> str:
    if not isinstance(turn, Mapping):
        raise ValueError(f"a turn is an object with {key}, found {turn!r:.60}")
    role = str(turn.get(key)).lower()
    if role not in ROLES and role != "system":
        raise ValueError(f'unknown role "{turn.get(key)}"')
    return ROLES.get(role, role)


def _content(content: Any) -> str:
    """Return a message's text: as it is, or its parts in order, each picture as `<image>` on a line of its own."""
    if isinstance(content, str) or content is None:
        return content or ""
    text = ""
    for part in content:
        piece = IMAGE_TOKEN if part.get("type") == "image" else str(part.get("text") or "")
        apart = text and piece and IMAGE_TOKEN in (piece, text[-len(IMAGE_TOKEN) :])
        text += ("\n" if apart and not text.endswith("\n") and not piece.startswith("\n") else "") + piece
    return text


def _joined(turns: Iterable[Turn]) -> list[Turn]:
    """Return the turns with a system text before the first question: human/gpt records have no other place for it."""
    system: list[Turn] = []
    rest: list[Turn] = []
    for role, text in turns:
        (system if role == "system" else rest).append((role, text))
    words = "\n".join(text for _, text in system if text.strip())
    if words and rest:
        rest[0] = (rest[0][0], f"{words}\n\n{rest[0][1]}")
    return rest


def _in_order(turns: Sequence[Turn]) -> list[Turn]:
    roles = [role for role, _ in turns]
    if not roles or roles != ["human", "gpt"] * (len(roles) // 2):
        raise ValueError(f"turns {', '.join(roles[:4]) or 'missing'}: expected human, gpt, human, gpt ...")
    empty = next((place for place, (role, text) in enumerate(turns) if role == "gpt" and not text.strip()), None)
    if empty is not None:
        raise ValueError(f"turn {empty + 1}: an empty answer")
    return list(turns)


def _with_images(turns: list[Turn], num_images: int) -> list[Turn]:
    tokens = sum(text.count(IMAGE_TOKEN) for role, text in turns if role == "human")
    if tokens == 0 and num_images:
        marks = "\n".join([IMAGE_TOKEN] * num_images)
        turns[0] = ("human", f"{marks}\n{turns[0][1]}" if turns[0][1] else marks)
    elif tokens != num_images:
        raise ValueError(f"{tokens} <image> for {num_images} pictures")
    if any(IMAGE_TOKEN in text for role, text in turns if role == "gpt"):
        raise ValueError("<image> in an answer")
    if any(role == "human" and not text.strip() for role, text in turns):
        raise ValueError("an empty question")
    return turns


def require_known(layout: Layout, row: Row, source: str) -> None:
    """Raise DataError when a data set has no picture column at all."""
    if layout.image is None:
        columns = ", ".join(map(str, row))
        raise DataError(source, f"no picture column; there are {columns}; name it with --image-column")
