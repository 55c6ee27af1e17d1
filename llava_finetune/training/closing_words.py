"""The last lines of a run: which step was best, where the report is, and what to type next.

for line in closing_words(Path("runs/mine"), data="train.json", eval_data="val.json", images="pictures"): print(line)
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from llava_finetune.saved.manifest import read_json


def closing_words(output: Path, kind: str, *, kept_best: bool, last: int) -> Iterator[str]:
    """Lines for the user. `kind`: adapter, model or projector; `last`: the last step; `kept_best`: it is the result."""
    given = read_json(output / "run.json").get("arguments") or {} if (output / "run.json").is_file() else {}
    if not kept_best and (better := better_step(output, last)):
        yield better
    if (output / "report.html").is_file():
        yield f"report: {output / 'report.html'}"
    if kind == "projector":
        yield f"next: bash scripts/finetune_lora.sh with --pretrain_mm_mlp_adapter {output / 'mm_projector.bin'}"
        return
    images = given.get("eval_image_folder") or given.get("image_folder")
    folder = f" --images {images}" if images else ""
    yield f"next: llava-finetune evaluate --model {output} --data {given.get('eval_data_path') or 'test.json'}{folder}"


def better_step(output: Path, last: int) -> str | None:
    """A sentence where an evaluation before the last step was better than that of the result, else None."""
    rows = [row for row in _rows(output / "log.jsonl") if "eval_exact_match" in row]
    final = [row for row in rows if row["step"] == last]
    earlier = [row for row in rows if row["step"] < last]
    if not final or not earlier:
        return None
    best = max(earlier, key=lambda row: float(row["eval_exact_match"]))
    if best["eval_exact_match"] <= final[-1]["eval_exact_match"]:
        return None
    kept = f"; checkpoint-{best['step']} holds it" if (output / f"checkpoint-{best['step']}").is_dir() else ""
    scores = [float(row["eval_exact_match"]) for row in (best, final[-1])]
    return (
        f"step {best['step']} was better: exact match {scores[0]:.1%}, {scores[1]:.1%} at the last step, which is the "
        f"result{kept}. The best is kept by itself with --metric_for_best_model eval_exact_match"
    )


def _rows(path: Path) -> list[dict[str, float]]:
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
