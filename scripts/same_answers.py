"""Say how many of lmms-eval's answers are those of `evaluate`, question by question; exit code 1 unless all are.

python scripts/same_answers.py RESULTS predictions-final.jsonl
"""

from __future__ import annotations

import json
import sys
from pathlib import Path


def answers_of(results: Path) -> dict[tuple[str, int], str]:
    """Answers by record and turn, from the newest samples file that `lmms_eval --log_samples` wrote below `results`."""
    files = sorted(results.rglob("*samples_*.jsonl"), key=lambda path: path.stat().st_mtime)
    if not files:
        sys.exit(f"{results}: no samples in it; lmms-eval ends with exit code 0 also where it failed: read its output")
    out = {}
    for line in files[-1].read_text(encoding="utf-8").splitlines():
        sample = json.loads(line)
        said = sample["filtered_resps"]
        while isinstance(said, list):
            said = said[0]
        out[sample["doc"]["id"], sample["doc"]["turn"]] = said.strip()
    return out


def main() -> int:
    """Compare, and show the first difference."""
    theirs = answers_of(Path(sys.argv[1]))
    rows = [json.loads(line) for line in Path(sys.argv[2]).read_text(encoding="utf-8").splitlines()]
    ours = {(row["id"], row["turn"]): row["answer"].strip() for row in rows}
    other = [key for key, said in ours.items() if theirs.get(key) != said]
    print(f"lmms-eval: {len(ours) - len(other)} of {len(ours)} answers are those of evaluate")
    if other:
        print(f"first: {other[0]}: {ours[other[0]]!r} became {theirs.get(other[0])!r}")
    return 1 if other else 0


if __name__ == "__main__":
    sys.exit(main())
