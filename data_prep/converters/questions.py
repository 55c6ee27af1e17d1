"""Question and answers of a row, as texts: one function for tables and for Hugging Face data sets.

    columns = question_columns(row, None, None, "pets.csv")
    asked(row, columns, "")      # Asked("What animal is this?", ("a cat", "a cat", "a dog"))

Choices are listed under their question, `input` follows its `instruction`, and what is no text is refused by its kind.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from data_prep.converters.choices import LETTER_PROMPT, choice_columns, choices_in, letters_of, with_choices
from data_prep.converters.rows import Row, cell_at, column, usual_column
from data_prep.converters.texts import NoText, kind_of_value, text_of, texts_of
from data_prep.converters.usual_names import ANSWER_NAMES, QUESTION_NAMES
from data_prep.errors import DataError

CHOICE_CONTEXT = "hint"
INPUT = "input"


class QuestionColumns(NamedTuple):
    """The columns of question and answer; `choices`: the column (or A, B, C ...) of the choices, none where none.

    `question` is "" where one question is given for all rows. `more`: what follows the question (Alpaca's `input`);
    `context`: what goes before a question with choices (ScienceQA's `hint`).
    """

    question: str
    answer: str
    choices: tuple[str, ...] = ()
    more: str | None = None
    context: str | None = None


class Asked(NamedTuple):
    """A question and all its answers, none where there is none; `letter` where the answer is a choice's letter."""

    question: str
    answers: list[str]
    letter: bool = False


def question_columns(
    row: Row, question: str | None, answer: str | None, source: object, given: bool = False
) -> QuestionColumns:
    """Return the columns of a table by its first row; `given`: one question is given for all rows.

    Raises DataError for a missing column, and for one that holds objects, naming their keys.
    """
    asked_in = "" if given else column(row, question, QUESTION_NAMES, "question", source, "--question-column")
    answered_in = column(row, answer, ANSWER_NAMES, "answer", source, "--answer-column")
    if asked_in and not isinstance(cell_at(row, asked_in), list | tuple):
        require_text(cell_at(row, asked_in), asked_in, "--question-column", source)
    require_text(cell_at(row, answered_in), answered_in, "--answer-column", source)
    choices = tuple(name for name in choice_columns(row) if name not in {asked_in, answered_in})
    more = usual_column(row, (INPUT,)) if asked_in.lower() == "instruction" else None
    context = usual_column(row, (CHOICE_CONTEXT,)) if choices else None
    return QuestionColumns(asked_in, answered_in, choices, more, context)


def require_text(value: Any, name: str, option: str, source: object) -> None:
    """Raise DataError for an object (or a list of them) in a column of texts: its keys, and how to reach into it."""
    inside = next((one for one in value if one is not None), None) if isinstance(value, list | tuple) else value
    if not isinstance(inside, Mapping) or (inside is not value and "answer" in inside):
        return
    keys = [str(key) for key in inside]
    what = "objects" if inside is not value else "an object"
    text = next((key for key in keys if isinstance(inside[key], str)), keys[0] if keys else None)
    advice = f"name the one to take, for example {option} {name}.{text}" if text else "drop it"
    raise DataError(source, f'column "{name}" holds {what} with the keys {", ".join(keys)}; {advice}')


def asked(row: Mapping[str, Any], columns: QuestionColumns, question: str | None = None) -> Asked:
    """Return the question (`question`, where one is given for all rows) and the answers of a row.

    Raises NoText, naming the column, for what is no text and for an answer that is none of the choices.
    """
    text = question if question is not None else _question(row, columns)
    value = cell_at(row, columns.answer)
    choices = _told(columns.choices[0], choices_in, row, columns.choices) if columns.choices else []
    if not choices:
        return Asked(text, _told(columns.answer, texts_of, value))
    answers = texts_of(value) if isinstance(value, str) else value
    if isinstance(answers, list) and len(answers) > 1 and all(isinstance(one, str) for one in answers):
        return Asked(text, texts_of(answers))  # of several people: the question stands without its choices
    letters = _told(columns.answer, letters_of, answers, choices)
    context = text_of(row.get(columns.context)).strip() if columns.context else ""
    text = with_choices(f"Context: {context}\n{text}" if context else text, choices) if text.strip() else text
    return Asked(text, [letters] if letters else [], letter=True)


def _question(row: Mapping[str, Any], columns: QuestionColumns) -> str:
    text: str = _told(columns.question, text_of, cell_at(row, columns.question))
    more = _told(columns.more, text_of, row.get(columns.more)).strip() if columns.more else ""
    return f"{text}\n{more}" if more else text


def _told(name: str, read: Any, *values: Any) -> Any:
    try:
        return read(*values)
    except NoText as error:
        raise NoText(f'column "{name}": {error}') from None


def suffix_for(found: Asked, suffix: str) -> str:
    """Return what follows the question: the suffix asked for, else LLaVA's prompt for letters after choices."""
    return suffix or (LETTER_PROMPT if found.letter else "")


def pairs_of(questions: Sequence[Any], answers: Any) -> list[tuple[str, str]]:
    """Return the questions and answers of a row that holds several of each; raise NoText where they do not pair up."""
    some = answers if isinstance(answers, list | tuple) else [answers]
    if len(some) != len(questions):
        raise NoText(f"{len(questions)} questions and {len(some)} answers ({kind_of_value(answers)})")
    return [(text_of(question), text_of(answer)) for question, answer in zip(questions, some, strict=True)]
