"""Scores of a set of predictions, and the prior that a score must beat to mean that the model looks at the picture.

A prediction is a mapping with at least `question`, `answer` (the model's text) and `reference`; `answers` (all
references), `image`, `id`, `turn`, `type` and `question_type` are used where they are there.

    >>> score([{"question": "What colour?", "answer": "Red.", "reference": "red"}])["exact_match"]
    1.0
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

from data_prep.boxes.told import KEY as BOX_SCALE
from data_prep.records.marks import IMAGE_TOKEN
from data_prep.records.usable import usable
from llava_finetune.errors import UserError
from llava_finetune.evaluation import text_overlap, vqa_scorer
from llava_finetune.evaluation.box_metrics import score_boxes
from llava_finetune.evaluation.intervals import bootstrap, wilson
from llava_finetune.evaluation.yes_no import yes_no_scores

Prediction = Mapping[str, Any]
Scores = dict[str, Any]

TYPES = ("yes_no", "number", "open")
NUMBER = re.compile(r"[-+]?(\d+|\d{1,3}(,\d{3})+)(\.\d+)?%?")
NUMBER_AT_END = re.compile(r"\d{1,18}$")
NUMBER_WORDS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety hundred thousand"
)
# Leave one out needs three other references before an answer can be fully right.
MIN_REFERENCES_FOR_VQA = 4
# BLEU counts runs of four words; on shorter references it is 0 whatever the model says.
MIN_WORDS_FOR_OVERLAP = 4
LONGEST_TEXT = 100_000
MOST_WORDS = 5_000


def normalise(text: str) -> str:
    """Return the form in which exact match compares: NFC, lower case, single spaces, no period or blank at the end."""
    words = unicodedata.normalize("NFC", text).lower().split()
    return " ".join(words).rstrip(". ")


def is_right(prediction: Prediction) -> bool:
    """Return whether the answer is exactly the reference, both as `normalise` gives them."""
    return normalise(prediction["answer"]) == normalise(prediction["reference"])


def key_of(prediction: Prediction) -> tuple[str, int]:
    """Return what names a question within an evaluation: the record's id and the turn."""
    return str(prediction.get("id")), int(prediction.get("turn") or 0)


def question_type(reference: str) -> str:
    """Return `yes_no`, `number` or `open`, from the reference answer alone."""
    answer = normalise(reference)
    if answer in ("yes", "no"):
        return "yes_no"
    if answer in NUMBER_WORDS.split() or NUMBER.fullmatch(answer):
        return "number"
    return "open"


def type_of(prediction: Prediction) -> str:
    """Return the prediction's own `type`, or the type of its reference where it has none."""
    return str(prediction.get("type") or question_type(prediction["reference"]))


def references_of(prediction: Prediction) -> list[str]:
    """Return every reference of the question: `answers` where there are some, else the one `reference`.

    Raises UserError naming the record when `answers` is not a list of texts.
    """
    answers = prediction.get("answers")
    if not answers:
        return [str(prediction["reference"])]
    wrong = next((one for one in answers if not isinstance(one, str)), None) if isinstance(answers, list) else answers
    if wrong is not None:
        raise UserError(
            f'record "{prediction.get("id")}": answers holds a {type(wrong).__name__}; expected a list of texts, '
            "such as the ten answers of a VQA question"
        )
    return list(answers)


def kept_for(record: Mapping[str, Any], turn: int) -> dict[str, Any]:
    """Return `answers`, `question_type`, `question_id`, `box_scale` of one question of a record; turn counts from 0.

    A record of several questions (`--merge-by-image`) keeps a list with an entry for each: `answers` as lists of texts,
    `question_types`, `question_ids`. Raises UserError naming the record when such a list is too short.
    """
    answers = record.get("answers")
    if isinstance(answers, list) and answers and all(isinstance(one, list) for one in answers):
        answers = _entry(record, "answers", turn)
    kept = {"answers": answers, "question_type": record.get("question_type"), "question_id": record.get("question_id")}
    if record.get("question_types"):
        kept["question_type"] = _entry(record, "question_types", turn)
    if record.get("question_ids"):
        name = _entry(record, "question_ids", turn)
        number = NUMBER_AT_END.search(str(name))
        kept["question_id"] = int(number.group()) if number else name
    return {**kept, BOX_SCALE: record[BOX_SCALE]} if record.get(BOX_SCALE) else kept


