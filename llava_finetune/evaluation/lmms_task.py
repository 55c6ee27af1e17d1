"""A task for lmms-eval, written from a records file: its score on your own questions equals `evaluate`'s.

lmms-eval asks many models the same published benchmarks (POPE, MME, TextVQA). With this folder it asks them your
questions too, by the same scorer as ours:

    llava-finetune lmms-task test.json lmms/parts --images photos
    python -m lmms_eval --include_path lmms/parts --tasks parts ...        # in an environment that has lmms-eval

Written are NAME.yaml (the task), questions.jsonl, scoring.py (exact match, and the official VQA accuracy where every
question has four references or more) and vqa.py. They need nothing of this project.
"""

from __future__ import annotations

import argparse
import inspect
import json
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data_prep.errors import printable
from data_prep.numbers import whole
from data_prep.picture_folder import add_images_option
from data_prep.records.json_text import require_characters
from llava_finetune.errors import UserError
from llava_finetune.flags import command_parser

NAME = re.compile(r"[a-z][a-z0-9_]*")

TASK = """\
# Written by llava-finetune lmms-task from {records}. The score of a run equals that of llava-finetune evaluate.
task: {name}
dataset_path: json
dataset_kwargs:
  data_files:
    test: {questions}
test_split: test
output_type: generate_until
doc_to_visual: !function scoring.pictures
doc_to_text: !function scoring.question
doc_to_target: reference
process_results: !function scoring.score
generation_kwargs:
  max_new_tokens: {max_new_tokens}
  temperature: 0
  do_sample: false
  until: []
metric_list:
{metrics}metadata:
  - version: 1
"""

METRIC = "  - metric: {}\n    aggregation: mean\n    higher_is_better: true\n"

SCORING = '''\
"""Pictures, question and score of one row of questions.jsonl, as llava-finetune evaluate has them."""

import os
{runpy}import unicodedata

from PIL import Image, ImageOps

# Where the pictures are; LMMS_PICTURES names another place.
FOLDER = os.environ.get("LMMS_PICTURES", {folder!r})
{load}

{normalise}

def pictures(row):
    """The question's pictures, turned as their EXIF says."""
    opened = [Image.open(os.path.join(FOLDER, name)) for name in row["images"]]
    return [ImageOps.exif_transpose(picture).convert("RGB") for picture in opened]


def question(row, lmms_eval_specific_kwargs=None):
    """The question as training showed it, without marks of pictures."""
    return row["question"]


def score(row, results):
    """The scores of one answer."""
    scores = {{"exact_match": float(normalise(results[0]) == normalise(row["reference"]))}}
{vqa}    return scores
'''

LOAD = """
# lmms-eval loads this file by its path: what lies beside it cannot be imported by name.
question_accuracy = runpy.run_path(os.path.join(os.path.dirname(__file__), "vqa.py"))["question_accuracy"]
"""
VQA = '    scores["vqa_accuracy"] = question_accuracy(results[0], row["answers"])\n'


def parser() -> argparse.ArgumentParser:
    """The command line of `llava-finetune lmms-task`."""
    out = command_parser("lmms-task", __doc__)
    out.add_argument("records", type=Path, help="records with the questions and their references")
    out.add_argument("output", type=Path, help="the folder to write; it must not be there, or be empty")
    add_images_option(out)
    out.add_argument("--name", help="the task's name in lmms-eval; default: the folder's name")
    out.add_argument("--max_new_tokens", type=whole(1), default=64, help="tokens of an answer at most")
    return out


def main(argv: Sequence[str] | None = None) -> int:
    """Write the task. Exit codes: 0 done, 1 failed, 2 wrong use."""
    arguments = parser().parse_args(argv)
    name = arguments.name or re.sub(r"\W+", "_", arguments.output.resolve().name).lower()
    if not NAME.fullmatch(name):
        raise UserError(f"--name {name}: expected small letters, digits and _, with a letter first, such as my_parts")
    output = arguments.output
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise UserError(f"{output}: already there; give a folder that is not, or delete it")
    rows, moved = _rows(arguments.records, arguments.image_folder)
    require_characters(rows, arguments.records)
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=f".{output.name}-") as work:
        _write(Path(work) / "task", output.resolve(), name, arguments, rows)
        if output.is_dir():
            output.rmdir()
        (Path(work) / "task").replace(output)
    if moved:
        print(
            f"{moved} of {len(rows)} questions have a picture within or behind their text. lmms-eval puts pictures "
            "first, so a model's answers to them may differ from evaluate's."
        )
    print(f"{len(rows)} questions in {output}; ask them with:")
    print(f"  python -m lmms_eval --include_path {output} --tasks {name} --batch_size 1 --output_path results \\")
    print("    --model openai --model_args model_version=mine,base_url=http://127.0.0.1:8000/v1")
    return 0


def _rows(records: Path, folder: Path | None) -> tuple[list[dict[str, Any]], int]:
    """A row of questions.jsonl per question, and how many have a picture that is not in front of their text."""
    from data_prep.records.marks import IMAGE_TOKEN
    from llava_finetune.evaluation.generate_answers import held_out_questions
    from llava_finetune.evaluation.metrics import references_of

    rows, moved = [], 0
    for one in held_out_questions(records, str(records), folder, "--images"):
        asked = one.asked.lstrip()
        while asked.startswith(IMAGE_TOKEN):
            asked = asked.removeprefix(IMAGE_TOKEN).lstrip()
        moved += IMAGE_TOKEN in asked
        row = {"id": one.id, "turn": one.turn, "images": list(one.images), "reference": one.reference}
        row["question"] = asked.replace(IMAGE_TOKEN, "").strip()
        row["answers"] = references_of(one.prediction("", 0, False))
        rows.append(row)
    return rows, moved


def _write(task: Path, output: Path, name: str, arguments: argparse.Namespace, rows: Sequence[dict[str, Any]]) -> None:
    """The four files, in `task`, as they are to be in `output`."""
    from llava_finetune.evaluation import metrics, vqa_scorer

    task.mkdir()
    has_vqa = all(len(row["answers"]) >= metrics.MIN_REFERENCES_FOR_VQA for row in rows)
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
    (task / "questions.jsonl").write_text("".join(lines), encoding="utf-8")
    names = ["exact_match", *(["vqa_accuracy"] if has_vqa else [])]
    text = TASK.format(
        records=printable(arguments.records.name),
        name=name,
        questions=json.dumps(str(output / "questions.jsonl"), ensure_ascii=False),
        max_new_tokens=arguments.max_new_tokens,
        metrics="".join(map(METRIC.format, names)),
    )
    (task / f"{name}.yaml").write_text(text, encoding="utf-8")
    scoring = SCORING.format(
        folder=str((arguments.image_folder or Path()).resolve()),
        normalise=inspect.getsource(metrics.normalise),
        runpy="import runpy\n" if has_vqa else "",
        load=LOAD if has_vqa else "",
        vqa=VQA if has_vqa else "",
    )
    if has_vqa:
        (task / "vqa.py").write_text(inspect.getsource(vqa_scorer), encoding="utf-8")
    (task / "scoring.py").write_text(scoring, encoding="utf-8")
