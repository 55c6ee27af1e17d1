"""Score predictions from anywhere against a records file, and write results in the official VQA upload format.

Answers made by another program, an older model or a person are scored by the code that scores ours. Three layouts are
read, as a JSON list or as JSON lines:

    {"id": "okvqa-51606", "turn": 0, "answer": "pony tail", ...}     ours: `llava-finetune evaluate` writes it
    {"question_id": 51606, "answer": "pony tail"}                     the official VQA results file
    {"question_id": 51606, "prompt": "...", "text": "pony tail"}      upstream's model_vqa

    llava-finetune evaluate --predictions results.json --data val.json
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import msgspec

from data_prep.files import write_text
from data_prep.records.json_text import BOM, MAX_DIGITS, conform, parse_json, require_regular
from llava_finetune.errors import UserError
from llava_finetune.evaluation import metrics

NUMBER_AT_END = re.compile(r"(\d+)$")


class PredictionRow(msgspec.Struct):
    """One prediction of a file, in any of the three layouts; `answer` and `text` are told apart afterwards."""

    turn: Annotated[int, msgspec.Meta(ge=0, le=2**31)] | None = None
    question_id: int | str | None = None
    question: str | None = None
    image: str | list[str] | None = None
    type: str | None = None
    question_type: str | None = None
    truncated: bool | None = None
    num_tokens: Annotated[int, msgspec.Meta(ge=0, le=2**31)] | None = None


class AnsweredRow(PredictionRow, kw_only=True):
    """One prediction as `evaluate` writes it."""

    question: str
    answer: str
    reference: str
    answers: list[str] | None = None


def score_file(
    predictions: Path, records: Path | None = None, *, partial: bool = False
) -> tuple[list[dict[str, Any]], metrics.Scores]:
    """Return the predictions of a file with their questions and references filled in, and their scores.

    `records` is the human/gpt file whose answers are the references; without it the predictions must carry `question`
    and `reference` themselves. Unless `partial`, every question of the records must be answered. Raises UserError
    naming the file and the first prediction or question that does not fit.
    """
    given = read_predictions(predictions)
    if records is None:
        complete = [_with_reference(item, predictions, number) for number, item in enumerate(given, start=1)]
    else:
        complete = _joined(given, predictions, records, partial)
    return complete, metrics.score(complete)


def read_predictions(path: Path) -> list[dict[str, Any]]:
    """Return the predictions of a JSON list or JSON lines file, each with a text in `answer`.

    Raises UserError when the file is missing, cut off, empty, or an entry has no answer or one that is not a text.
    """
    rows = _rows(path)
    if not rows:
        raise UserError(f"{path}: no predictions in it; give the file that evaluate wrote")
    return [_checked(row, path, number) for number, row in enumerate(rows, start=1)]


def is_prediction(row: Mapping[str, Any]) -> bool:
    """Whether a row is a prediction as `evaluate` writes it: a question, an answer, a reference, all of their types."""
    try:
        msgspec.convert(row, AnsweredRow)
    except (msgspec.ValidationError, UnicodeEncodeError):
        return False
    return True


def write_predictions(path: Path, predictions: Iterable[Mapping[str, Any]]) -> None:
    """Write predictions as JSON lines, whole or not at all."""
    write_text(path, "".join(json.dumps(dict(item), ensure_ascii=False) + "\n" for item in predictions))


def write_upload(path: Path, predictions: Sequence[Mapping[str, Any]]) -> None:
    """Write `[{"question_id": ..., "answer": ...}]`, the results file that the VQA evaluation servers take."""
    write_text(path, json.dumps(upload_rows(predictions), ensure_ascii=False, indent=0) + "\n")


def show(scores: metrics.Scores, as_json: bool, name: str) -> None:
    """Print scores in lines, or as JSON below their name."""
    if as_json:
        print(json.dumps({name: scores}))
        return
    rows = [("all", scores), *scores.get("by_type", {}).items()]
    for label, row in rows:
        low, high = row["interval"]
        interval = f"95 % [{low:.2%}, {high:.2%}]"
        print(f"{name:<11} {label:<8} exact match {row['exact_match']:7.2%}  {interval}  of {row['count']}")
    if scores.get("box_count"):
        (low, high), (least, most) = scores["box_iou_interval"], scores["box_accuracy_interval"]
        print(
            f"{name:<11} {'boxes':<8} mean IoU {scores['box_iou']:.3f}  95 % [{low:.3f}, {high:.3f}]  at IoU 0.5 "
            f"{scores['box_accuracy']:.2%}  95 % [{least:.2%}, {most:.2%}]  of {scores['box_count']}, "
            f"{scores['box_unread']} without a box"
        )
    for label, row in [("all", scores), *scores.get("by_question_type", {}).items()]:
        for key, text in (("yes_share", "says yes"), ("false_yes", "false yes")):
            if f"{key}_interval" in row:
                low, high = row[f"{key}_interval"]
                print(f"{name:<11} {label:<12} {text} {row[key]:7.2%}  95 % [{low:.2%}, {high:.2%}]")


def upload_rows(predictions: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return one `{"question_id", "answer"}` per prediction.

    The id is the data's own `question_id`, else the number at the end of the record's id (`okvqa-51606` is 51606), else
    the record's id. Raises UserError when two answers would get the same id.
    """
    rows = [{"question_id": question_id(item), "answer": item["answer"]} for item in predictions]
    seen: dict[Any, Any] = {}
    for row, item in zip(rows, predictions, strict=True):
        if row["question_id"] in seen:
            raise UserError(
                f"the upload format has one answer per question_id, but {row['question_id']!r} stands for "
                f"{seen[row['question_id']]} and {_name(item)}; give every record one question and its own question_id"
            )
        seen[row["question_id"]] = _name(item)
    return rows


