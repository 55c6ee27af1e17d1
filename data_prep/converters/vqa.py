"""OK-VQA v1.1 and VQAv2, in their official files, to records.

The questions file and the annotations file pair up by question_id:

    {"questions": [{"image_id": 51606, "question": "What is the hairstyle called?", "question_id": 516065}, ...]}
    {"annotations": [{"question_id": 516065, "image_id": 51606, "answers": [{"answer": "pony tail", ...} x 10]}]}

    python -m data_prep okvqa --questions OpenEnded_mscoco_train2014_questions.json \\
        --annotations mscoco_train2014_annotations.json --images coco/train2014 --output okvqa.json
"""

from __future__ import annotations

import argparse
import random
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from data_prep.converters.coco import is_image_id, shown_value
from data_prep.converters.options import (
    SHORT_ANSWER,
    add_output_options,
    converter_parser,
    picture_problem,
    require_folder,
    require_place,
    with_suffix,
    write_and_check,
)
from data_prep.converters.texts import NoText, text_of
from data_prep.converters.vqa_answers import distinct_answers, most_common_answer
from data_prep.errors import DataError, UsageError, quoted
from data_prep.numbers import seed
from data_prep.progress import Progress
from data_prep.records.json_text import kind_of, read_json
from data_prep.records.output import Converted, Drop, Origin, Reason
from data_prep.records.record import IMAGE_TOKEN, conversation, images_of

EXAMPLES = """  python -m data_prep okvqa --questions q.json --annotations a.json --images coco --output r.json
  (the same with) --merge-by-image         one conversation for each picture
  (the same with) --answer all             a record for every distinct answer"""


def read_official(path: Path, key: str) -> tuple[Mapping[str, Any], list[Mapping[str, Any]]]:
    """Return an official file and the list under its `key`; raise DataError that names the entry that is wrong."""
    value = read_json(path)
    if not isinstance(value, dict):
        raise DataError(path, f'expected an object with "{key}", found {kind_of(value)}')
    if not isinstance(value.get(key), list):
        hint = " (are --questions and --annotations swapped?)" if {"questions", "annotations"} & set(value) else ""
        raise DataError(path, f'no list "{key}" in it, only {", ".join(value)}{hint}')
    rows: list[Mapping[str, Any]] = value[key]
    for number, row in enumerate(rows, 1):
        if problem := _entry_problem(row, key):
            raise DataError(path, f"{key}, entry {number}: {problem}: {quoted(row, 80)}")
    return value, rows


def _entry_problem(row: Any, key: str) -> str | None:
    if not isinstance(row, dict):
        return f"expected an object, found {kind_of(row)}"
    needed = ("question_id", "image_id", "question") if key == "questions" else ("question_id", "answers")
    if missing := next((name for name in needed if name not in row), None):
        return f'no "{missing}"'
    if not isinstance(row["question_id"], int | str) or isinstance(row["question_id"], bool):
        return f'"question_id" is a number or a text, found {kind_of(row["question_id"])}'
    if key == "questions" and not is_image_id(row["image_id"]):
        return f'"image_id" is a whole number or a text, found {shown_value(row["image_id"])}'
    if key == "questions" and not isinstance(row["question"], str | int | float | None):
        return f'"question" is a text, found {kind_of(row["question"])}'
    if key == "annotations" and not isinstance(row["answers"], list):
        return f'"answers" is a list, found {kind_of(row["answers"])}'
    return None


def pair_up(questions: Sequence[Mapping[str, Any]], annotations: Sequence[Mapping[str, Any]], path: Path) -> Pairs:
    """Return annotations by question id; raise DataError for two of one question, or one without its question."""
    known = {row["question_id"] for row in questions}
    if len(known) != len(questions):
        twice = next(name for name, count in Counter(row["question_id"] for row in questions).items() if count > 1)
        raise DataError(path, f"question {twice} stands twice in the questions file; remove one")
    paired: Pairs = {}
    for number, row in enumerate(annotations, 1):
        name = row["question_id"]
        if name not in known:
            problem = f"annotation {number} is for question {name}, which the questions file does not have"
            raise DataError(path, f"{problem}; are the two files of one split?")
        if name in paired:
            raise DataError(path, f"annotation {number}: question {name} has an annotation already; remove one")
        paired[name] = row
    return paired


