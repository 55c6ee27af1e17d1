"""Run the published VQA scorer on the answer sets once and write `official_vqa_scores.json`, which tests compare with.

The scorer (GT-Vision-Lab/VQA, PythonEvaluationTools/vqaEvaluation/vqaEval.py) is not part of this project; Python 3
needs its print statements taken out. Only its numbers and hashes of its texts are written, nothing of its code.

    python -m tests.evaluation.record_official_scores path/to/vqaEval.py "master branch" --more 100000
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from llava_finetune.evaluation.vqa_scorer import clean, question_accuracy
from tests.evaluation.answer_sets import AnswerSet, make_answer_sets

NUM_SETS = 10_000
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
RECORD = Path(__file__).parent / "official_vqa_scores.json"


def sha256(value: object) -> str:
    """Hash of a value as JSON."""
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()


def main() -> None:
    """Write the record; with --more also compare ours with the scorer on that many sets of another seed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scorer", type=Path)
    parser.add_argument("source", help="where this copy is from, for the record")
    parser.add_argument("--more", type=int, default=0)
    arguments = parser.parse_args()
    spec = importlib.util.spec_from_file_location("published", arguments.scorer)
    assert spec and spec.loader
    published: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(published)
    scorer = published.VQAEval
    RECORD.write_text(json.dumps(record(scorer, make_answer_sets(NUM_SETS), arguments.source), indent=1) + "\n")
    if arguments.more:
        sets = make_answer_sets(arguments.more, seed=1)
        scores, _ = scored(scorer, sets)
        cleaned = cleaner(scorer)
        wrong = sum(abs(ours - theirs) > 1e-12 for ours, theirs in zip(ours_of(sets), scores, strict=True))
        odd = sum(clean(text) != cleaned(text) for answer, references in sets for text in (answer, *references))
        print(f"{wrong} of {len(sets)} other sets scored otherwise, {odd} of their texts cleaned otherwise")


def record(scorer: Any, sets: list[AnswerSet], source: str) -> dict[str, Any]:
    """What the tests compare with."""
    scores, overall = scored(scorer, sets)
    values = sorted(set(scores))
    text = "".join(LETTERS[values.index(score)] for score in scores)
    cleaned = cleaner(scorer)
    return {
        "made_by": f"python -m tests.evaluation.record_official_scores with VQAEval of GT-Vision-Lab/VQA: {source}",
        "sets_sha256": sha256(sets),
        "cleaned_sha256": sha256([cleaned(text) for answer, references in sets for text in (answer, *references)]),
        "overall": overall,
        "values": values,
        "scores": [text[start : start + 100] for start in range(0, len(text), 100)],
    }


def scored(scorer: Any, sets: list[AnswerSet]) -> tuple[list[float], float]:
    """The scorer's accuracy of every set (0 to 1), and the mean as it prints it."""
    numbers = []
    for digits in (15, 2):
        # It writes over its references: each run gets its own.
        asked = {
            number: {
                "answers": [{"answer": text, "answer_id": place} for place, text in enumerate(references)],
                "question_type": "any", "answer_type": "any",
            }
            for number, (_, references) in enumerate(sets)
        }  # fmt: skip
        given = {number: {"answer": answer} for number, (answer, _) in enumerate(sets)}
        run = scorer(
            SimpleNamespace(qa=asked, getQuesIds=lambda: range(len(sets))),
            SimpleNamespace(qa=given, getQuesIds=lambda: range(len(sets))),
            digits,
        )
        run.updateProgress = lambda progress: None
        run.evaluate()
        numbers.append(run)
    return [round(numbers[0].evalQA[number] / 100, 14) for number in range(len(sets))], numbers[1].accuracy["overall"]


def cleaner(scorer: Any) -> Any:
    """The scorer's clean-up of one text."""
    empty = SimpleNamespace(qa={}, getQuesIds=list)
    run = scorer(empty, empty)
    return lambda text: run.processDigitArticle(run.processPunctuation(text))


def ours_of(sets: list[AnswerSet]) -> list[float]:
    """Our accuracy of every set."""
    return [question_accuracy(answer, references) for answer, references in sets]


if __name__ == "__main__":
    main()
