"""The layouts of Hugging Face rows, recognised by their columns.

    layout = recognise({"messages": [...], "images": [...]}, Columns(), "mix-vsft", {})

| Layout | Columns | Known from |
|---|---|---|
| messages | `messages` [{role, content: text or parts}], `images` | TRL; HuggingFaceH4/llava-instruct-mix-vsft |
| conversations | `conversations` [{from, value}], `image` or `images` | LLaVA, ShareGPT |
| texts | `texts` [{user, assistant}], `images` | HuggingFaceM4/the_cauldron |
| question | `image`, `question`, `answer` or `answers`, `choices` | OK-VQA and VQAv2 mirrors, ScienceQA, Alpaca |
| caption | `image`, `caption` or `text`, or a class label | COCO captions, chess pieces |
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from shlex import quote
from typing import Any, NamedTuple

from data_prep.converters.cells import numbered_after
from data_prep.converters.labels import Names
from data_prep.converters.questions import QuestionColumns, question_columns, require_text
from data_prep.converters.rows import Row, cell_at, column, names_of, refuse_foreign, usual_column
from data_prep.converters.texts import parsed_list
from data_prep.converters.usual_names import ANSWER_NAMES, CAPTION_COLUMNS, QUESTION_NAMES
from data_prep.errors import DataError
from data_prep.hf.parts import pictures_in
from data_prep.hf.responses import INPUT, OUTPUT, messages_of

IMAGE_COLUMNS = (
    "images", "image", "img", "picture", "jpg", "jpeg", "png", "webp", "image_path", "image_file", "file_name",
    "filename", "image_name", "imgname", "photo", "image_0", "image_1", "image1", "page_1", "image_url", "url", "path",
)  # fmt: skip
LOOSE = ("contents", "items", "turns")
"""Columns of turns whose names others use for lists of all kinds."""
TURN_COLUMNS = ("messages", "conversations", "conversation", "texts", "dialog", "dialogue", *LOOSE)
NAMED = re.compile(r"<img>([^<>]+)</img>")
ASKING = {"human", "user"}
NOTHING = {"bytes": None, "path": None}
"""A picture's cell of a row without one, where `datasets` keeps pictures."""
LAYOUTS = (
    "turns lie under messages or conversations (--messages-column names another column), else pictures in a column "
    "(--image-column) with questions and answers or captions"
)


class Columns(NamedTuple):
    """Columns that the caller named; None where they are to be recognised."""

    image: str | None = None
    messages: str | None = None
    question: str | None = None
    answer: str | None = None
    caption: str | None = None


class Layout(NamedTuple):
    """A recognised layout: its kind (see the table above) and the columns that play each part.

    `stored`: how the turns lie in their column: "" as a list, "json" in a text, "columns" as an object of lists,
    "completion" the answer in a column of its own (TRL), "responses" what went in and came out of OpenAI's API.
    `names`: the names of the classes in the columns that are taught.
    """

    kind: str
    images: tuple[str, ...]
    text: str
    columns: QuestionColumns | None = None
    stored: str = ""
    names: Names | None = None

    @property
    def answer(self) -> str | None:
        return self.columns.answer if self.columns else None


def recognise(row: Row, wanted: Columns, source: str, names: Names | None = None) -> Layout:
    """Return the layout of a data set by its first row; `names` are those of its classes.

    Raises DataError that lists the columns when there is none, and for a column of objects where texts are read.
    """
    names = names or {}
    images = _image_columns(row, wanted.image, source)
    if wanted.messages:
        return _turns(row, column(row, wanted.messages, (), "messages", source, "--messages-column"), images)
    if not (wanted.question or wanted.caption):
        for name in TURN_COLUMNS:
            if name in row and _has_turns(row[name], name):
                return _turns(row, name, images)
        if turns_in(row.get("prompt")) and turns_in(row.get("completion")):
            return Layout("messages", images, "prompt", stored="completion")
        if messages_of(row.get(INPUT), turns_in(row.get(OUTPUT))):
            return Layout("messages", images, INPUT, stored="responses")
    asks = usual_column(row, QUESTION_NAMES) and (wanted.answer or usual_column(row, ANSWER_NAMES))
    captioned = usual_column(row, CAPTION_COLUMNS)
    if wanted.question or (not wanted.caption and (asks or (usual_column(row, QUESTION_NAMES) and not captioned))):
        columns = question_columns(row, wanted.question, wanted.answer, source)
        taught = {name: known for name, known in names.items() if name == columns.answer}
        return Layout("question", images, columns.question, columns, names=taught)
    label = next(iter(names)) if len(names) == 1 and not captioned else None
    refuse_foreign(row, source)
    if set(row) == set(images):
        advice = "give a table with a column caption"
        if Path(source).is_dir():
            words = f"python -m data_prep captions-template {quote(source)} --train captions.csv"
            advice = f"{words} writes the table to fill in"
        raise DataError(source, f"pictures alone; {advice}")
    if not (images or captioned or wanted.caption or label):
        raise DataError(source, f"no layout that is read, and no picture column; there are {names_of(row)}; {LAYOUTS}")
    text = column(row, wanted.caption or label, CAPTION_COLUMNS, "caption", source, "--caption-column")
    require_text(cell_at(row, text), text, "--caption-column", source)
    return Layout("caption", images, text, names={name: known for name, known in names.items() if name == text})