Pairs = dict[Any, Mapping[str, Any]]


class ImageNames:
    """Where COCO's pictures are: `COCO_train2014_000000051606.jpg`, `000000051606.jpg`, or a pattern of your own.

    An id that is a text (TextVQA's, for one) is a name, with or without its ending.
    """

    def __init__(self, folder: Path, subtype: str, pattern: str | None) -> None:
        """Keep the folder and the patterns to try, the likeliest first; braces in `subtype` stand for themselves."""
        self.folder = folder
        plain = subtype.replace("{", "{{").replace("}", "}}")
        official = [f"COCO_{plain}_{{:012d}}.jpg", "{:012d}.jpg"]
        self.patterns = [pattern] if pattern else official + [f"{plain}/{name}" for name in official]
        self._given = pattern is not None

    def find(self, image_id: Any) -> tuple[str, Reason | None]:
        """Return the name of a picture below the folder, and why it cannot be used if so."""
        first: tuple[str, Reason | None] | None = None
        if isinstance(image_id, str) and not image_id.isdecimal() and not self._given:
            named = [f"{image_id}{ending}" for ending in ("", ".jpg", ".png", ".jpeg", ".webp")]
            found = next((name for name in named if picture_problem(self.folder, name) is None), None)
            return (found, None) if found else (named[1], picture_problem(self.folder, named[1]))
        for place, pattern in enumerate(self.patterns):
            name = _formatted(pattern, image_id)
            problem = picture_problem(self.folder, name)
            if problem is None:
                self.patterns.insert(0, self.patterns.pop(place))
                return name, None
            first = first or (name, problem)
        assert first is not None
        return first


def _formatted(pattern: str, image_id: Any) -> str:
    try:
        whole = ":0" in pattern or isinstance(image_id, float)
        return pattern.format(int(image_id) if whole else image_id)
    except (ValueError, IndexError, KeyError, AttributeError, TypeError):
        raise UsageError(
            f"--image-name {pattern!r} does not fit image id {quoted(image_id, 40)}; example: {{:012d}}.jpg"
        ) from None


def convert(
    questions: Iterable[Mapping[str, Any]], pairs: Pairs, names: ImageNames, args: argparse.Namespace
) -> Iterator[Converted | Drop]:
    """Yield a record for each question (or one for each answer), or why there is none."""
    for row in questions:
        where = f"question {row['question_id']}"
        name, problem = names.find(row["image_id"])
        annotation = pairs.get(row["question_id"])
        try:
            answers = answers_of(annotation) if annotation else []
            question = text_of(row["question"])
        except NoText as error:
            yield Drop(Reason.NOT_TEXT, f"{where}: {error}")
            continue
        if problem:
            yield Drop(problem, f"{where}: {name}", picture=name)
        elif not question.strip():
            yield Drop(Reason.NO_QUESTION, where)
        elif annotation is None:
            yield Drop(Reason.NO_ANNOTATION, where)
        elif not answers:
            yield Drop(Reason.NO_ANSWER, where)
        else:
            yield from _records(row, name, answers, annotation, args)


def _records(
    row: Mapping[str, Any], name: str, answers: list[str], annotation: Mapping[str, Any], args: argparse.Namespace
) -> Iterator[Converted]:
    chosen = choose(answers, args.answer, f"{args.seed} {row['question_id']}")
    for place, answer in enumerate(chosen):
        record = {
            "id": f"{args.kind}-{row['question_id']}" + (f"-{place + 1}" if place else ""),
            "image": name,
            "conversations": conversation([(with_suffix(text_of(row["question"]), args.suffix), answer)]),
            "answers": answers,
        }
        if "question_type" in annotation:
            record["question_types"] = [annotation["question_type"]]
        yield Converted(record, 0 if place else 1)


