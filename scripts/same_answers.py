"""Say how many of lmms-eval's answers are those of `evaluate`, question by question; exit code 1 unless all are.

python scripts/same_answers.py RESULTS TASK/questions.jsonl predictions-final.jsonl
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

FAILED = "[LMMS_EVAL_REQUEST_FAILED"
"""How lmms-eval begins the answer to a question that got none; it scores that answer as any other."""


def answers_of(results: Path, questions: Path) -> tuple[dict[tuple[str, int], str], float]:
    """Answers by record and turn, and their exact match, as `lmms_eval --log_samples` wrote them below `results`.

    lmms-eval 0.7.3 writes the number of a question (`doc_id`) and leaves its row of the task's questions.jsonl out.
    """
    files = sorted(results.rglob("*samples_*.jsonl"), key=lambda path: path.stat().st_mtime)
    if not files:
        sys.exit(f"{results}: no samples in it; lmms-eval ends with exit code 0 also where it failed: read its output")
    asked, samples = rows_of(questions), rows_of(files[-1])
    failed = [one["filtered_resps"] for one in samples if one["filtered_resps"].startswith(FAILED)]
    if failed:
        print(f"{len(failed)} of {len(samples)} questions got no answer, the first: {failed[0]}")
    keys = [(asked[one["doc_id"]]["id"], asked[one["doc_id"]]["turn"]) for one in samples]
    answers = {key: one["filtered_resps"].strip() for key, one in zip(keys, samples, strict=True)}
    return answers, sum(one["exact_match"] for one in samples) / len(samples)


def rows_of(path: Path) -> list[dict[str, Any]]:
    """The rows of a file of JSON lines."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def main() -> int:
    """Compare, and show the first difference."""
    theirs, score = answers_of(Path(sys.argv[1]), Path(sys.argv[2]))
    ours = {(row["id"], row["turn"]): row["answer"].strip() for row in rows_of(Path(sys.argv[3]))}
    other = [key for key, said in ours.items() if theirs.get(key) != said]
    print(f"lmms-eval: {len(ours) - len(other)} of {len(ours)} answers are those of evaluate; exact match {score:.4f}")
    if other:
        print(f"first: {other[0]}: {ours[other[0]]!r} became {theirs.get(other[0])!r}")
    return 1 if other else 0


if __name__ == "__main__":
    sys.exit(main())
