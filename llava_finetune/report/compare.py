"""Several runs side by side: scores with paired tests against the first, overlaid curves, settings that differ.

html = comparison_page([read_run(Path("runs/lora-64")), read_run(Path("runs/lora-128"))])
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any

from llava_finetune.evaluation.intervals import PairedTest
from llava_finetune.report.charts import Series, line_chart
from llava_finetune.report.numbers import percent, plural
from llava_finetune.report.outcomes import current, paired, paired_vqa
from llava_finetune.report.page import document
from llava_finetune.report.run_folder import Evaluation, Run
from llava_finetune.report.sections import throughput
from llava_finetune.report.tables import Row, difference, metric_table, score_table, shortened

Scored = tuple[Run, Evaluation]
COLOURS = "abcdefgh"
SIGNIFICANT = 0.05


def comparison_page(runs: Sequence[Run]) -> str:
    """Return the page that compares runs; tests and differences are against the first."""
    sections = [
        ("scores", "Scores", _scores(runs)),
        ("tests", f"Against {runs[0].name}", _tests(runs)),
        ("curves", "Training", _curves(runs)),
        ("settings", "Settings that differ", _settings(runs)),
    ]
    names = " and ".join(run.name for run in runs) if len(runs) == 2 else plural(len(runs), "run")
    top = f'<h1><b>{escape(names)}</b></h1><p class="lead">{escape(verdict(runs))}</p>'
    return document(f"{names}: comparison", top, sections)


def comparison(runs: Sequence[Run]) -> dict[str, Any]:
    """Return the comparison as data: Scores of each run, paired tests against the first, settings that differ."""
    first = current(runs[0])
    tests = {}
    for run in runs[1:]:
        test = paired(first, current(run))
        if test:
            tests[run.name] = {
                "difference": test.difference, "interval": list(test.interval), "p_value": test.p_value,
                "count": test.count, "method": test.method,
            }  # fmt: skip
    return {
        "verdict": verdict(runs),
        "scores": {run.name: dict(now.scores) for run in runs if (now := current(run))},
        "against": runs[0].name,
        "paired_tests": tests,
        "settings": differing_settings(runs),
    }


def verdict(runs: Sequence[Run]) -> str:
    """Return which run is best in one sentence, and whether that is more than chance."""
    scored = [(run, now) for run in runs if (now := current(run))]
    if not scored:
        return "None of these runs has been evaluated yet."
    if len(scored) == 1:
        run, now = scored[0]
        return f"Only {run.name} has been evaluated: exact match {percent(now.scores['exact_match'])}."
    (best, top), (second, _), test = leaders(scored)
    lead = f"{best.name} has the highest exact match, {percent(top.scores['exact_match'])}"
    if test is None:
        return f"{lead}; it shares no answered question with {second.name}, so the two cannot be tested."
    if test.p_value < SIGNIFICANT:
        return f"{lead}: {test.in_words()} over {second.name} on the same {plural(test.count, 'question')}."
    return f"{lead}, but it cannot be told apart from {second.name}: {test.in_words()}."


def leaders(scored: Sequence[Scored]) -> tuple[Scored, Scored, PairedTest | None]:
    """The best of two or more evaluated runs, the next, and the test of the best against it."""
    best, second = sorted(scored, key=lambda one: -float(one[1].scores["exact_match"]))[:2]
    return best, second, paired(second[1], best[1])


def differing_settings(runs: Sequence[Run]) -> dict[str, list[Any]]:
    """Return the settings of the manifests that are not the same in all runs, one value per run."""
    flat = [_flat(run.manifest) for run in runs]
    names = dict.fromkeys(name for settings in flat for name in settings)
    values = {name: [settings.get(name) for settings in flat] for name in names}
    return {name: row for name, row in values.items() if any(value != row[0] for value in row)}


def _scores(runs: Sequence[Run]) -> str:
    rows: list[Row] = []
    for run in runs:
        now = current(run)
        if now:
            rows.append((run.name, "" if now.name == "final" else now.label.lower(), now.scores))
    if not rows:
        return ""
    best = max(rows, key=lambda row: row[2]["exact_match"])[0]
    return score_table(rows, best) + metric_table(rows)


def _tests(runs: Sequence[Run]) -> str:
    first = current(runs[0])
    items = []
    for run in runs[1:]:
        test, vqa = paired(first, current(run)), paired_vqa(first, current(run))
        name = f"<b>{escape(run.name)}</b>"
        if test is None:
            items.append(f"<li>{name}: no question that both answered</li>")
            continue
        shared = f" <small>{plural(test.count, 'shared question')}, {test.method}</small>"
        more = f"; VQA accuracy {difference(vqa)}" if vqa else ""
        items.append(f"<li>{name}: {difference(test)}{more}{shared}</li>")
    return f'<ul class="tests">{"".join(items)}</ul>' if items else ""


def _curves(runs: Sequence[Run]) -> str:
    def overlaid(key: str, **style: bool) -> list[Series]:
        return _series(runs, lambda run, colour: Series(run.name, colour, run.points(key), **style))

    charts = [
        line_chart("Loss", overlaid("loss", smooth=True)),
        line_chart("Loss on held-out data", overlaid("eval_loss", dots=True)),
        line_chart("Exact match on held-out data", overlaid("eval_exact_match", dots=True), share=True),
        line_chart("Gradient norm", overlaid("grad_norm", smooth=True)),
        line_chart("Learning rate", overlaid("learning_rate")),
        line_chart("Throughput, tokens/s", _series(runs, _throughput)),
        line_chart("Memory, GB per process", overlaid("memory_gb")),
    ]
    return f'<div class="charts">{"".join(charts)}</div>' if any(charts) else ""


def _throughput(run: Run, colour: str) -> Series:
    one = throughput(run, colour)
    return Series(run.name, colour, one.points, smooth=True)


def _series(runs: Sequence[Run], make: Callable[[Run, str], Series]) -> list[Series]:
    return [make(run, COLOURS[place % len(COLOURS)]) for place, run in enumerate(runs)]


def _settings(runs: Sequence[Run]) -> str:
    settings = differing_settings(runs)
    if not settings:
        return "<p>The manifests agree in everything.</p>" if all(run.manifest for run in runs) else ""
    head = "".join(f'<th scope="col">{escape(run.name)}</th>' for run in runs)
    body = "".join(
        f'<tr><th scope="row">{escape(name)}</th>'
        + "".join(f"<td>{escape(shortened(str(value), 60)) if value is not None else '–'}</td>" for value in values)
        + "</tr>"
        for name, values in settings.items()
    )
    table = f'<table class="plain"><thead><tr><td></td>{head}</tr></thead><tbody>{body}</tbody></table>'
    return f'<div class="wide">{table}</div>'


def _flat(manifest: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, value in manifest.items():
        if name in ("command", "started"):
            continue
        if isinstance(value, Mapping):
            inner = "" if name == "arguments" else f"{prefix}{name}."
            values.update(_flat(value, inner))
        else:
            values[f"{prefix}{name}"] = value
    return values
