"""What each button of the page does, as the commands that it shows and starts.

[step.text for step in prepare(space, Parts(test=0.2))]
# python -m data_prep table answers.csv --images photos --image-column image ... --output records.json
# python -m data_prep check records.json --images photos --json > check.json ...
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from shlex import quote
from typing import Any

from data_prep.converters.options import picture_problem
from llava_finetune import ROOT
from llava_finetune.errors import UserError
from llava_finetune.machine import gpus
from llava_finetune.studio.jobs import Step
from llava_finetune.studio.pace import SCRIPTS, pace_of
from llava_finetune.studio.refusals import Refused
from llava_finetune.studio.table import read_table
from llava_finetune.studio.workspace import Workspace

WHOLE = frozenset({"--max_steps", "--lora_r", "--lora_alpha"})
NUMBERS = WHOLE | {"--num_train_epochs", "--learning_rate"}
"""The flags that a page may set. A list of forbidden ones would not do: training takes --output-dir and --output_di."""
EVALUATIONS = 5
"""How often a run answers its held-out questions."""


@dataclass(frozen=True)
class Training:
    """What a training is asked for on the page."""

    name: str
    model: str
    recipe: str = "lora"
    flags: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    resume: bool = False


def prepare(space: Workspace, test: float, *, mend: bool, seed: int = 0) -> list[Step]:
    """Table to records, check (and mend), split by picture: one step each. `test` is the share of test pictures.

    Any number of rows may be left out: those without an answer or a picture are shown at their place in the grid.
    """
    images = _images(space)
    columns = ("--image-column", "image", "--question-column", "question", "--answer-column", "answer")  # others stay
    table = ("python", "-m", "data_prep", "table", "answers.csv", "--images", images, *columns, "--keep-nan")
    check = ("python", "-m", "data_prep", "check", "records.json", "--images", images)
    parts = ("--parts", f"train={1 - test:g}", f"test={test:g}")
    split = ("python", "-m", "data_prep", "split", "mended.json" if mend else "records.json", *parts)
    fixed = Step((*check, "--fix", "mended.json", "--allow-drops", "1"))
    seeded = ("--seed", str(seed)) if seed else ()
    has_dialogues = space.dialogues.is_file()
    has_typed = not has_dialogues or has_answers(space.images, read_table(space.answers).rows)
    typed = "typed.json" if has_dialogues else "records.json"
    made = Step((*table, "--output", typed, "--allow-drops", "1", "--check", "none"))
    return [
        *([made] if has_typed else []),
        *([_joined(images, typed if has_typed else None)] if has_dialogues else []),
        Step((*check, "--json", "--places"), stdout="check.json", fine=(0, 1) if mend else (0,), found=(1,)),
        *([fixed] if mend else []),
        Step((*split, "--output-dir", "data", "--images", images, "--stratify", "answer", *seeded)),
    ]


def has_answers(images: Path | None, rows: Iterable[Mapping[str, str]]) -> bool:
    """Whether a row of the table becomes a record; of none `data_prep table` makes no file."""
    answered = (row for row in rows if row["answer"].strip() and row["question"].strip())
    return images is not None and any(picture_problem(images, row["image"]) is None for row in answered if row["image"])


def _joined(images: str, typed: str | None) -> Step:
    """The typed records and those that are kept whole in one file."""
    parts = [*([f"{typed}=1"] if typed else []), "dialogues.json=1"]
    words = ("--no-shuffle", "--images", images, "--output", "records.json", "--check", "none")
    return Step(("python", "-m", "data_prep", "mix", *parts, *words))


def train(space: Workspace, asked: Training) -> list[Step]:
    """The launcher's command. Raises UserError for what is missing, a strange name, and flags that name files."""
    if not re.fullmatch(r"[\w][\w.-]{0,59}", asked.name):
        raise Refused("run_name", name=asked.name)
    if asked.recipe not in SCRIPTS:
        raise UserError(f"recipe {asked.recipe[:40]!r}: there are {', '.join(SCRIPTS)}")
    data = split_file(space, "train")
    if not data.is_file():
        raise Refused("not_split")
    output = f"runs/{asked.name}"
    if (space.below(output) / "run.json").exists() and not asked.resume:
        raise Refused("run_there", name=asked.name)
    environment = {
        "MODEL": model_name(space, asked.model),
        "DATA": space.name_of(data),
        "IMAGES": _images(space),
        "OUTPUT": output,
        **({} if gpus() else {"DEEPSPEED_CONFIG": "none"}),  # one process on a CPU has nothing to share
        **{name: value for name, value in asked.environment.items() if value},
    }
    given = _checked(asked.flags)
    flags = {**_rhythm(space, asked), **given}
    words = [word for pair in flags.items() for word in pair]
    return [Step(("bash", script(SCRIPTS[asked.recipe]), *words, "--resume", "auto"), environment)]


