"""Calls about what runs: jobs with their logs, trainings, and what each of them has come to.

CALLS["train"](studio, {"name": "first-try", "model": "liuhaotian/llava-v1.5-7b"})
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from pydantic import BaseModel, Field

from llava_finetune.errors import UserError
from llava_finetune.machine import gpus
from llava_finetune.studio import buttons, jobs, runs
from llava_finetune.studio.comparison import compared
from llava_finetune.studio.models import models
from llava_finetune.studio.pace import measured, pace_of
from llava_finetune.studio.refusals import Refused
from llava_finetune.studio.shared import Studio


class TrainAsked(BaseModel):
    """A training, as the page's form has it."""

    name: str = Field(max_length=4096)
    model: str = Field(max_length=1000)
    recipe: str = "lora"
    flags: dict[str, str] = {}
    dry: bool = False


class FactsKept(BaseModel):
    """What a job's command.json keeps of a training."""

    model: str
    recipe: str
    flags: dict[str, str]
    environment: dict[str, str]


class NameAsked(BaseModel):
    """A run or a job by its name; `now`: without waiting."""

    name: str = Field(max_length=100)
    now: bool = False


class RunAsked(NameAsked):
    """A run, and the language of the words in its charts."""

    language: str = Field("en", max_length=10)


class CompareAsked(BaseModel):
    """Trainings by their names, none: the newest; and the language of the words in their charts."""

    names: list[str] = Field([], max_length=1000)
    language: str = Field("en", max_length=10)


def listed(studio: Studio, asked: dict[str, Any]) -> dict[str, Any]:
    """Every job, newest first, as it stands."""
    return {"jobs": [_job(job) for job in reversed(jobs.jobs(studio.space))]}


def _job(job: jobs.Job) -> dict[str, Any]:
    seen = jobs.look(job)
    why = jobs.reason(job) if seen.state == "failed" else ""
    return {
        "id": job.id,
        "kind": job.kind,
        "title": job.title,
        "state": seen.state,
        "code": seen.code,
        "step": seen.step,
        "steps": len(job.steps),
        "seconds": round(seen.seconds, 1),
        "why": why,
        "about": dict(job.about),
    }


def one_job(studio: Studio, asked: dict[str, Any]) -> dict[str, Any]:
    """A job with its command and the end of what it said."""
    job = jobs.find(studio.space, NameAsked.model_validate(asked).name)
    return {**_job(job), "command": buttons.shown(list(job.steps), studio.space), "log": jobs.log_tail(job)}


def stopped(studio: Studio, asked: dict[str, Any]) -> dict[str, Any]:
    """Ask a job to end."""
    given = NameAsked.model_validate(asked)
    job = jobs.find(studio.space, given.name)
    jobs.stop(job, now=given.now)
    return _job(job)


def known_models(studio: Studio, asked: dict[str, Any]) -> dict[str, Any]:
    """Models to begin with: those of the workspace and of this machine, and the known ones of the hub; and the graphics
    cards of this machine, None where the driver does not say."""
    try:
        cards = [{"name": one.name, "memory": round(one.memory / 2**30)} for one in gpus()]
    except UserError:
        cards = None
    return {"models": models(studio.space), "cards": cards}


def trained(studio: Studio, asked: dict[str, Any]) -> dict[str, Any]:
    """Start a training, behind those that run; with `dry` only show its command."""
    given = TrainAsked.model_validate(asked)
    wanted = buttons.Training(given.name, given.model, given.recipe, given.flags)
    return _start(studio, wanted, given.dry)


def resumed(studio: Studio, asked: dict[str, Any]) -> dict[str, Any]:
    """Go on with a run that was stopped or broke off: the same command, which finds its last checkpoint."""
    name = NameAsked.model_validate(asked).name
    job = runs.job_of(jobs.jobs(studio.space), name)
    if job is None:
        raise Refused("not_ours", name=name)
    if jobs.look(job).state not in jobs.ENDED:
        raise Refused("running", name=name)
    facts = FactsKept.model_validate(job.about)
    wanted = buttons.Training(name, facts.model, facts.recipe, facts.flags, facts.environment, resume=True)
    return _start(studio, wanted, False)


def _start(studio: Studio, wanted: buttons.Training, dry: bool) -> dict[str, Any]:
    steps = buttons.train(studio.space, wanted)
    command = buttons.shown(steps, studio.space)
    if dry:
        return {"command": command, "forecast": _forecast(studio, wanted)}

    once = jobs.while_made("running", "train", wanted.name)
    about = buttons.run_facts(wanted)
    job = jobs.start(studio.space, "train", wanted.name, steps, queued=True, unless=once, **about)
    return {"job": job.id, "command": command}


def _forecast(studio: Studio, wanted: buttons.Training) -> dict[str, Any]:
    """What the training will do and why, and how long that takes where a run like it was measured here."""
    space, made = studio.space, jobs.jobs(studio.space)
    pace = pace_of(buttons.split_file(space, "train"), wanted.recipe, wanted.flags, wanted.environment)
    asked = buttons.EVALUATIONS + 1 if buttons.split_file(space, "test").is_file() else 0  # and once before it learns
    before = (run for name in runs.names(space, made) if (run := runs.written(space, name)))
    likely = measured(before, buttons.model_name(space, wanted.model), wanted.recipe, pace, asked)
    return {
        **asdict(pace),
        "is_short": pace.is_short,
        "is_given": "--num_train_epochs" in wanted.flags,
        "evaluations": asked,
        "is_fresh": studio.findings.is_fresh(studio.store.read()),
        "seconds": likely.seconds if likely else None,
        "like": likely.like if likely else None,
    }


def all_runs(studio: Studio, asked: dict[str, Any]) -> dict[str, Any]:
    """Every run as a line."""
    space, made = studio.space, jobs.jobs(studio.space)
    return {"runs": [runs.summary(name, runs.written(space, name), made) for name in runs.names(space, made)]}


def one_run(studio: Studio, asked: dict[str, Any]) -> dict[str, Any]:
    """A run with curves and answers."""
    given = RunAsked.model_validate(asked)
    made = jobs.jobs(studio.space)
    if given.name not in runs.names(studio.space, made):
        raise Refused("no_run", name=given.name)
    return runs.live(studio.space, given.name, made, given.language)


def side_by_side(studio: Studio, asked: dict[str, Any]) -> dict[str, Any]:
    """Several trainings: a line each, their curves, and the settings that differ."""
    given = CompareAsked.model_validate(asked)
    return compared(studio.space, given.names, jobs.jobs(studio.space), given.language)


CALLS: dict[str, Callable[[Studio, dict[str, Any]], dict[str, Any]]] = {
    "jobs": listed,
    "job": one_job,
    "stop": stopped,
    "models": known_models,
    "train": trained,
    "resume": resumed,
    "runs": all_runs,
    "run": one_run,
    "compare": side_by_side,
}
