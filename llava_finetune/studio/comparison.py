"""Several trainings side by side: one line each, their curves in one picture, and the settings that differ.

compared(space, ["first-try", "larger-rate"], jobs(space))["settings"]
# [{"name": "learning_rate", "values": ["0.0002", "0.0005"], "differs": True, "is_given": True}, ...]
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from llava_finetune.report.charts import Series, line_chart
from llava_finetune.report.compare import COLOURS, SIGNIFICANT, differing_settings, leaders
from llava_finetune.report.outcomes import current
from llava_finetune.report.run_folder import Run, is_number
from llava_finetune.studio import runs
from llava_finetune.studio.jobs import Job
from llava_finetune.studio.pace import recipe_of, trained_seconds
from llava_finetune.studio.refusals import said
from llava_finetune.studio.workspace import Workspace

MOST = len(COLOURS)
"""Trainings in one picture: each has a colour of its own."""
SHOWN = ("model_name_or_path", "recipe", "num_records", "num_train_epochs", "learning_rate", "lora_r", "max_steps")
"""Settings that are shown whether they differ or not."""
CHOSEN = (*SHOWN, "data_sha256")
EVERY_RUNS_OWN = ("output_dir", "run_name", "resume", "resume_changed", "save_steps", "eval_steps", "platform", "bits")
"""Settings that say nothing about what was learned, or that another row says."""


def compared(space: Workspace, wanted: Sequence[str], made: Sequence[Job], language: str = "en") -> dict[str, Any]:
    """The trainings of these names, or the newest MOST where none is named; unknown names are left out.

    The words in the charts are those of a language of the page.
    """
    known = runs.names(space, made)
    chosen = [name for name in known if name in wanted] if wanted else known
    read = {name: run for name in chosen[:MOST] if (run := runs.written(space, name))}
    colours = dict(zip(chosen, COLOURS, strict=False))
    return {
        "known": known,
        "most": MOST,
        "runs": [_line(name, made, read.get(name)) | {"colour": colours[name]} for name in chosen[:MOST]],
        "charts": _charts(read, colours, language),
        "settings": _settings(chosen[:MOST], read, made),
        "verdict": _verdict(read),
    }


def _line(name: str, made: Sequence[Job], run: Run | None) -> dict[str, Any]:
    """A training as a row of the table; None for what is not known."""
    rows = run.rows if run else []
    memory = [float(row["memory_gb"]) for row in rows if is_number(row.get("memory_gb"))]
    return {
        **runs.summary(name, run, made),
        "so_far": _last(run, "eval_exact_match"),
        "loss": _last(run, "loss"),
        "held_out": _last(run, "eval_loss"),
        "memory": round(max(memory), 2) if memory else None,
        "trained": trained_seconds(run) if run else None,
    }


def _last(run: Run | None, key: str) -> float | None:
    points = run.points(key) if run else []
    return points[-1][1] if points else None


def _charts(read: Mapping[str, Run], colours: Mapping[str, str], language: str) -> str:
    """Loss, loss on held-out questions, and right answers, a line for each training."""

    def lines(key: str, **style: bool) -> list[Series]:
        return [Series(name, colours[name], run.points(key), **style) for name, run in read.items()]

    return "".join(
        [
            line_chart(said("chart.score", language), lines("eval_exact_match", dots=True), share=True),
            line_chart(said("chart.loss.held_out", language), lines("eval_loss", dots=True)),
            line_chart(said("chart.loss.training", language), lines("loss", smooth=True)),
        ]
    )


def _settings(chosen: Sequence[str], read: Mapping[str, Run], made: Sequence[Job]) -> list[dict[str, Any]]:
    """Rows of a table with one value a training, the best known first; "" where nobody wrote one down.

    `is_given` False: nobody gave it, the program found it so (versions, what follows from the machine).
    """
    first = {name: [_value(chosen_one, name, read, made) for chosen_one in chosen] for name in SHOWN}
    others = differing_settings([read[name] for name in chosen if name in read])
    more: dict[str, list[str]] = {}
    for name, values in others.items():
        if name not in (*SHOWN, *EVERY_RUNS_OWN) and not name.startswith("trainable."):
            at = dict(zip((one for one in chosen if one in read), values, strict=True))
            more[name] = [_text(at.get(one)) for one in chosen]
    rows = {**{name: values for name, values in first.items() if any(values)}, **more}
    flags = (part[2:].partition("=")[0] for run in read.values() for part in _command(run) if part.startswith("--"))
    given = {*CHOSEN, *flags}
    return [
        {"name": name, "values": values, "differs": len(set(values)) > 1, "is_given": name in given}
        for name, values in rows.items()
    ]


def _command(run: Run) -> list[str]:
    """The words that a training was started with."""
    command = run.manifest.get("command")
    return [str(part) for part in command] if isinstance(command, list) else []


def _value(name: str, setting: str, read: Mapping[str, Run], made: Sequence[Job]) -> str:
    """A setting from what the training wrote, else from what it was asked for."""
    job, run = runs.job_of(made, name), read.get(name)
    about = job.about if job else {}
    if setting == "recipe":
        return str(about.get("recipe") or (recipe_of(run) if run else ""))
    found = run.argument(setting) if run else None
    if found is None:
        found = about.get("model") if setting == "model_name_or_path" else about.get("flags", {}).get(f"--{setting}")
    is_none = setting == "max_steps" and isinstance(found, int | float) and found <= 0
    return "" if is_none else _text(found)


def _text(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:g}" if isinstance(value, float) else str(value)[:200]


def _verdict(read: Mapping[str, Run]) -> dict[str, Any] | None:
    """The best training and the next, and whether chance can tell them apart; None where fewer than two are scored."""
    scored = [(run, now) for run in read.values() if (now := current(run)) and now.name != "baseline"]
    if len(scored) < 2:
        return None
    (best, top), (second, _), test = leaders(scored)
    return {
        "best": best.name,
        "second": second.name,
        "score": float(top.scores["exact_match"]),
        "count": test.count if test else 0,
        "is_told_apart": bool(test and test.difference > 0 and test.p_value < SIGNIFICANT),
    }
