"""Two answers to one question, read from a row of any layout of preference data.

answers_in({"question": "Is there a dog?", "answer": "yes", "reference": "no", "image": "a.jpg"}).rejected    # "yes"
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from data_prep.errors import UserError, quoted
from data_prep.records.marks import IMAGE_TOKEN
from data_prep.records.output import Reason
from data_prep.records.preference import text_of

SIDES = {"user": "human", "human": "human", "assistant": "gpt", "gpt": "gpt", "model": "gpt"}
PICTURES = ("images", "image", "image_path", "img")
Turns = list[tuple[str, str]]


class NoPair(Exception):
    """A row that gives no pair, and why."""

    def __init__(self, why: Reason, detail: str = "") -> None:
        """Keep the reason; the detail is the message."""
        self.why = why
        super().__init__(detail)


@dataclass(frozen=True)
class Answers:
    """A conversation up to its question, two answers, and the cells or names of its pictures."""

    turns: Turns
    chosen: str
    rejected: str
    pictures: tuple[Any, ...]


def answers_in(row: Mapping[str, Any], image_name: str = "{}.jpg", false_yes: bool = False) -> Answers:
    """Return the two answers of a row. Raises NoPair where there are none, or where they are the same."""
    if "reference" in row and "answer" in row:
        turns, chosen, rejected = _wrong_answer(row, false_yes)
    else:
        turns, chosen, rejected = _preferred(row)
    if not turns or turns[-1][0] != "human":
        raise NoPair(Reason.NO_QUESTION, "the turns do not end with a question")
    if not chosen.strip() or not rejected.strip():
        raise NoPair(Reason.NO_ANSWER, "chosen" if not chosen.strip() else "rejected")
    if " ".join(chosen.split()) == " ".join(rejected.split()):
        raise NoPair(Reason.SAME_ANSWERS, quoted(chosen))
    return Answers(turns, chosen, rejected, _pictures(row, image_name))


def _wrong_answer(row: Mapping[str, Any], false_yes: bool) -> tuple[Turns, str, str]:
    """A prediction's question, its reference and what the model said, where that is wrong."""
    from llava_finetune.evaluation import metrics
    from llava_finetune.evaluation.yes_no import expected, said

    answer, reference, question = (row.get(name) for name in ("answer", "reference", "question"))
    if not isinstance(answer, str) or not isinstance(reference, str) or not isinstance(question, str):
        raise NoPair(Reason.NOT_TEXT)
    wanted, told = expected({"reference": reference}), said(answer)
    try:
        accepted = {metrics.normalise(one) for one in metrics.references_of({**row, "reference": reference})}
    except UserError:
        raise NoPair(Reason.NOT_TEXT, f"answers {quoted(row.get('answers'), 40)}") from None
    if metrics.normalise(answer) in accepted | {metrics.normalise(reference)} or (wanted and told == wanted):
        raise NoPair(Reason.RIGHT)
    if false_yes and not (wanted == "no" and told == "yes"):
        raise NoPair(Reason.NO_FALSE_YES)
    if row.get("truncated"):
        raise NoPair(Reason.CUT_OFF, quoted(answer))
    return [("human", question)], reference, answer


def _preferred(row: Mapping[str, Any]) -> tuple[Turns, str, str]:
    chosen, rejected = row.get("chosen"), row.get("rejected", row.get("reject"))
    asked: Any = next((row[name] for name in ("conversations", "prompt", "question", "messages") if row.get(name)), [])
    turns = _turns(asked) if rejected is not None else []
    if chosen is None and turns and turns[-1][0] == "gpt":
        chosen = turns[-1][1]
    if chosen is None or rejected is None:
        raise NoPair(Reason.NO_PAIR, f"fields {', '.join(list(row)[:8])}")
    if row.get("correct") is True:
        raise NoPair(Reason.RIGHT)
    if turns and turns[-1][0] == "gpt":  # ours: the chosen answer stands behind its question
        turns = turns[:-1]
    shared, first = _split(chosen)
    other, second = _split(rejected)
    if turns and len(shared) > len(turns) and _is_end_of(shared[: len(turns)], turns):
        turns += shared[len(turns) :]  # whole dialogues that begin with the prompt
    for one, before in ((shared, turns), (other, turns or shared)):
        if (one or not turns) and not _is_end_of(before, one):
            problem = f"one answer follows {quoted(_last(before), 40)}, another {quoted(_last(one), 40)}"
            raise NoPair(Reason.BAD_TURNS, f"{problem}: answers to the same turns are a pair")
    turns = turns or shared
    system = _system(chosen)
    if turns and system and not any(system in text for _, text in turns):
        turns[0] = (turns[0][0], f"{system}\n{turns[0][1]}")
    return turns, first, second


