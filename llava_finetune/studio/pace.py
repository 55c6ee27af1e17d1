"""How many steps a training will take and why so many, and how long that took before on this machine.

pace = pace_of(Path("data/train.json"), "lora", flags={}, environment={})
pace.records, pace.epochs, pace.batch, pace.steps      # (40, 3, 4, 30)
measured([read_run(Path("runs/first-try"))], "tiny", "lora", pace, evaluations=5)
# Measured(seconds=312.0, like="first-try"), a prediction from the steps of first-try; None where none was like this one
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from llava_finetune import ROOT
from llava_finetune.launching.batches import choose, number
from llava_finetune.machine import gpus
from llava_finetune.planning.plan import SCRIPTS as EVERY_SCRIPT
from llava_finetune.planning.steps import MIN_STEPS, usual_batch, warmup_of
from llava_finetune.report.run_folder import Run, is_number

SCRIPTS = {recipe: EVERY_SCRIPT[recipe] for recipe in ("lora", "qlora", "full")}
FEWEST_STEPS = 5
"""Steps that a run must have logged before its speed is taken for a prediction: the first ones are slow."""


@dataclass(frozen=True)
class Pace:
    """A training: records x epochs = steps of `batch` records, the first `warmup` at small rates."""

    records: int
    epochs: float
    batch: int
    steps: int
    warmup: int
    rate: str
    is_little: bool
    by_steps: bool

    @property
    def is_short(self) -> bool:
        """Whether the steps are fewer than what the launchers aim at."""
        return self.steps < MIN_STEPS


@dataclass(frozen=True)
class Measured:
    """A prediction: the seconds that the training would take at the pace of the run `like`."""

    seconds: float
    like: str


def pace_of(data: Path, recipe: str, flags: Mapping[str, str], environment: Mapping[str, str]) -> Pace:
    """What the launcher will choose for these records, on the processes of this machine."""
    words = [word for pair in flags.items() for word in pair]
    world = number(environment, "NUM_GPUS", len(gpus()) or 1) or 1
    chosen = choose(mode=recipe, flags=words, environment=environment, world=world, on_gpu=bool(gpus()), data=str(data))
    steps = chosen.steps
    return Pace(
        records=steps.records,
        epochs=round(steps.epochs, 1),
        batch=steps.batch,
        steps=steps.steps,
        warmup=warmup_of(float(_usual(recipe, "--warmup_steps")), steps.steps),
        rate=flags.get("--learning_rate") or _usual(recipe, "--learning_rate"),
        is_little=steps.records < MIN_STEPS * usual_batch(recipe),
        by_steps=steps.by_steps,
    )


def _usual(recipe: str, name: str) -> str:
    """A flag as the recipe's launcher sets it."""
    text = (ROOT / "scripts" / SCRIPTS[recipe]).read_text(encoding="utf-8")
    found: list[str] = re.findall(rf"{re.escape(name)} (\S+)", text)
    return found[-1] if found else "0"


def measured(runs: Iterable[Run], model: str, recipe: str, pace: Pace, evaluations: int) -> Measured | None:
    """The time at the pace of the first of `runs` that trained this model in this way, with its evaluations."""
    for run in runs:
        spans = _spans(run)
        if len(spans) < FEWEST_STEPS or (run.argument("model_name_or_path"), recipe_of(run)) != (model, recipe):
            continue
        asked = [value for _, value in run.points("eval_seconds")]
        seconds = pace.steps * pace.batch * median(seconds / records for records, seconds in spans)
        return Measured(seconds + (evaluations * median(asked) if asked else 0.0), run.name)
    return None


def recipe_of(run: Run) -> str:
    """How a run trains, by what it wrote down; "" where it wrote nothing."""
    has_adapter = run.argument("lora_enable")
    if has_adapter is None:
        return ""
    return ("qlora" if run.argument("bits") in (4, 8) else "lora") if has_adapter else "full"


def trained_seconds(run: Run) -> float | None:
    """How long the logged steps of a run took, with what was asked and saved between them; None before the first."""
    spans = _spans(run)
    return sum(seconds for _, seconds in spans) if spans else None


def _spans(run: Run) -> list[tuple[float, float]]:
    """(records, seconds) between the logged steps, from the speed that each of them logs."""
    parts = [run.argument(name) for name in ("per_device_train_batch_size", "gradient_accumulation_steps")]
    world = run.argument("world_size") or 1
    if not all(is_number(part) for part in (*parts, world)):
        return []
    batch, found, before = float(parts[0]) * float(parts[1]) * float(world), [], 0.0
    for step, speed in run.points("samples_per_second"):
        if speed > 0:
            found.append((batch * (step - before), batch * (step - before) / speed))
        before = step
    return found
