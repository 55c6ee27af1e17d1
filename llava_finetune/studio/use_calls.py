"""Calls about what comes before and after a training: what it would learn, whether it fits, and what is made of it.

CALLS["make"](studio, {"name": "first-try", "kind": "gguf", "dry": True})      # {"command": "llava-finetune merge ..."}
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field

from data_prep.records.picture import read_picture, resolve_image
from llava_finetune.errors import UserError
from llava_finetune.launching.processes import free_port
from llava_finetune.studio import buttons, jobs, results
from llava_finetune.studio.documents import CertificateFile, read_known
from llava_finetune.studio.intake import beside_others
from llava_finetune.studio.jobs import Job, Step
from llava_finetune.studio.pace import SCRIPTS
from llava_finetune.studio.refusals import Refused
from llava_finetune.studio.shared import Studio
from llava_finetune.studio.table import NOTHING, stamp_of
from llava_finetune.studio.workspace import Workspace

PLAN_SECONDS = 120.0
READERS = {"export": ("transformers", "vllm"), "gguf": ("llama.cpp",)}
"""Programs that read a product, as a certificate names them."""
OTHERWISE = ("known fault", "different")


class MakeAsked(BaseModel):
    """A run, and what to make of it."""

    name: str = Field(max_length=60)
    kind: str = Field("", max_length=20)
    dry: bool = False


class SayAsked(BaseModel):
    """A question to the model and its base. `image` begins with `:/` where it is not in the folder of pictures."""

    name: str = Field(max_length=60)
    image: str = Field("", max_length=4096)
    question: str = Field(min_length=1, max_length=5000)


class TeachAsked(BaseModel):
    """A right answer, to be learned next time."""

    image: str = Field(max_length=4096)
    question: str = Field(min_length=1, max_length=5000)
    answer: str = Field(min_length=1, max_length=5000)


class FitAsked(BaseModel):
    """A model and a card."""

    model: str = Field(max_length=1000)
    recipe: str = "lora"
    card: int = Field(24, ge=1, le=1000)


class ShowAsked(BaseModel):
    """The model whose eyes are looked through."""

    model: str = Field(max_length=1000)
    dry: bool = False


def made(studio: Studio, asked: dict[str, Any]) -> dict[str, Any]:
    """Start making a product, or with `dry` only show its commands."""
    given = MakeAsked.model_validate(asked)
    begun = [
        one for one in jobs.jobs(studio.space) if one.kind in results.PRODUCTS and one.about.get("name") == given.name
    ]
    busy = [one for one in begun if jobs.look(one).state not in jobs.ENDED]
    is_merging = any("merge" in step.argv for one in busy for step in one.steps)
    steps = results.make(studio.space, given.name, given.kind, is_merging=is_merging)
    if given.dry:
        return {"command": buttons.shown(steps, studio.space)}

    once = jobs.while_made("being_made", given.kind, given.name)
    job = jobs.start(studio.space, given.kind, given.name, steps, queued=True, unless=once, name=given.name)
    return {"job": job.id}


def products(studio: Studio, asked: dict[str, Any]) -> dict[str, Any]:
    """What there is of a run: each product with its folder, the job that made or makes it, and which report."""
    given = MakeAsked.model_validate(asked)
    found = jobs.jobs(studio.space)
    report = stamp_of(results.run_folder(studio.space, given.name) / "report.html")
    return {
        "products": [_product(studio, given.name, kind, found) for kind in results.PRODUCTS],
        "report": str(report[0]) if report != NOTHING else None,
    }


def _product(studio: Studio, name: str, kind: str, found: list[Job]) -> dict[str, Any]:
    path = results.product(studio.space, name, kind)
    job = next((one for one in reversed(found) if one.kind == kind and one.about.get("name") == name), None)
    seen = jobs.look(job) if job else None
    why = jobs.reason(job) if job and seen and seen.state == "failed" else ""
    if not path.exists() and seen and seen.state == "done":
        seen = None  # it was moved away since
    return {
        "kind": kind,
        "path": studio.space.name_of(path) if path.exists() else None,
        "state": seen.state if seen else "done" if path.exists() else None,
        "job": job.id if job else None,
        "seconds": seen.seconds if seen else 0,
        "why": why,
        "verdicts": _verdicts(results.product(studio.space, name, "certify"), kind),
    }


def _verdicts(path: Path, kind: str) -> list[dict[str, Any]]:
    """Which program answers as the model does, in a certificate; of a product, the programs for it that do not."""
    engines = read_known(path, CertificateFile).get("engines", [])
    if kind != "certify":
        engines = [
            one for one in engines if one.get("engine") in READERS.get(kind, ()) and one.get("verdict") in OTHERWISE
        ]
    return [{name: one.get(name) or 0 for name in ("engine", "verdict", "count", "identical")} for one in engines]


def talk(studio: Studio, asked: dict[str, Any]) -> dict[str, Any]:
    """Where the talk with a run stands: the job that serves it, and the models that are ready."""
    name = MakeAsked.model_validate(asked).name
    job = _talking(studio, name)
    if job is None:
        return {"state": None, "models": []}
    seen = jobs.look(job)
    ready = results.models_of(int(job.about["port"])) if seen.state == "running" else []
    why = jobs.reason(job) if seen.state == "failed" else ""
    return {"state": seen.state, "models": ready, "job": job.id, "why": why, "seconds": seen.seconds}


def _talking(studio: Studio, name: str) -> Job | None:
    found = [one for one in jobs.jobs(studio.space) if one.kind == "serve" and one.about.get("name") == name]
    return found[-1] if found else None


def begun(studio: Studio, asked: dict[str, Any]) -> dict[str, Any]:
    """Load a run and its base for questions; a talk with another run ends, for two may not fit."""
    name = MakeAsked.model_validate(asked).name
    port = free_port()
    steps = results.serve(studio.space, name, port)
    for job in jobs.jobs(studio.space):
        if job.kind == "serve" and jobs.look(job).state not in jobs.ENDED:
            jobs.stop(job)
    return {"job": jobs.start(studio.space, "serve", name, steps, name=name, port=port).id}


def said(studio: Studio, asked: dict[str, Any]) -> dict[str, Any]:
    """Ask the run and its base the same question about a picture."""
    given = SayAsked.model_validate(asked)
    job = _talking(studio, given.name)
    if job is None or jobs.look(job).state != "running":
        raise Refused("not_loaded")
    port = int(job.about["port"])
    picture = read_picture(_path(studio, given.image)) if given.image else None
    answers = {name: results.ask(port, name, picture, given.question) for name in results.models_of(port)}
    if not answers:
        raise Refused("loading")
    return {"answers": answers}


def _path(studio: Studio, name: str) -> Any:
    folder = studio.space.folder if name.startswith(":/") else studio.space.images
    if folder is None:
        raise Refused("no_pictures")
    return studio.space.below(studio.space.name_of(resolve_image(folder, name.removeprefix(":/"))))


def taught(studio: Studio, asked: dict[str, Any]) -> dict[str, Any]:
    """Put a right answer into the table; a picture from elsewhere in the workspace is copied to the others."""
    given = TeachAsked.model_validate(asked)
    space, path = studio.space, _path(studio, given.image)
    images = space.images
    if images is None:
        raise Refused("no_pictures")
    if images not in path.parents:
        path = beside_others(path, images / "asked")
    row = {"id": "", "image": path.relative_to(images).as_posix(), "question": given.question, "answer": given.answer}
    with space.locked():
        table = studio.store.read()
        rows = [dict(one) for one in table.typed]
        same = next((one for one in rows if (one["image"], one["question"]) == (row["image"], row["question"])), None)
        if same is not None:
            same["answer"] = given.answer
        else:
            rows.append(row)
        studio.store.put(table.names, rows)
    return {"image": row["image"]}


def fits(studio: Studio, asked: dict[str, Any]) -> dict[str, Any]:
    """`plan` for a card, as numbers that the page says in words."""
    given = FitAsked.model_validate(asked)
    if given.recipe not in SCRIPTS:
        raise UserError(f"recipe {given.recipe[:40]!r}: there are {', '.join(SCRIPTS)}")
    model = buttons.model_name(studio.space, given.model)
    data = buttons.split_file(studio.space, "train")
    words = ["llava-finetune", "plan", "--model", model, "--mode", given.recipe, "--gpus", f"1x{given.card}GB"]
    words += ["--data", studio.space.name_of(data)] if data.is_file() else []
    done = _planned(studio, [sys.executable, "-m", "llava_finetune", *words[1:], "--json"])
    try:
        mode = json.loads(done.stdout)["modes"][given.recipe]
    except (ValueError, KeyError):
        raise UserError((done.stderr.strip().splitlines() or ["plan said nothing"])[-1]) from None
    sizes = mode["bytes"]["with_checkpointing" if mode["setting"]["checkpointing"] else "without_checkpointing"]
    return {
        "fits": mode["fits"],
        "needs": sizes["total"] / 1e9,
        "spare": given.card - sizes["total"] / 1e9,
        "trained": mode["trainable_parameters"],
        "command": buttons.shown([Step(tuple(words))], studio.space),
    }


def _planned(studio: Studio, argv: list[str]) -> subprocess.CompletedProcess[str]:
    folder, environment = studio.space.folder, jobs.environment()
    try:
        return subprocess.run(
            argv, capture_output=True, text=True, timeout=PLAN_SECONDS, cwd=folder, env=environment, check=False
        )
    except subprocess.TimeoutExpired:
        raise Refused("busy", seconds=int(PLAN_SECONDS)) from None


def shown(studio: Studio, asked: dict[str, Any]) -> dict[str, Any]:
    """Make the page of records as the model will see them."""
    given = ShowAsked.model_validate(asked)
    space = studio.space
    data, images = buttons.split_file(space, "train"), space.settings().get("images")
    if not data.is_file() or not isinstance(images, str):
        raise Refused("not_split")
    model = buttons.model_name(space, given.model)
    words = (
        "python",
        "-m",
        "data_prep",
        "show",
        space.name_of(data),
        "--images",
        buttons.images_word(images),
        "--model",
        model,
    )
    steps = [Step((*words, "--html", "show.html", "--count", "12"))]
    if given.dry:
        return {"command": buttons.shown(steps, space), **_page_made(space, data)}
    return {"job": jobs.start(space, "show", model, steps, model=model).id}


def _page_made(space: Workspace, data: Path) -> dict[str, Any]:
    """Whether the page is there, of which model it is, and whether the records are others by now."""
    page = stamp_of(space.folder / "show.html")
    before = [one for one in jobs.jobs(space) if one.kind == "show" and jobs.look(one).state == "done"]
    model = before[-1].about.get("model") if before else None
    return {"made": page != NOTHING, "model": model, "is_old": page != NOTHING and page[0] < stamp_of(data)[0]}


CALLS: dict[str, Callable[[Studio, dict[str, Any]], dict[str, Any]]] = {
    "make": made,
    "products": products,
    "talk": talk,
    "talk-begin": begun,
    "say": said,
    "teach": taught,
    "fit": fits,
    "show": shown,
}
