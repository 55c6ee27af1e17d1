"""Runs as the page shows them: where they stand, their curves, and the held-out answers as they change.

live(space, "first-try", jobs(space))      # {"state": "running", "step": 40, "steps": 120, "charts": "<figure..."}
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data_prep.records.json_text import parse_json, require_regular
from llava_finetune.errors import UserError
from llava_finetune.evaluation.metrics import key_of, normalise
from llava_finetune.report.charts import Level, Series, line_chart
from llava_finetune.report.run_folder import Run, is_number, read_run
from llava_finetune.studio.documents import StateFile, read_known
from llava_finetune.studio.jobs import ENDED, Job, is_stopping, look, reason
from llava_finetune.studio.refusals import said
from llava_finetune.studio.workspace import Workspace

SHOWN_QUESTIONS = 12
SHOWN_STEPS = 6
MOST_STEPS = 10**12


def names(space: Workspace, made: Sequence[Job]) -> list[str]:
    """The runs of the workspace, newest first: those on the disk, and those that wait for their turn."""
    space.require()
    found = {name: (space.runs / name).stat().st_mtime for name in _folders(space)}
    for job in made:
        if job.kind == "train":
            found.setdefault(str(job.about.get("name")), 0.0)
    order = {str(job.about.get("name")): number for number, job in enumerate(made) if job.kind == "train"}
    return sorted(found, key=lambda name: (-order.get(name, -1), -found[name], name))


def _folders(space: Workspace) -> list[str]:
    entries = space.runs.iterdir() if space.runs.is_dir() else ()
    return [path.name for path in entries if not path.name.startswith(".") and _is_run(space, path)]


def _is_run(space: Workspace, path: Path) -> bool:
    """Whether it is a folder; a file, and a link that leads nowhere or out of the workspace, is no run."""
    return path.is_dir() and space.folder in path.resolve().parents


def written(space: Workspace, name: str) -> Run | None:
    """What a training has written so far; None where it has no folder yet."""
    folder = space.runs / name
    return read_run(folder) if _is_run(space, folder) else None


def job_of(made: Sequence[Job], name: str) -> Job | None:
    """The newest training into a run's folder."""
    return next((job for job in reversed(made) if job.kind == "train" and job.about.get("name") == name), None)


def summary(name: str, run: Run | None, made: Sequence[Job]) -> dict[str, Any]:
    """A run as one line of a list; `run`: what it has written."""
    job = job_of(made, name)
    state = _state(run, job)
    return {
        "name": name,
        "job": job.id if job else None,
        "about": dict(job.about) if job else {},
        **state,
        "step": run.last_step if run else 0,
        "silent": _silent_seconds(run) if run and not job else None,
        "score": _score(run, "final") if run else None,
        "first": _score(run, "baseline") if run else None,
        "prior": _score(run, "text_prior") if run else None,
    }


def live(space: Workspace, name: str, made: Sequence[Job], language: str = "en") -> dict[str, Any]:
    """All that the page shows of one run, the words in its charts in a language of the page."""
    run = written(space, name)
    short = summary(name, run, made)
    if run is None:
        return {**short, "charts": "", "questions": [], "steps": 0, "warnings": [], "has": []}
    last: dict[str, Any] = next((row for row in reversed(run.rows) if is_number(row.get("seconds_left"))), {})
    is_running, memory = short["state"] == "running", last.get("memory_gb")
    return {
        **short,
        "steps": _total_steps(run, last),
        "left": float(last["seconds_left"]) if is_running and last.get("seconds_left") else None,
        "memory": round(float(memory or 0), 2) if is_number(memory) else 0,
        "charts": charts(run, language),
        "questions": questions(run),
        "held_out": _held_out(run),
        "warnings": [str(row["warning"]) for row in run.rows if "warning" in row][-3:],
        "has": [one for one in ("report.html", "result.json") if (run.folder / one).is_file()],
        "images": next((str(one) for one in run.image_folders), None),
    }


