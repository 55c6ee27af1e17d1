"""The report of one run as one HTML page: style, script and pictures inside, nothing fetched.

html = run_page(read_run(Path("runs/quickstart")))
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from datetime import datetime, timezone
from html import escape
from pathlib import Path
from typing import Any

from llava_finetune import metrics
from llava_finetune.report.charts import Level, Series, line_chart
from llava_finetune.report.gallery import Pictures, gallery
from llava_finetune.report.numbers import duration, plural
from llava_finetune.report.outcomes import Outcome, confusions, current, outcomes, paired, paired_vqa, worst_records
from llava_finetune.report.run_folder import CONTROLS, LABELS, Run, is_number
from llava_finetune.report.tables import (
    METRIC_NAMES,
    Row,
    confusion_grid,
    confusion_list,
    facts,
    group_table,
    metric_table,
    score_table,
    shortened,
)
from llava_finetune.report.words import headline, missing, sentences

HERE = Path(__file__).parent
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
WARNINGS = ("Overfitting:", "The score cannot", "Loss or gradient")

Section = tuple[str, str, str]


def run_page(run: Run) -> str:
    """Return the whole page of a run, whatever there is of it."""
    results = outcomes(run)
    pictures = Pictures(run.image_folder)
    sections = [
        ("scores", "Before and after", _scores(run)),
        ("curves", "Training", curves(run)),
        ("answers", "Answers", gallery(results, pictures)),
        ("confusions", "Confusions", _confusions(run)),
        ("worst", "Hardest records", _worst(run, pictures)),
        ("probe", "Forgetting: the probe set", _probe(run)),
        ("data", "Data", facts(run.check) if run.check else ""),
        ("manifest", "How to repeat it", _manifest(run)),
        ("missing", "Not in this report", _missing(run, pictures)),
    ]
    status = _status(run)
    says = "".join(
        f"<li{' class=warn' if text.startswith(WARNINGS) else ''}>{escape(text)}</li>"
        for text in sentences(run, results)
    )
    top = f'<h1><b>{escape(run.name)}</b> {status}</h1><p class="lead">{escape(headline(run))}</p><ul class="says">{says}</ul>'
    return document(f"{run.name}: report", top, sections)


def document(title: str, top: str, sections: Sequence[Section]) -> str:
    """Return a page from its title, the HTML at its top, and (anchor, title, HTML) sections; empty ones are left out."""
    kept = [section for section in sections if section[2]]
    links = "".join(f'<a href="#{anchor}">{escape(name)}</a>' for anchor, name, _ in kept)
    body = "".join(f'<section id="{anchor}"><h2>{escape(name)}</h2>{html}</section>' for anchor, name, html in kept)
    made = datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        f"<title>{escape(title)}</title><style>\n{_asset('page.css')}</style></head>\n<body><header>{top}</header>"
        f"<main><nav>{links}</nav>\n{body}</main><footer>Made {made} by llava-finetune. One file: pictures, style and "
        f"script are inside.</footer>\n<script>\n{_asset('page.js')}</script></body></html>\n"
    )


def main_rows(run: Run) -> list[Row]:
    """Return (label, hint, Scores) of the evaluations of the main table: before, controls, the current one."""
    now = current(run)
    names = ["baseline", *CONTROLS, now.name if now else ""]
    chosen = [run.evaluations[name] for name in dict.fromkeys(names) if name in run.evaluations]
    return [(one.label, one.hint, one.scores) for one in chosen]


def curves(run: Run) -> str:
    """Return the training charts: loss, scores, gradient norm, learning rate, throughput, memory."""
    levels = [
        Level(LABELS[name][0].lower(), run.evaluations[name].scores["exact_match"])
        for name in ("text_prior",)
        if name in run.evaluations
    ]
    loss = [
        Series("train", "a", run.points("loss"), smooth=True),
        Series("held out", "b", run.points("eval_loss"), dots=True),
    ]
    charts = [
        line_chart("Loss", loss),
        line_chart("Scores on held-out data", _score_series(run), levels=levels, share=True),
        line_chart("Gradient norm", [Series("norm", "d", run.points("grad_norm"), smooth=True)]),
        line_chart("Learning rate", [Series("rate", "c", run.points("learning_rate"))]),
        line_chart("Throughput", _throughput(run)),
        line_chart("Memory, GB per process", [Series("GB", "f", run.points("memory_gb"))]),
    ]
    return f'<div class="charts">{"".join(charts)}</div>' if any(charts) else ""


def _score_series(run: Run) -> list[Series]:
    names = {"exact_match": "exact match", **{key: text for key, text in METRIC_NAMES.items()}}
    series = [
        Series(text, colour, run.points(f"eval_{key}"), dots=True)
        for (key, text), colour in zip(names.items(), "acdfg", strict=True)
    ]
    return [*series, Series("probe set", "b", run.points("probe_exact_match"), dots=True)]


def _throughput(run: Run) -> list[Series]:
    tokens, samples = run.points("tokens_per_second"), run.points("samples_per_second")
    return [Series("tokens/s", "g", tokens)] if tokens else [Series("samples/s", "g", samples)]


def _scores(run: Run) -> str:
    rows = main_rows(run)
    if not rows:
        return ""
    now = current(run)
    during = [(e.label, "", e.scores) for name, e in run.evaluations.items() if (e.label, e.hint, e.scores) not in rows]
    later = (
        f"<details><summary>Evaluations during training</summary>{score_table(during, '')}</details>" if during else ""
    )
    groups = (
        group_table(now.scores.get("by_question_type", {}), "By question type, as the data names it") if now else ""
    )
    return score_table(rows, now.label if now else "") + _tests(run) + metric_table(rows) + groups + later


def _tests(run: Run) -> str:
    now = current(run)
    if now is None or not now.predictions:
        return ""
    items = []
    for name in ("baseline", *CONTROLS):
        other = run.evaluations.get(name)
        test = paired(other, now) if other and name != now.name else None
        if test:
            items.append(f"<li><b>{escape(test.in_words())}</b> against {escape(other.label.lower())}</li>")
        vqa = paired_vqa(other, now) if test and name == "baseline" else None
        if vqa:
            items.append(f"<li><b>{escape(vqa.in_words())}</b> VQA accuracy, paired bootstrap</li>")
    if not items:
        return ""
    return f'<h3>Differences on the same questions <small>exact McNemar test</small></h3><ul class="tests">{"".join(items)}</ul>'


def _confusions(run: Run) -> str:
    now = current(run)
    if now is None or not now.predictions:
        return ""
    counts = confusions(now.predictions)
    listed = confusion_list(counts)
    grid = confusion_grid(counts)
    if not listed and not grid:
        return "<p>Every answer is right.</p>" if all(map(metrics.is_right, now.predictions)) else ""
    return grid + (f"<h3>Commonest wrong answers</h3>{listed}" if listed else "<p>Every answer is right.</p>")


def _worst(run: Run, pictures: Pictures) -> str:
    now = current(run)
    items = []
    for name, group in worst_records(now.predictions if now else []):
        wrong = [one for one in group if not metrics.is_right(one)]
        lines = "".join(
            f'<li>{escape(shortened(one["question"], 90))} <b class="bad">{escape(shortened(one["answer"], 60)) or "nothing"}'
            f"</b> <small>for</small> <b>{escape(shortened(one['reference'], 60))}</b></li>"
            for one in wrong[:4]
        )
        more = f"<li><small>and {len(wrong) - 4} more</small></li>" if len(wrong) > 4 else ""
        items.append(
            f'<li><div class="pic">{pictures.tag(group[0].get("image"))}</div><div><b>{len(wrong)} of {len(group)} wrong</b> '
            f"<code>{escape(shortened(name, 60))}</code><ul>{lines}{more}</ul></div></li>"
        )
    return f'<ol class="worst">{"".join(items)}</ol>' if items else ""


def _probe(run: Run) -> str:
    if not run.probes:
        return ""
    rows = [(one.label, "", one.scores) for one in run.probes]
    test = paired(run.probes[0], run.probes[-1]) if len(run.probes) > 1 else None
    change = f'<ul class="tests"><li><b>{escape(test.in_words())}</b> from first to last</li></ul>' if test else ""
    lost = ""
    if test:
        before = {(str(one.get("id")), one.get("turn")): one for one in run.probes[0].predictions}
        gone = [
            one
            for one in run.probes[-1].predictions
            if not metrics.is_right(one)
            and (old := before.get((str(one.get("id")), one.get("turn")))) is not None
            and metrics.is_right(old)
        ]
        items = "".join(
            f"<li>{escape(shortened(one['question'], 90))} <b class=bad>{escape(shortened(one['answer'], 60)) or 'nothing'}</b> "
            f"<small>was</small> <b>{escape(shortened(one['reference'], 60))}</b></li>"
            for one in gone[:12]
        )
        lost = f"<h3>{plural(len(gone), 'answer')} lost</h3><ul class=confusions>{items}</ul>" if gone else ""
    intro = "<p class=note>A set that training does not teach, scored at the same moments: what falls here is forgotten.</p>"
    return intro + score_table(rows, rows[-1][0]) + change + lost


def _manifest(run: Run) -> str:
    if not run.manifest:
        return ""
    command = run.manifest.get("command")
    text = shlex.join(map(str, command)) if isinstance(command, list) else str(command or "")
    block = (
        f'<pre id="command">{escape(text)}</pre><p><button type="button" class="copy" data-of="command">Copy the command'
        "</button></p>"
        if text
        else ""
    )
    rest = {name: value for name, value in run.manifest.items() if name not in ("command", "arguments")}
    arguments = run.manifest.get("arguments")
    told = (
        f"<details><summary>Every argument</summary>{facts(arguments)}</details>" if isinstance(arguments, dict) else ""
    )
    raw = escape(json.dumps(run.manifest, indent=2, ensure_ascii=False, default=str))
    return f"{block}{facts(rest)}{told}<details><summary>run.json</summary><pre>{raw}</pre></details>"


def _missing(run: Run, pictures: Pictures) -> str:
    said = missing(run)
    if pictures.unreadable:
        name, reason = next(iter(pictures.unreadable.items()))
        said.append(f"{plural(len(pictures.unreadable), 'picture')} could not be shown, the first: {name} ({reason})")
    items = "".join(f"<li>{escape(text)}</li>" for text in said)
    return f'<ul class="missing">{items}</ul>' if items else ""


def _status(run: Run) -> str:
    when = _date(run.argument("started", "started_at", "date", "time"))
    if run.is_finished:
        return f'<span class="status">finished{f", started {when}" if when else ""}</span>'
    if not run.rows:
        return '<span class="status running">not started</span>'
    total = run.argument("total_steps", "max_steps")
    of_total = f" of {int(total):,}" if is_number(total) and total > 0 else ""
    left = run.points("seconds_left")
    remaining = (
        f", about {duration(left[-1][1])} left" if left and left[-1][0] == run.last_step and left[-1][1] > 0 else ""
    )
    return f'<span class="status running">step {run.last_step:,}{of_total}{remaining}</span>'


def _date(value: Any) -> str:
    return escape(str(value)[:16].replace("T", " ")) if isinstance(value, str) else ""


def _asset(name: str) -> str:
    return (HERE / name).read_text(encoding="utf-8")


__all__ = ["Outcome", "curves", "document", "main_rows", "run_page"]
