"""The sections of a run's page, each a function that returns HTML, or nothing where there is nothing to show.

scores_section(read_run(Path("runs/quickstart")))
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from html import escape
from typing import Any

from llava_finetune.evaluation import metrics
from llava_finetune.evaluation.metrics import key_of
from llava_finetune.report.charts import Level, Series, line_chart
from llava_finetune.report.gallery import Pictures
from llava_finetune.report.hallucination import false_yes_test, gauged
from llava_finetune.report.numbers import percent, plural, short
from llava_finetune.report.outcomes import confusions, current, loss_of, paired, paired_vqa, worst_records
from llava_finetune.report.run_folder import CONTROLS, LABELS, Run, is_number
from llava_finetune.report.tables import (
    METRIC_NAMES,
    Row,
    confusion_grid,
    confusion_list,
    difference,
    facts,
    group_table,
    metric_table,
    rate_table,
    score_table,
    shortened,
)
from llava_finetune.report.words import missing

NUM_WRONG_SHOWN = 4
NUM_LOST_SHOWN = 12
RATES = {"yes_share": "Says yes", "false_yes": "False yes", "false_no": "False no", "unclear": "Neither"}


def main_rows(run: Run) -> list[Row]:
    """Return (label, hint, Scores) of the evaluations of the main table: before, controls, the current one."""
    now = current(run)
    names = dict.fromkeys(["baseline", *CONTROLS, now.name if now else ""])
    chosen = [run.evaluations[name] for name in names if name in run.evaluations]
    return [(one.label, one.hint, one.scores) for one in chosen]


def scores_section(run: Run) -> str:
    """Before and after, controls, paired tests, other metrics, question types, evaluations during training."""
    rows = main_rows(run)
    if not rows:
        return ""
    now = current(run)
    shown = {row[0] for row in rows}
    during = [(one.label, "", one.scores) for one in run.evaluations.values() if one.label not in shown]
    later = (
        f"<details><summary>Evaluations during training</summary>{score_table(during, '')}</details>" if during else ""
    )
    named = now.scores.get("by_question_type", {}) if now else {}
    groups = group_table(named, "By question type, as the data names it")
    return score_table(rows, now.label if now else "") + _tests(run) + metric_table(rows) + groups + later


def curves_section(run: Run) -> str:
    """Loss, scores, gradient norm, learning rate, throughput, memory: those that the log has."""
    prior = run.evaluations.get("text_prior")
    levels = [Level(LABELS["text_prior"][0].lower(), prior.scores["exact_match"])] if prior else []
    loss = [
        _loss(run),
        Series("held out", "b", run.points("eval_loss"), dots=True),
    ]
    charts = [
        *(line_chart(f"Loss, {one.name}", [_loss(one)]) for one in run.earlier),
        line_chart(f"Loss, {run.stage}" if run.stage else "Loss", loss),
        line_chart(
            "Pairs: chosen before rejected",
            [Series("right", "a", run.points("margin_accuracy"), smooth=True)],
            share=True,
        ),
        line_chart(
            "Pairs: margin of rewards, and KL from the reference",
            [
                Series("margin", "c", run.points("margin"), smooth=True),
                Series("KL", "b", run.points("kl"), smooth=True),
            ],
        ),
        line_chart("Scores on held-out data", _score_series(run), levels=levels, share=True),
        line_chart("Gradient norm", [Series("norm", "d", run.points("grad_norm"), smooth=True)]),
        line_chart("Learning rate", [Series("rate", "c", run.points("learning_rate"))]),
        line_chart("Throughput", [throughput(run, "g")]),
        line_chart("Memory, GB per process", [Series("GB", "f", run.points("memory_gb"))]),
    ]
    return f'<div class="charts">{"".join(charts)}</div>' if any(charts) else ""


def throughput(run: Run, colour: str) -> Series:
    """Return tokens per second where they are logged, else samples per second."""
    tokens = run.points("tokens_per_second")
    if tokens:
        return Series("tokens/s", colour, tokens, smooth=True)
    return Series("samples/s", colour, run.points("samples_per_second"), smooth=True)


def confusions_section(run: Run) -> str:
    """What was answered for what: a grid where the answers are few, and the commonest wrong answers."""
    now = current(run)
    if now is None or not now.predictions:
        return ""
    counts = confusions(now.predictions)
    if all(map(metrics.is_right, now.predictions)):
        return "<p>Every answer is right.</p>"
    listed = confusion_list(counts)
    return confusion_grid(counts) + (f"<h3>Commonest wrong answers</h3>{listed}" if listed else "")


def worst_section(run: Run, pictures: Pictures) -> str:
    """The hardest records with their pictures: by loss where it is known, else those with the most wrong answers."""
    now = current(run)
    worst = worst_records(now.predictions if now else [])
    items = []
    for name, group in worst:
        loss = loss_of(group)
        wrong = [one for one in group if not metrics.is_right(one)]
        lines = "".join(f"<li>{_mistake(one, 'for')}</li>" for one in wrong[:NUM_WRONG_SHOWN])
        rest = len(wrong) - NUM_WRONG_SHOWN
        more = f"<li><small>and {rest} more</small></li>" if rest > 0 else ""
        right = "" if wrong else f"<li>{_right(group[0])}</li>"
        count = f"{len(wrong)} of {len(group)} wrong"
        title = f"loss {short(loss)}</b> <small>{count}</small>" if loss is not None else f"{count}</b>"
        items.append(
            f'<li><div class="pic">{pictures.with_boxes(wrong[0] if wrong else group[0])}</div><div>'
            f"<b>{title} <code>{escape(shortened(name, 60))}</code>"
            f"<ul>{lines}{more}{right}</ul></div></li>"
        )
    if not items:
        return ""
    how = "largest loss per answer token" if loss_of(worst[0][1]) is not None else "most wrong answers"
    return f'<p class="note">The {len(items)} records with the {how}.</p><ol class="worst">{"".join(items)}</ol>'


def probe_section(run: Run) -> str:
    """The forgetting gauge: scores of the probe set over the run, and the answers that were lost."""
    if not run.probes:
        return ""
    first, last = run.probes[0], run.probes[-1]
    rows = [(one.label, "", one.scores) for one in run.probes]
    intro = "<p class=note>General questions that training does not teach: what falls here is forgotten.</p>"
    series = [
        Series("general answers", "b", run.points("probe_perplexity"), dots=True),
        Series("the base's own answers", "c", run.points("probe_own_perplexity"), dots=True),
    ]
    chart = line_chart("Perplexity", series)
    html = intro + score_table(rows, last.label) + (f'<div class="charts">{chart}</div>' if chart else "")
    test = paired(first, last) if first is not last else None
    if test is None:
        return html
    html += f'<ul class="tests"><li>{difference(test)} from first to last</li></ul>'
    known = {key_of(one) for one in first.predictions if metrics.is_right(one)}
    lost = [one for one in last.predictions if key_of(one) in known and not metrics.is_right(one)]
    items = "".join(f"<li>{_mistake(one, 'for')}</li>" for one in lost[:NUM_LOST_SHOWN])
    more = f", {NUM_LOST_SHOWN} shown" if len(lost) > NUM_LOST_SHOWN else ""
    return html + (
        f"<h3>{plural(len(lost), 'answer')} lost{more}</h3><ul class=confusions>{items}</ul>" if lost else ""
    )


def hallucination_section(run: Run) -> str:
    """Shares of yes and false yes before, during and after training, by how what is absent was drawn."""
    found = gauged(run)
    if not found:
        return ""
    first, last = found[0], found[-1]
    expected = percent(last.scores["yes_share_expected"])
    intro = (
        f'<p class="note">{plural(int(last.scores["yes_no_count"]), "question")} whose answer is yes or no; {expected} '
        "should be yes. False yes: of the questions about what is not there, those that were answered yes. "
        f"{'' if run.gauges else 'These are the yes/no questions among the held-out data; a gauge was not given.'}</p>"
    )
    rows: list[Row] = [(one.label, "", one.scores) for one in found]
    html = intro + rate_table(rows, RATES, "What is said")
    test = false_yes_test(first, last)
    if test is not None:
        html += f'<ul class="tests"><li>{difference(test)} false yes from {escape(first.label.lower())} to '
        html += f"{escape(last.label.lower())}</li></ul>"
    groups: list[Row] = [
        (name, "", scores)
        for name, scores in last.scores.get("by_question_type", {}).items()
        if is_number(scores.get("false_yes"))
    ]
    html += rate_table(groups, RATES, f"By question type, {last.label.lower()}") if run.gauges and groups else ""
    series = [
        Series(text.lower(), colour, run.points(f"hallucination_{key}"), dots=True)
        for (key, text), colour in zip(list(RATES.items())[:2], "ab", strict=True)
    ]
    chart = line_chart("Yes to what is not there", series, share=True)
    return html + (f'<div class="charts">{chart}</div>' if chart else "")


def manifest_section(run: Run) -> str:
    """The command that repeats the run, and what it ran on."""
    if not run.manifest:
        return ""
    text = _command(run)
    button = '<p><button type="button" class="copy" data-of="command">Copy the command</button></p>'
    block = f'<pre id="command">{escape(text)}</pre>{button}' if text else ""
    if run.earlier:
        before = "".join(f"<h3>{escape(one.name)}</h3><pre>{escape(_command(one))}</pre>" for one in run.earlier)
        block = f"{before}<h3>{escape(run.stage)}</h3>{block}"
    rest = {name: value for name, value in run.manifest.items() if name not in ("command", "arguments")}
    arguments = run.manifest.get("arguments")
    given = f"<details><summary>Every argument</summary>{facts(arguments)}</details>" if arguments else ""
    raw = escape(json.dumps(run.manifest, indent=2, ensure_ascii=False, default=str))
    return f"{block}{facts(rest)}{given}<details><summary>run.json</summary><pre>{raw}</pre></details>"


def missing_section(run: Run, pictures: Pictures) -> str:
    """What this report could not show, and why."""
    said = missing(run)
    if pictures.unreadable:
        name, reason = next(iter(pictures.unreadable.items()))
        said.append(f"{plural(len(pictures.unreadable), 'picture')} could not be shown, the first: {name} ({reason})")
    items = "".join(f"<li>{escape(text)}</li>" for text in said)
    return f'<ul class="missing">{items}</ul>' if items else ""


def _loss(run: Run) -> Series:
    return Series("train", "a", run.points("loss"), smooth=True)


def _score_series(run: Run) -> list[Series]:
    names = {"exact_match": "exact match", **METRIC_NAMES}
    series = [
        Series(text, colour, run.points(f"eval_{key}"), dots=True)
        for (key, text), colour in zip(names.items(), "acdfgeh", strict=True)
    ]
    # A metric that only repeats exact match would hide its line.
    told = [one for one in series[1:] if one.points != series[0].points]
    return [series[0], *told, Series("probe set", "b", run.points("probe_exact_match"), dots=True)]


def _tests(run: Run) -> str:
    now = current(run)
    if now is None or now.name == "baseline" or not now.predictions:
        return ""
    items = []
    for name in ("baseline", *CONTROLS):
        other = run.evaluations.get(name)
        test = paired(other, now)
        if other and test:
            items.append(f"<li>{difference(test)} against {escape(other.label.lower())}</li>")
    vqa = paired_vqa(run.evaluations.get("baseline"), now)
    if vqa:
        items.append(f"<li>{difference(vqa)} VQA accuracy against before training (paired bootstrap)</li>")
    if not items:
        return ""
    title = "Differences on the same questions <small>exact match, McNemar's exact test</small>"
    return f'<h3>{title}</h3><ul class="tests">{"".join(items)}</ul>'


def _command(run: Run) -> str:
    command = run.manifest.get("command")
    return shlex.join(map(str, command)) if isinstance(command, list) else str(command or "")


def _right(one: Mapping[str, Any]) -> str:
    question = escape(shortened(one["question"], 90))
    return f'{question} <b class="good">{escape(shortened(one["answer"].strip(), 60))}</b>'


def _mistake(one: Mapping[str, Any], word: str) -> str:
    answer = escape(shortened(one["answer"].strip(), 60)) or "nothing"
    reference = escape(shortened(one["reference"].strip(), 60))
    question = escape(shortened(one["question"], 90))
    return f'{question} <b class="bad">{answer}</b> <small>{word}</small> <b>{reference}</b>'