def _rhythm(space: Workspace, asked: Training) -> dict[str, str]:
    """Answer the held-out questions and save EVALUATIONS times in the run; no questions where none is held out."""
    steps = pace_of(split_file(space, "train"), asked.recipe, asked.flags, asked.environment).steps
    every = str(max(1, steps // EVALUATIONS))
    test = split_file(space, "test")
    held_out = {"--eval_data_path": space.name_of(test), "--eval_steps": every, "--eval_max_new_tokens": "32"}
    return {**(held_out if test.is_file() else {}), "--save_steps": every}


def _checked(flags: Mapping[str, str]) -> dict[str, str]:
    for name, value in flags.items():
        if name not in NUMBERS:
            raise Refused("flag", flag=name, value=value)
        if name in WHOLE and not re.fullmatch(r"[1-9]\d{0,8}", value, re.ASCII):
            raise Refused("whole_number", flag=name, value=value)
        if not _is_positive(value):
            raise Refused("number", flag=name, value=value)
    return dict(flags)


def _is_positive(value: str) -> bool:
    return bool(re.fullmatch(r"[\d.]+(e[+-]?\d+)?", value, re.ASCII | re.IGNORECASE)) and 0 < _float(value) < 1e9


def _float(value: str) -> float:
    try:
        return float(value)
    except ValueError:
        return 0.0


def model_name(space: Workspace, name: str) -> str:
    """A model as commands take it: a folder of the workspace or of this machine, or a name of the hub."""
    name = name.strip()
    if not name or name.startswith("-") or "\n" in name or "\0" in name:
        raise Refused("choose_model")
    if name in known_folders(space):
        return name
    if not name.startswith(("/", "..")) and (space.folder / name).is_dir():
        return space.name_of(space.below(name))
    if re.fullmatch(r"[\w.-]+/[\w.-]+", name) and ".." not in name:
        return name
    raise Refused("no_model", name=name)


def known_folders(space: Workspace) -> list[str]:
    """Folders outside the workspace that whoever started the studio allowed with --model."""
    return [str(one) for one in space.settings().get("models", []) if isinstance(one, str)]


def split_file(space: Workspace, part: str) -> Path:
    """Where a part of the records lies."""
    return space.folder / "data" / f"{part}.json"


def script(name: str) -> str:
    """A launcher's path."""
    return str(ROOT / "scripts" / name)


def shown(steps: list[Step], space: Workspace) -> str:
    """Commands as they can be pasted into a terminal."""
    return "\n".join(
        [f"cd {quote(str(space.folder))}", *(step.text.replace(f"{sys.executable} ", "python ", 1) for step in steps)]
    )


def run_facts(asked: Training) -> dict[str, Any]:
    """What a job's command.json keeps of a training, so that it can be gone on with."""
    return {
        "name": asked.name,
        "model": asked.model,
        "recipe": asked.recipe,
        "flags": dict(asked.flags),
        "environment": dict(asked.environment),
    }


def _images(space: Workspace) -> str:
    images = space.settings().get("images")
    if not isinstance(images, str):
        raise Refused("no_pictures")
    return images_word(images)


def images_word(images: str) -> str:
    """A folder of pictures as a command's word: one that is named like a flag is none."""
    return f"./{images}" if images.startswith("-") else images