def _state(run: Run | None, job: Job | None) -> dict[str, Any]:
    """Whether it runs, and if it does not, why and what can be done, from the disk alone."""
    if job is None:
        state = "done" if run and run.is_finished else "unknown"
        return {"state": state, "why": "", "resumable": False, "stopping": False}
    seen = look(job)
    has_checkpoint = bool(run and any(run.folder.glob("checkpoint-*")))
    state = seen.state
    if state == "killed" and run and run.is_finished and (run.folder / "result.json").is_file():
        state = "done"  # it was killed after its result was whole
    why = reason(job) if state == "failed" else ""
    resumable = state in ("stopped", "failed", "killed")
    return {
        "state": state,
        "why": why,
        "resumable": resumable,
        "saved": has_checkpoint,
        "seconds": seen.seconds,
        "stopping": state not in ENDED and is_stopping(job),
    }


def _silent_seconds(run: Run) -> float | None:
    """How long ago the log of a run was written; None where there is none."""
    try:
        return max(0.0, time.time() - (run.folder / run.stage / "log.jsonl").stat().st_mtime)
    except OSError:
        return None


def _score(run: Run | None, name: str) -> float | None:
    found = run.evaluations.get(name) if run else None
    value = found.scores.get("exact_match") if found else None
    return float(value) if value is not None else None


def _held_out(run: Run) -> int:
    """How many questions are held out; 0 before they were answered."""
    count: Any = run.evaluations["baseline"].scores.get("count") if "baseline" in run.evaluations else 0
    return int(count) if is_number(count) else 0


def _total_steps(run: Run, last: dict[str, Any]) -> int:
    """Steps of the whole run, from how long the rest takes; 0 where nobody can know."""
    state = run.folder / "trainer_state.json"
    if state.is_file():
        return int(read_known(state, StateFile).get("max_steps", 0))
    named: list[Any] = [last.get("epoch"), last.get("step"), run.argument("num_train_epochs")]
    epoch, step, epochs = (float(one) if is_number(one) else 0.0 for one in named)
    most = run.argument("max_steps")
    if isinstance(most, int) and most > 0:
        return most
    if epoch > 0 and epochs > 0:
        return round(min(max(step, epochs / epoch * step), MOST_STEPS))
    return 0


def charts(run: Run, language: str) -> str:
    """Loss, and scores with the prior and the base as lines: two figures of the report, drawn as far as the run is."""
    levels = [
        Level(said(f"chart.{name}", language), value, style)
        for name, style in (("text_prior", "dashed"), ("baseline", "dotted"))
        if (value := _score(run, name)) is not None
    ]
    loss = [
        Series(said("chart.training", language), "a", run.points("loss"), smooth=True),
        Series(said("chart.held_out", language), "b", run.points("eval_loss"), dots=True),
    ]
    score = [Series(said("chart.right", language), "c", run.points("eval_exact_match"), dots=True)]
    drawn = line_chart(said("chart.loss", language), loss)
    return drawn + line_chart(said("chart.score", language), score, levels=levels, share=True)


def questions(run: Run) -> list[dict[str, Any]]:
    """Held-out questions with what was answered at each evaluation, first to last."""
    found: list[tuple[int, Path]] = []
    for path in run.folder.glob("predictions-eval-*.jsonl"):
        number = path.stem.rpartition("-")[2]
        if number.isdecimal():
            found.append((int(number), path))
    found.sort()
    if len(found) > SHOWN_STEPS:
        found = [found[0], *found[-SHOWN_STEPS + 1 :]]
    rows: dict[tuple[str, int], dict[str, Any]] = {}
    for step, path in found:
        for one in _first_lines(path):
            key = key_of(one)  # a record's id and the turn: a dialogue asks several
            row = rows.setdefault(
                key,
                {
                    "id": key[0],
                    "image": one.get("image"),
                    "question": str(one.get("question", "")),
                    "reference": str(one.get("reference", "")),
                    "answers": [],
                },
            )
            answer = str(one.get("answer", ""))
            row["answers"].append([step, answer])
            row["is_right"] = normalise(answer) == normalise(row["reference"])  # as the score counts it
    return list(rows.values())[:SHOWN_QUESTIONS]


def _first_lines(path: Path) -> list[dict[str, Any]]:
    rows = []
    try:
        with require_regular(path).open(encoding="utf-8") as lines:
            for line, _ in zip(lines, range(SHOWN_QUESTIONS), strict=False):
                rows.append(parse_json(line.encode(), path))
    except (OSError, ValueError, UserError):
        return []
    return [row for row in rows if isinstance(row, dict)]