def _entry(record: Mapping[str, Any], key: str, turn: int) -> Any:
    values = record[key]
    if not isinstance(values, list) or turn >= len(values):
        found = f"{len(values)} entries" if isinstance(values, list) else type(values).__name__
        raise UserError(f'record "{record.get("id")}": {key}: {found}, and no entry for question {turn + 1}')
    return values[turn]


def fault_of(question: Prediction) -> str | None:
    """Return why a question cannot be scored (no reference, or references of a wrong type), naming its record."""
    if not str(question["reference"]).strip():
        return f'record "{question.get("id")}": turn {question.get("turn") or 0} has an empty answer to compare with'
    try:
        references = [str(question["reference"]), *references_of(question)]
    except UserError as error:
        return str(error)
    if found := next(filter(None, map(length_fault, references)), None):
        return f'record "{question.get("id")}": turn {question.get("turn") or 0}: an answer of {found}'
    return None


def length_fault(text: str) -> str | None:
    """Return why a text is too long to be scored, None where it is not: ROUGE-L compares each word with each."""
    if len(text) > LONGEST_TEXT:
        return f"{len(text):,} characters; at most {LONGEST_TEXT:,} can be scored"
    if len(text) > MOST_WORDS and (count := len(text.split())) > MOST_WORDS:
        return f"{count:,} words; at most {MOST_WORDS:,} can be scored"
    return None


def require_scorable(questions: Sequence[Prediction], where: str) -> None:
    """Raise UserError with `where`, the number of questions that cannot be scored, and the first of them by record."""
    faults = [fault for question in questions if (fault := fault_of(question))]
    if faults:
        raise UserError(
            f"{where}: {len(faults)} of {len(questions)} questions cannot be scored, the first: {faults[0]}; give "
            "their references, or take them out"
        )


def vqa_accuracies(predictions: Sequence[Prediction]) -> list[float | None]:
    """Return the official VQA accuracy of each prediction, None where it has fewer than four references."""
    return [
        vqa_scorer.question_accuracy(prediction["answer"], references_of(prediction))
        if len(prediction.get("answers") or ()) >= MIN_REFERENCES_FOR_VQA
        else None
        for prediction in predictions
    ]


def score(predictions: Sequence[Prediction]) -> Scores:
    """Return the scores of a set of predictions, each with its 95 % interval, in all and by type.

    All are between 0 and 1: `exact_match` (Wilson interval in `interval`), and with intervals in `NAME_interval`:
    `token_f1`, `vqa_accuracy` (questions with at least four references; `vqa_accuracy_count` of them, and
    `vqa_accuracy_official` in percent as the scorer prints it), `rouge_l` and `bleu` (when a reference has at
    least four words), `box_iou` and `box_accuracy` (see `box_metrics`), and of questions answered yes or no what
    `yes_no_scores` returns. `by_type` holds `yes_no`, `number`, `open`; `by_question_type` what the data itself names.
    `count` is the number of questions, `num_images` of different pictures, `num_truncated` of answers cut at the limit.
    """
    scores = _exact(predictions)
    scores["num_images"] = len({name for prediction in predictions for name in _image_names(prediction)})
    scores["num_truncated"] = sum(1 for prediction in predictions if prediction.get("truncated"))
    scores["by_type"] = _grouped(predictions, type_of, TYPES)
    named = [prediction for prediction in predictions if prediction.get("question_type")]
    if named:
        groups = sorted({str(prediction["question_type"]) for prediction in named})
        scores["by_question_type"] = _grouped(named, lambda prediction: str(prediction["question_type"]), groups)
    if predictions:
        scores.update(_vqa(predictions))
        scores.update(_overlap(predictions))
        scores.update(score_boxes(predictions))
        scores.update(yes_no_scores(predictions))
    return scores


def questions_of(record: Mapping[str, Any]) -> Iterator[tuple[int, str, str]]:
    """Yield (turn, question, reference) for every question and answer of a human/gpt record; turn counts from 0.

    The picture's placeholder is taken out of the question. Raises UserError naming the record when a turn is no text.
    """
    turns = usable(record).get("conversations") or []
    pairs = [(a, b) for a, b in pairwise(turns) if a.get("from") == "human" and b.get("from") == "gpt"]
    for turn, (human, gpt) in enumerate(pairs):
        for side in (human, gpt):
            if not isinstance(side.get("value"), str):
                raise UserError(
                    f'record "{record.get("id")}": turn {turn} of {side["from"]} holds a '
                    f"{type(side.get('value')).__name__}; expected a text"
                )
        yield turn, bare_question(human["value"]), gpt["value"]