def _image_columns(row: Row, asked: str | None, source: str) -> tuple[str, ...]:
    if asked:
        return (column(row, asked, (), "picture", source, "--image-column"),)
    found = usual_column(row, IMAGE_COLUMNS)
    if found is None:
        pictures = [name for name, cell in row.items() if isinstance(cell, Mapping) and set(cell) == {"bytes", "path"}]
        found = pictures[0] if len(pictures) == 1 else None
    return (found, *numbered_after(row, found)) if found else ()


def _turns(row: Row, name: str, images: tuple[str, ...]) -> Layout:
    stored = "json" if isinstance(row[name], str) else "columns" if isinstance(row[name], Mapping) else ""
    turns = turns_in(row[name])
    first: Any = next(iter(turns or []), {})
    if isinstance(first, Mapping) and {"user", "assistant"} <= set(first):
        return Layout("texts", images, name, stored=stored)
    kind = "conversations" if isinstance(first, Mapping) and "from" in first else "messages"
    return Layout(kind, images, name, stored=stored)


def _has_turns(value: Any, name: str) -> bool:
    """Say whether a column holds turns; under a name that others use for lists of all kinds, by its first one."""
    turns = turns_in(value)
    if turns is None or name not in LOOSE:
        return turns is not None
    return bool(turns) and isinstance(turns[0], Mapping) and not {"role", "from"}.isdisjoint(turns[0])


def turns_in(value: Any) -> list[Any] | None:
    """Return the turns in a cell: a list, JSON in a text, or an object of lists; None for anything else."""
    if isinstance(value, list):
        return value
    if isinstance(value, str) and value.lstrip()[:1] == "[":
        return parsed_list(value.strip())
    columns = list(value.values()) if isinstance(value, Mapping) else []
    if columns and all(isinstance(one, list) and len(one) == len(columns[0]) for one in columns):
        return [dict(zip(value, some, strict=True)) for some in zip(*columns, strict=True)]
    return None


def with_turns(row: Row, layout: Layout) -> Row:
    """Return a row with its turns as a list, whatever way they are stored."""
    if layout.stored == "completion":
        parts = [turns_in(row.get(name)) for name in (layout.text, layout.stored)]
        return {**row, layout.text: [*parts[0], *parts[1]] if parts[0] and parts[1] else None}
    if layout.stored == "responses":
        given, answered = row.get(layout.text), turns_in(row.get(OUTPUT))
        return {**row, layout.text: messages_of(turns_in(given) or given, answered, row.get("instructions"))}
    return {**row, layout.text: turns_in(row.get(layout.text))} if layout.stored else row


def picture_cells(row: Row, layout: Layout) -> Sequence[Any]:
    """Return the cells of a row's pictures: those of its columns, else those that its messages hold themselves."""
    found: list[Any] = []
    for name in layout.images or _image_columns(row, None, ""):  # of JSON rows the first may have no picture
        value = cell_at(row, name)
        if isinstance(value, str) and value[:1] == "[" and value.rstrip()[-1:] == "]":
            value = parsed_list(value.strip()) or value
        cells = value if isinstance(value, list) else [value]
        found += [one for one in cells if one and one != NOTHING]
    if not found and layout.kind == "messages":
        found = pictures_in(row.get(layout.text))
    return found or list(names_in_questions(row, layout.text))


def names_in_questions(row: Row, text: str) -> Iterator[str]:
    """Yield the pictures that questions name themselves, as Qwen-VL writes them: <img>a.jpg</img>."""
    turns = row.get(text)
    if isinstance(turns, str):
        before = row.get("history")
        pairs = before if isinstance(before, list) else []
        turns = [*(pair[0] for pair in pairs if isinstance(pair, list | tuple) and pair), turns]
    for turn in turns if isinstance(turns, list) else ():
        if isinstance(turn, Mapping) and str(turn.get("from", turn.get("role"))).lower() not in ASKING:
            continue
        said = turn.get("value", turn.get("content")) if isinstance(turn, Mapping) else turn
        if isinstance(said, str) and "<img>" in said:
            yield from (name.strip() for name in NAMED.findall(said))


def require_known(layout: Layout, row: Row, source: str) -> None:
    """Raise DataError when a data set has no picture column at all."""
    if not layout.images and not any(names_in_questions(row, layout.text)):
        raise DataError(source, f"no picture column; there are {names_of(row)}; name it with --image-column")
