"""A workspace as it looks in the middle of work, for the pictures of docs/studio.md: what its trainings say is made up.

with running(chess(Path("chess"))): ...
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from llava_finetune.studio import buttons, jobs
from llava_finetune.studio.intake import Choice, take
from llava_finetune.studio.jobs import Step
from llava_finetune.studio.shared import Studio
from llava_finetune.studio.workspace import Workspace
from tests.data_prep import chess as pieces
from tests.fixtures import run_maker

MODEL = "smollm2-llava"
QUESTION = "Which chess piece is it?"
SAID = {0: "a chess piece", 9: "white pawn", 18: "black pawn"}
"""What the made-up training answers to every held-out picture at a step; later ones are right, but for each fourth."""


def chess(folder: Path) -> Studio:
    """Rendered chess pieces (HEIC), most of them named, checked and split; a model's folder; two finished trainings."""
    pieces.main([str(folder / "pieces"), "--each", "3"])
    files = sorted(path.relative_to(folder / "pieces") for path in (folder / "pieces").rglob("train/*"))
    named = [(file, "" if place % 9 == 2 else " ".join(file.stem.split("-")[:2])) for place, file in enumerate(files)]
    lines = [f"{file},{answer}" for file, answer in named]
    (folder / "pieces.csv").write_text("image,answer\n" + "\n".join(lines) + "\n")
    studio = Studio(Workspace.open(folder))
    roles = {"image": "image", "question": None, "answer": "answer"}
    take(studio.store, Choice("pieces.csv", "pieces", roles, QUESTION))
    job = jobs.start(studio.space, "prepare", "Check and split", buttons.prepare(studio.space, 0.2, mend=False))
    while jobs.look(job).state not in jobs.ENDED:
        time.sleep(0.1)
    assert jobs.look(job).state == "done", jobs.log_tail(job)
    (folder / MODEL).mkdir()
    (folder / MODEL / "config.json").write_text("{}")
    for number, (name, skill, rate) in enumerate((("first-try", 0.8, 2e-4), ("larger-rate", 0.97, 5e-4))):
        run = run_maker.make_run(folder / "runs" / name, skill=skill, seed=number)
        (run / "result.json").write_text("{}")
        _settle(run, learning_rate=rate)
    return studio


@contextmanager
def running(studio: Studio) -> Iterator[None]:
    """A third training under way, at step 45 of 60."""
    run = run_maker.make_run(studio.space.runs / "smaller-rate", upto=45, seed=2)
    _settle(run, learning_rate=1e-4)
    tested = json.loads(buttons.split_file(studio.space, "test").read_text())
    for step in (*SAID, 27, 36, 45):
        rows = [
            {
                "id": record["id"],
                "image": record["image"],
                "question": QUESTION,
                "reference": (right := record["conversations"][1]["value"]),
                "answer": SAID.get(step, "black pawn" if number % 4 == 1 else right),
            }
            for number, record in enumerate(tested)
        ]
        (run / f"predictions-eval-{step}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    about = {"name": "smaller-rate", "model": MODEL, "recipe": "lora", "flags": {}, "environment": {}}
    waits = Step(("python", "-c", "import time; time.sleep(600)"))
    job = jobs.start(studio.space, "train", "smaller-rate", [waits], queued=True, **about)
    try:
        while jobs.look(job).state == "waiting":
            time.sleep(0.05)
        yield
    finally:
        jobs.stop(job, now=True)


def _settle(run: Path, **arguments: object) -> None:
    """Settings as training writes them, and these."""
    manifest = json.loads((run / "run.json").read_text())
    usual = {"model_name_or_path": MODEL, "lora_enable": True, "bits": 16}
    batch = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2}
    manifest["arguments"] |= {**usual, **batch, **arguments}
    manifest["image_folder"] = "pieces"
    (run / "run.json").write_text(json.dumps(manifest))
