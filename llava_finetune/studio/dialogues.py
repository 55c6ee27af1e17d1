"""dialogues.json: records that one row of answers.csv cannot hold, kept whole. The grid shows each of their turns.

A dialogue, pictures between the words, a text without a picture, and every other key of a record (`answers`, a system
turn) stay as they came; what is typed changes the text of that one turn.

turn_rows({"id": "talk", "image": ["a.png", "b.png"], "conversations": [...]})
# [{"id": "talk #1/2", "of": "talk", "turn": "1", "turns": "2", "image": "a.png", ...}, ...]

How many turns there are stands in each turn's id, so that what was typed before one came or went is never taken for
another's text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from data_prep.converters.cells import names_in
from data_prep.converters.options import with_suffix
from data_prep.converters.questions import asked, question_columns, suffix_for
from data_prep.converters.texts import NoText
from data_prep.converters.vqa_answers import most_common_answer
from data_prep.errors import DataError
from data_prep.files import write_json
from data_prep.records.marks import IMAGE_TOKEN
from data_prep.records.record import conversation, read_records
from llava_finetune.studio.refusals import Refused

NAME = "dialogues.json"
PLAIN_KEYS = frozenset({"id", "image", "conversations"})
ROW = "row"
"""The key under which a record keeps the cells of the table's row that it was made of; training reads it nowhere."""
BEFORE = "stands_before"
"""The key that says which record the grid shows behind a dialogue that was a row; training reads it nowhere."""
MARKS = re.compile(rf"(?:{re.escape(IMAGE_TOKEN)}\s*)+")
"""Places of pictures before the words of a question: kept, and not shown in the grid."""

Record = dict[str, Any]


def read_dialogues(path: Path) -> list[Record]:
    """The records that are kept whole, each with an id of its own; none where there is no file.

    Raises DataError for a file that holds no records.
    """
    return _named(read_records(path), set()) if path.exists() else []


def write_dialogues(path: Path, records: Iterable[Record]) -> None:
    """Write them, whole or not at all."""
    write_json(path, list(records))


def is_plain(record: Mapping[str, Any]) -> bool:
    """Whether a row with one picture, one question and one answer says all that the record says."""
    turns, image = record.get("conversations"), record.get("image")
    if not PLAIN_KEYS.issuperset(record) or not isinstance(image, str) or not isinstance(turns, list):
        return False
    pairs = _pairs(turns)
    if len(pairs) != 1:
        return False
    question, answer = (_text(turns[place]) for place in pairs[0])
    return conversation([(_words(question), answer)]) == turns


def turn_rows(record: Mapping[str, Any]) -> list[dict[str, str]]:
    """A row for each question of a record with its answer."""
    turns = record.get("conversations")
    turns = turns if isinstance(turns, list) else []
    name, pictures, pairs = str(record.get("id") or ""), pictures_of(record), _pairs(turns)
    return [
        {
            "id": turn_id(name, number, len(pairs)),
            "of": name,
            "turn": str(number),
            "turns": str(len(pairs)),
            "image": pictures[0] if pictures else "",
            "pictures": json.dumps(pictures, ensure_ascii=False),
            "question": _words(_text(turns[place])),
            "answer": _text(turns[said]),
        }
        for number, (place, said) in enumerate(pairs, 1)
    ]


def in_place(typed: Sequence[dict[str, str]], records: Sequence[Record]) -> list[dict[str, str]]:
    """The rows of a table and the turns of dialogues: where a row became one, it stays; the others come last."""
    named = {*(row["id"] for row in typed), *(str(record["id"]) for record in records)}
    waiting: dict[str, list[Record]] = {}
    for record in records:
        waiting.setdefault(str(record.get(BEFORE) or ""), []).append(record)

    def ahead_of(name: str) -> list[dict[str, str]]:
        """Turns of the dialogues that stand before this one, and before those."""
        backwards: list[Record] = []
        near = waiting.pop(name, [])
        while near:
            backwards.append(near.pop())
            near += waiting.pop(str(backwards[-1]["id"]), [])
        return [row for record in reversed(backwards) for row in turn_rows(record)]

    rows = [one for row in typed for one in (*ahead_of(row["id"]), row)]
    for record in [record for record in records if str(record.get(BEFORE) or "") not in named]:
        rows += [*ahead_of(str(record["id"])), *turn_rows(record)]
    placed = {row["of"] for row in rows if "of" in row}  # a file edited by hand may lead round in a circle
    return [*rows, *(row for record in records if str(record["id"]) not in placed for row in turn_rows(record))]