def question_id(item: Mapping[str, Any]) -> Any:
    """Return the id by which evaluation servers know the question of a prediction or record."""
    if item.get("question_id") is not None:
        return item["question_id"]
    found = NUMBER_AT_END.search(str(item.get("id", "")))
    if found and len(found.group(1)) > MAX_DIGITS:
        raise UserError(
            f'record "{str(item["id"])[:40]}...": its id ends in a number of {len(found.group(1)):,} digits, which is '
            "no question_id; give the record a question_id of its own"
        )
    return int(found.group(1)) if found else item.get("id")


def _rows(path: Path) -> list[Any]:
    try:
        raw = require_regular(path, "predictions file").read_bytes().removeprefix(BOM)
        if raw.lstrip().startswith(b"["):
            return list(_parsed(raw, path, 1, "the list"))
        lines = enumerate(raw.split(b"\n"), start=1)
        return [_parsed(line, path, number, f"line {number}") for number, line in lines if line.strip()]
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); give a predictions file") from error


def _parsed(raw: bytes, path: Path, line: int, where: str) -> Any:
    try:
        return parse_json(raw, path, line)
    except json.JSONDecodeError as error:
        raise UserError(f"{path}: {where} is not JSON ({error}); the file may be cut off") from error


def _checked(row: Any, path: Path, number: int) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise UserError(f"{path}: prediction {number} is a {type(row).__name__}; expected an object with an answer")
    conform(row, PredictionRow, f"{path}: prediction {number}")
    answer = row.get("answer", row.get("text"))
    if not isinstance(answer, str):
        raise UserError(
            f"{path}: prediction {number} ({_name(row)}): answer is {json.dumps(answer)[:60]}; expected a text"
        )
    if found := metrics.length_fault(answer):
        raise UserError(f"{path}: prediction {number} ({_name(row)}): an answer of {found}")
    return {**row, "answer": answer}


def _with_reference(item: dict[str, Any], path: Path, number: int) -> dict[str, Any]:
    if not isinstance(item.get("reference"), str):
        raise UserError(
            f"{path}: prediction {number} ({_name(item)}) has no reference; give the records with --data RECORDS"
        )
    defaults = {"turn": 0, "image": None, "question": "", "answers": None, "question_type": None}
    return {**defaults, **item, "type": metrics.type_of(item)}


def _joined(given: list[dict[str, Any]], path: Path, records: Path, partial: bool) -> list[dict[str, Any]]:
    questions = _questions(records)
    by_question_id: dict[Any, list[dict[str, Any]]] = {}
    for question in questions.values():
        by_question_id.setdefault(str(question_id(question)), []).append(question)
    answered: dict[tuple[str, int], dict[str, Any]] = {}
    for number, item in enumerate(given, start=1):
        question = _question_for(item, questions, by_question_id, path, number, records)
        key = (question["id"], question["turn"])
        if key in answered:
            raise UserError(f"{path}: prediction {number} answers {_name(question)} a second time; keep one")
        counted = {"truncated": item.get("truncated", False), "num_tokens": item.get("num_tokens")}
        answered[key] = {**question, "answer": item["answer"], **counted}
    missing = [key for key in questions if key not in answered]
    if missing and not partial:
        raise UserError(
            f"{path}: {len(missing)} of {len(questions)} questions of {records} have no answer, the first: "
            f"{missing[0][0]} turn {missing[0][1]}; answer them all, or score the rest with --partial"
        )
    return [answered[key] for key in questions if key in answered]


def _questions(records: Path) -> dict[tuple[str, int], dict[str, Any]]:
    from data_prep.records.record import read_records

    questions: dict[tuple[str, int], dict[str, Any]] = {}
    for record in read_records(records):
        for turn, question, reference in metrics.questions_of(record):
            key = (str(record.get("id")), turn)
            if key in questions:
                raise UserError(f"{records}: two records have the id {key[0]!r}; predictions are matched by id")
            questions[key] = {
                "id": key[0], "turn": turn, "image": record.get("image"), "question": question, "reference": reference,
                "type": metrics.question_type(reference), **metrics.kept_for(record, turn),
            }  # fmt: skip
    metrics.require_scorable(list(questions.values()), str(records))
    if not questions:
        raise UserError(f"{records}: no question with an answer in it; give the human/gpt file with the references")
    return questions


def _question_for(
    item: dict[str, Any],
    questions: Mapping[tuple[str, int], dict[str, Any]],
    by_question_id: Mapping[Any, list[dict[str, Any]]],
    path: Path,
    number: int,
    records: Path,
) -> dict[str, Any]:
    if "id" in item and (str(item["id"]), int(item.get("turn") or 0)) in questions:
        return questions[str(item["id"]), int(item.get("turn") or 0)]
    candidates = by_question_id.get(str(item.get("question_id")), [])
    if len(candidates) > 1:
        raise UserError(
            f"{path}: prediction {number} has question_id {item['question_id']!r}, but {records} asks "
            f"{len(candidates)} questions under it; give `id` and `turn` instead"
        )
    if not candidates:
        raise UserError(
            f"{path}: prediction {number} ({_name(item)}) belongs to no question of {records}; "
            "are these the records that were answered?"
        )
    return candidates[0]


def _name(item: Mapping[str, Any]) -> str:
    if item.get("id") is not None:
        return f"{item['id']} turn {item.get('turn') or 0}"
    return f"question_id {item['question_id']}" if "question_id" in item else "no id"