def answers_of(annotation: Mapping[str, Any]) -> list[str]:
    """Return the texts of an annotation's answers, empty ones left out, as official files and mirrors write them.

    Raises NoText for an answer that is none.
    """
    found = [answer.get("answer") if isinstance(answer, dict) else answer for answer in annotation["answers"]]
    return [text for answer in found if (text := text_of(answer)).strip()]


def choose(answers: Sequence[str], way: str, seed: str) -> list[str]:
    """Return the answers to teach: the most common, all distinct ones, or one drawn (reproducibly from `seed`)."""
    if way == "common":
        return [most_common_answer(answers)]
    if way == "all":
        return distinct_answers(answers)
    return [random.Random(seed).choice(answers)]


def merge_by_image(items: Iterable[Converted | Drop], kind: str) -> Iterator[Converted | Drop]:
    """Put all questions on one picture into one conversation, in the place of the picture's first question.

    `answers` becomes a list of lists, one for each question, and `question_ids` names them. The record says that its
    turns are independent, so that training does not show an earlier answer to a later question.
    """
    merged: dict[tuple[str, ...], Converted] = {}
    for item in items:
        if isinstance(item, Drop):
            yield item
            continue
        record = item.record
        if "answers" not in record:  # several questions of one row: together already
            yield item
            continue
        names = tuple(images_of(record))
        if names not in merged:
            first = {**record, "id": f"{kind}-{Path(names[0]).stem}", "answers": [record["answers"]]}
            first |= {"question_ids": [record["id"]], "independent_turns": True}
            merged[names] = Converted(first, item.rows)
            continue
        before = merged[names]
        turns = record["conversations"]
        turns[0]["value"] = turns[0]["value"].removeprefix(f"{IMAGE_TOKEN}\n" * len(names))
        before.record["conversations"] += turns
        before.record["answers"].append(record["answers"])
        before.record["question_ids"].append(record["id"])
        if "question_types" in record:
            before.record["question_types"] += record["question_types"]
        merged[names] = Converted(before.record, before.rows + item.rows)
    yield from merged.values()


def build_parser(kind: str) -> argparse.ArgumentParser:
    """Return the parser of `okvqa` and `vqa`."""
    parser = converter_parser(kind, "Official VQA questions and annotations with COCO pictures to records.", EXAMPLES)
    parser.add_argument("--questions", type=Path, required=True, help="the official questions file")
    parser.add_argument("--annotations", type=Path, required=True, help="the official annotations file")
    add_output_options(parser)
    way = "which answer to teach: the most common, every distinct one (a record each), or one drawn with --seed"
    parser.add_argument("--answer", choices=("common", "all", "sampled"), default="common", help=way)
    parser.add_argument("--seed", type=seed, default=0, help="seed of --answer sampled")
    parser.add_argument("--suffix", default=SHORT_ANSWER, help=f"added to each question; default: {SHORT_ANSWER!r}")
    parser.add_argument("--merge-by-image", action="store_true", help="all questions on a picture in one conversation")
    parser.add_argument("--image-name", help="picture names, when not COCO's: for example {:012d}.jpg or {}.png")
    return parser


def main(argv: Sequence[str]) -> int:
    """Convert; `argv` begins with the kind, okvqa or vqa, which names the records."""
    kind = argv[0]
    args = build_parser(kind).parse_args(argv[1:])
    args.kind = kind
    require_folder(args.image_folder)
    if args.image_name is not None:
        require_place(args.image_name)
    official, questions = read_official(args.questions, "questions")
    pairs = pair_up(questions, read_official(args.annotations, "annotations")[1], args.annotations)
    names = ImageNames(args.image_folder, str(official.get("data_subtype", "train2014")), args.image_name)
    with Progress("converting", len(questions), "questions") as progress:
        items = convert(progress.each(questions), pairs, names, args)
        if args.merge_by_image:
            items = merge_by_image(items, kind)
        choices = {"answer": args.answer, "seed": args.seed, "suffix": args.suffix, "merged": args.merge_by_image}
        origin = Origin(kind, [args.questions, args.annotations], args.image_folder, choices)
        return write_and_check(args, items, origin)