def turn_id(record: str, turn: int, turns: int) -> str:
    """What names a turn in the grid."""
    return f"{record} #{turn}/{turns}"


def record_of(row: Mapping[str, str]) -> str:
    """The id of the record that a row of the grid belongs to: its dialogue's, else its own."""
    return row.get("of") or row["id"]


def with_turn(record: Record, turn: int, column: str, text: str) -> Record:
    """The record with another question or answer in a turn; the places of pictures before the question stay."""
    turns = list(record["conversations"])
    question, said = _pairs(turns)[turn - 1]
    place = question if column == "question" else said
    before = MARKS.match(_text(turns[place])) if column == "question" else None
    turns[place] = {**turns[place], "value": (before[0] if before else "") + text}
    changed = {**record, "conversations": turns}
    if column == "answer":  # what the old answer was chosen from is scored no more
        more = _lists_of_turns(record, num_turns(record)).get("answers")
        if more and num_turns(record) > 1:
            changed["answers"] = [[text] if place == turn - 1 else one for place, one in enumerate(more)]
        else:
            changed.pop("answers", None)
    return changed


def num_turns(record: Mapping[str, Any]) -> int:
    """How many questions with an answer a record has."""
    return len(_pairs(record["conversations"]))


def as_dialogue(row: Mapping[str, str], images: Path) -> Record:
    """A row of the table as the record that `data_prep table` makes of it, its choices listed under the question.

    An answer that is missing stays empty; the row's own cells stay under ROW. Raises Refused for a row that is not
    taught: an answer that is none of the choices, choices without a question.
    """
    try:
        names = names_in(row, ("image",), images)
        columns = question_columns(dict(row), "question", "answer", "answers.csv")
        found = asked(row, columns)
    except NoText as error:
        raise Refused("row_not_taught", problem=str(error)) from None
    if columns.choices and not found.question.strip():
        raise Refused("row_not_taught", problem='column "question": ""')
    question = with_suffix(found.question, suffix_for(found, ""))
    turns = conversation([(question, most_common_answer(found.answers) if found.answers else "")], len(names))
    record: Record = {"id": row["id"], "image": names[0] if len(names) == 1 else names, "conversations": turns}
    record[ROW] = {name: value for name, value in row.items() if name != "id"}
    if not names:
        del record["image"]
    return {**record, "answers": found.answers} if len(found.answers) > 1 else record


def ids_of(records: Iterable[Mapping[str, Any]]) -> set[str]:
    """The ids that dialogues and their turns have in the grid."""
    return {name for record in records for name in (str(record["id"]), *(row["id"] for row in turn_rows(record)))}


def with_new_turn(record: Record, turn: int) -> Record:
    """The record with a question and an answer, both empty, behind a turn."""
    turns = list(record["conversations"])
    pairs = _pairs(turns)
    behind = pairs[turn - 1][1] + 1
    turns[behind:behind] = conversation([("", "")], num_images=0)
    more = _lists_of_turns(record, len(pairs))
    for name, values in more.items():
        values.insert(turn, [] if name == "answers" else f"{record['id']}-{turn + 1}" if name == "question_ids" else "")
    return {**record, "conversations": turns, **more}