def _split(value: Any) -> tuple[Turns, str]:
    """The turns before the last of an answer that is a conversation, and the text of the answer."""
    turns = value if isinstance(value, list) else []
    sides = [_is_system(turn) or _side(turn) for turn in turns if isinstance(turn, Mapping)]
    if len(turns) > 1 and len(sides) == len(turns) and all(sides) and not _is_system(turns[-1]):
        return _turns(turns[:-1]), _turns(turns[-1:])[0][1]
    text = text_of(value)
    if text is None and isinstance(value, list | Mapping):
        found = _turns(value if isinstance(value, list) else [value])
        text = found[0][1] if len(found) == 1 else None
    if text is None:
        raise NoPair(Reason.NOT_TEXT, quoted(value))
    return [], text


def _last(turns: Turns) -> str:
    return turns[-1][1] if turns else ""


def _is_end_of(turns: Turns, some: Turns) -> bool:
    """Say whether `some` are the last of `turns`; one's text may stand in the other's, as beside a system text."""
    if len(some) > len(turns):
        return not turns
    for (side, text), (own_side, own) in zip(turns[len(turns) - len(some) :], some, strict=True):
        one, other = (" ".join(each.replace(IMAGE_TOKEN, " ").split()) for each in (text, own))
        if side != own_side or not (one in other or other in one):
            return False
    return True


def _turns(value: Any) -> Turns:
    """Turns in any spelling: a text is the human's; a system text stands before the first question."""
    if isinstance(value, str):
        return [("human", value)]
    found: Turns = []
    system = ""
    for turn in value if isinstance(value, list) else []:
        if not isinstance(turn, Mapping):
            raise NoPair(Reason.NOT_TEXT, quoted(turn))
        side, text = _side(turn), _text(turn.get("value", turn.get("content")))
        if _is_system(turn):
            system = text
        elif side is None:
            raise NoPair(Reason.BAD_TURNS, quoted(turn))
        else:
            found.append((side, "\n".join(part for part in (system, text) if part)))
            system = ""
    return found


def _system(value: Any) -> str:
    """The system text of an answer that is a conversation; "" without one."""
    turns = [turn for turn in value if isinstance(turn, Mapping)] if isinstance(value, list) else []
    return "\n".join(_text(turn.get("value", turn.get("content"))) for turn in turns if _is_system(turn))


def _is_system(turn: Mapping[str, Any]) -> bool:
    return str(turn.get("role", turn.get("from"))).lower() == "system"


def _side(turn: Mapping[str, Any]) -> str | None:
    return SIDES.get(str(turn.get("role", turn.get("from"))).lower())


def _text(content: Any) -> str:
    """A turn's text; of parts the texts, and `<image>` where a picture stands among them."""
    if isinstance(content, str):
        return content
    pieces = []
    for part in content if isinstance(content, list) else []:
        if isinstance(part, Mapping) and isinstance(part.get("text"), str):
            pieces.append(part["text"])
        elif isinstance(part, Mapping) and str(part.get("type", "")).startswith("image"):
            pieces.append("<image>")
        else:
            raise NoPair(Reason.NOT_TEXT, quoted(part))
    if not pieces:
        raise NoPair(Reason.NOT_TEXT, quoted(content))
    return "\n".join(pieces)


def _pictures(row: Mapping[str, Any], image_name: str) -> tuple[Any, ...]:
    cell = next((row[name] for name in PICTURES if row.get(name)), None)
    if cell is None and isinstance(row.get("image_id"), str | int):
        try:
            return (image_name.format(row["image_id"]),)
        except ValueError:  # {:012d} takes numbers only
            raise NoPair(Reason.NO_IMAGE, f"{quoted(row['image_id'], 40)} does not fit into {image_name}") from None
    cells: Sequence[Any] = cell if isinstance(cell, list) else [cell] if cell is not None else []
    return tuple(cells)