def bare_question(text: str) -> str:
    """Return the question without picture placeholders, its white space trimmed."""
    return text.replace(IMAGE_TOKEN, "").strip()


def text_prior(
    train_records: Iterable[Mapping[str, Any]], eval_questions: Iterable[Prediction]
) -> list[dict[str, Any]]:
    """Answer every question without its picture, by the commonest answer that the training file gives to it.

    A question that training never asks gets the commonest answer of its `question_type` where the data names one, else
    of questions that begin with the same two words, else of the whole file. The reference is never consulted. Returns
    the questions as predictions with `answer` replaced; raises ValueError when the training file has no answer at all.
    """
    tallies: dict[tuple[str, str], Counter[str]] = {}
    spelled: dict[str, str] = {}
    for record in train_records:
        for _, question, answer in questions_of(record):
            key = normalise(answer)
            spelled.setdefault(key, answer)
            for level in _prior_levels(question, record.get("question_type")):
                tallies.setdefault(level, Counter())[key] += 1
    if not tallies:
        raise ValueError("the text prior needs training records with answers; the training file has none")
    commonest = {level: spelled[tally.most_common(1)[0][0]] for level, tally in tallies.items()}
    predictions = []
    for item in eval_questions:
        levels = _prior_levels(item["question"], item.get("question_type"))
        answer = next(commonest[level] for level in levels if level in commonest)
        predictions.append({**item, "answer": answer, "truncated": False, "num_tokens": 0})
    return predictions


def _prior_levels(question: str, named_type: Any) -> list[tuple[str, str]]:
    text = normalise(bare_question(question))
    levels = [("question", text)]
    if named_type:
        levels.append(("question_type", str(named_type)))
    return [*levels, ("opening", " ".join(text.split()[:2])), ("all", "")]


def _exact(predictions: Sequence[Prediction]) -> Scores:
    num_right = sum(is_right(prediction) for prediction in predictions)
    count = len(predictions)
    return {
        "exact_match": num_right / count if count else 0.0,
        "interval": list(wilson(num_right, count)),
        "count": count,
    }


def _grouped(predictions: Sequence[Prediction], key: Callable[[Prediction], str], names: Sequence[str]) -> Scores:
    groups: dict[str, list[Prediction]] = {}
    for prediction in predictions:
        groups.setdefault(key(prediction), []).append(prediction)
    return {
        name: {**_exact(groups[name]), **_vqa(groups[name]), **yes_no_scores(groups[name])}
        for name in names
        if name in groups
    }


def _vqa(predictions: Sequence[Prediction]) -> Scores:
    accuracies = [accuracy for accuracy in vqa_accuracies(predictions) if accuracy is not None]
    if not accuracies:
        return {}
    return {
        **_mean("vqa_accuracy", accuracies),
        "vqa_accuracy_official": vqa_scorer.official_percent(accuracies),
        "vqa_accuracy_count": len(accuracies),
    }


def _overlap(predictions: Sequence[Prediction]) -> Scores:
    answers = [normalise(prediction["answer"]) for prediction in predictions]
    references = [[normalise(text) for text in references_of(prediction)] for prediction in predictions]
    scores = _mean("token_f1", [text_overlap.token_f1(a, r) for a, r in zip(answers, references, strict=True)])
    if max(len(text.split()) for choices in references for text in choices) >= MIN_WORDS_FOR_OVERLAP:
        scores.update(_mean("rouge_l", text_overlap.rouge_l(answers, references)))
        scores["bleu"], interval = text_overlap.bleu(answers, references)
        scores["bleu_interval"] = list(interval)
    return scores


def _mean(name: str, values: Sequence[float]) -> Scores:
    return {name: sum(values) / len(values), f"{name}_interval": list(bootstrap(values))}


def _image_names(prediction: Prediction) -> list[str]:
    image = prediction.get("image")
    if image is None:
        return []
    return [image] if isinstance(image, str) else list(image)