def _lists_of_turns(record: Record, count: int) -> dict[str, list[Any]]:
    """The keys of a record that hold an entry for each of its `count` questions; a single one's answers become so."""
    found = {name: list(record[name]) for name in ("question_types", "question_ids") if _has(record, name, count)}
    answers = record.get("answers")
    if count == 1 and isinstance(answers, list) and answers and all(isinstance(one, str) for one in answers):
        return {**found, "answers": [answers]}
    if _has(record, "answers", count) and all(isinstance(one, list) for one in record["answers"]):
        return {**found, "answers": list(record["answers"])}
    return found


def _has(record: Record, name: str, count: int) -> bool:
    return isinstance(record.get(name), list) and len(record[name]) == count


def without_turn(record: Record, turn: int) -> Record:
    """The record without a turn; the places of pictures in it go to the next question, else to the one before."""
    turns = list(record["conversations"])
    pairs = _pairs(turns)
    question, said = pairs[turn - 1]
    marks = sum(_text(turns[place]).count(IMAGE_TOKEN) for place in (question, said))
    if marks:
        heir = pairs[turn][0] if turn < len(pairs) else pairs[turn - 2][0]
        text = _text(turns[heir])
        lines = f"{IMAGE_TOKEN}\n" * marks
        # pictures pair with their places in order, so those of a last question stay behind the others
        turns[heir] = {**turns[heir], "value": lines + text if heir > question else f"{text}\n{lines}".rstrip()}
    del turns[question : said + 1]
    more = _lists_of_turns(record, len(pairs))
    for values in more.values():
        del values[turn - 1]
    return {**record, "conversations": turns, **more}


def pictures_of(record: Mapping[str, Any]) -> list[str]:
    """Names of a record's pictures."""
    image = record.get("image")
    named = image if isinstance(image, list) else [image]
    return [one for one in named if isinstance(one, str) and one]


def joined(kept: Sequence[Record], more: Iterable[Record], taken: Iterable[str]) -> tuple[list[Record], int]:
    """`kept` with those of `more` that are not among them by pictures and questions, and how many those are.

    Each new one has an id that is neither `taken` nor another's.
    """
    seen, new = {_key(record) for record in kept}, []
    for record in more:
        if _key(record) not in seen:
            seen.add(_key(record))
            new.append(record)
    return [*kept, *_named(new, {*taken, *(str(one["id"]) for one in kept)})], len(new)


def _named(records: Iterable[Record], taken: set[str]) -> list[Record]:
    """The records, each with an id that none before it has and that is not `taken`."""
    names = set(taken)
    return [
        {**record, "id": take_name(str(record.get("id") or f"dialogue-{number}"), names)}
        for number, record in enumerate(records, 1)
    ]


def take_name(wanted: str, taken: set[str]) -> str:
    """`wanted`, with a number behind it where it is taken; it is taken from now on."""
    name, again = wanted, 2
    while name in taken:
        name, again = f"{wanted}-{again}", again + 1
    taken.add(name)
    return name


def require_turns(path: Path, place: object, record: Mapping[str, Any]) -> None:
    """Raise DataError for a record in which no question is followed by an answer: there is nothing to learn from it."""
    turns = record.get("conversations")
    if not isinstance(turns, list) or not _pairs(turns):
        raise DataError(path, f"{place}: no question that an answer follows; mend the record, or take it out")


def _key(record: Mapping[str, Any]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    return tuple(pictures_of(record)), tuple(row["question"] for row in turn_rows(record))


def _pairs(turns: Sequence[Any]) -> list[tuple[int, int]]:
    """Places of each question and of the answer after it."""
    spoken = [turn.get("from") if isinstance(turn, Mapping) else None for turn in turns]
    return [
        (place, place + 1) for place in range(len(turns) - 1) if spoken[place] == "human" and spoken[place + 1] == "gpt"
    ]


def _text(turn: Mapping[str, Any]) -> str:
    value = turn.get("value")
    return value if isinstance(value, str) else ""


def _words(text: str) -> str:
    return MARKS.sub("", text, count=1) if MARKS.match(text) else text
