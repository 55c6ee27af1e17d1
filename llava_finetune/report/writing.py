"""Write a report's files beside a run: the page, `report.json`, the PNG curves; each whole or not at all.

write_run_report(Path("runs/quickstart"))
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from data_prep.files import write_json, write_text
from llava_finetune.report.curves import write_curves
from llava_finetune.report.outcomes import GAINED, LOST, RIGHT, WRONG, current, outcomes, paired
from llava_finetune.report.page import run_page
from llava_finetune.report.run_folder import CONTROLS, Run, read_run
from llava_finetune.report.words import headline, missing, sentences


def write_run_report(folder: Path, image_folder: Path | None = None, *, curves: bool = True) -> Path:
    """Write report.html, report.json and the PNG curves of a run; return the page's path.

    `image_folder` is tried before the folders that the scores and the manifest name.
    """
    run = read_run(folder)
    try:
        pictures = [path.name for path in write_curves(run, folder)] if curves else []
    except ImportError as error:
        run.problems.append(f"no PNG curves: {error}")
        pictures = []
    write_json(folder / "report.json", finite({**summary(run), "curves": pictures}))
    page = folder / "report.html"
    write_text(page, run_page(run, image_folder))
    return page


def summary(run: Run) -> dict[str, Any]:
    """Return what report.json holds: each evaluation's Scores under its name, the words, the tests, what is missing."""
    results = outcomes(run)
    now = current(run)
    compared = {
        name: paired(run.evaluations.get(name), now) for name in ("baseline", *CONTROLS) if now and name != now.name
    }
    return {
        "run": run.name,
        "finished": run.is_finished,
        "last_step": run.last_step,
        "headline": headline(run),
        "summary": sentences(run, results),
        "current": now.name if now else None,
        **{name: dict(one.scores) for name, one in run.evaluations.items()},
        "probe": {one.name: dict(one.scores) for one in run.probes},
        "hallucination": {one.name: dict(one.scores) for one in run.gauges},
        "changes": {kind: sum(one.kind == kind for one in results) for kind in (GAINED, LOST, RIGHT, WRONG)},
        "paired_tests": {
            name: {
                "difference": test.difference, "interval": list(test.interval), "p_value": test.p_value,
                "count": test.count, "method": test.method,
            }
            for name, test in compared.items() if test
        },
        "missing": missing(run),
        "problems": run.problems,
    }  # fmt: skip


def finite(value: Any) -> Any:
    """The value as strict JSON can hold it: a number that is not finite becomes None."""
    if isinstance(value, dict):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
