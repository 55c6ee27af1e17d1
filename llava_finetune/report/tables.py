"""Tables of the report as HTML: scores with intervals, confusions, nested facts. Every text from the run is escaped.

score_table([("Before training", "", scores_before), ("After training", "", scores_after)])
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from llava_finetune.evaluation.intervals import PairedTest
from llava_finetune.evaluation.metrics import TYPES, question_type
from llava_finetune.report.numbers import DASH, bare_percent, interval
from llava_finetune.report.run_folder import is_number
from llava_finetune.report.words import TYPE_NAMES

METRIC_NAMES = {
    "vqa_accuracy": "VQA accuracy",
    "token_f1": "Token F1",
    "rouge_l": "ROUGE-L",
    "bleu": "BLEU",
    "box_iou": "Box IoU",
    "box_accuracy": "Boxes at IoU 0.5",
}
MAX_CONFUSION_SIZE = 16
MAX_CONFUSION_LIST = 12
MAX_LISTED_LENGTH = 40
# Metrics this close to exact match in every row are left out.
SAME = 0.002
# Longer answers are no classes; a grid of them says nothing.
MAX_CLASS_LENGTH = 24

Row = tuple[str, str, Mapping[str, Any]]


def score_table(rows: Sequence[Row], highlight: str = "After training") -> str:
    """Return the table of exact match with intervals: a row per (label, hint, Scores), a column per question type."""
    names = [name for name in TYPES if any(name in scores.get("by_type", {}) for _, _, scores in rows)]
    columns = ["all", *names] if len(names) > 1 else ["all"]
    head = "".join(f'<th scope="col">{_column(name, rows)}</th>' for name in columns)
    body = []
    for label, hint, scores in rows:
        cells = "".join(_cell(scores if name == "all" else scores.get("by_type", {}).get(name)) for name in columns)
        style = ' class="now"' if label == highlight else ""
        small = f"<small>{escape(hint)}</small>" if hint else ""
        body.append(f'<tr{style}><th scope="row">{escape(label)}{small}</th>{cells}</tr>')
    return (
        f'<table class="scores" style="--n:{len(columns)}"><caption>Exact match in percent; whiskers and small print: '
        f"95{chr(160)}% interval</caption><thead><tr><td></td>{head}</tr></thead><tbody>{''.join(body)}</tbody></table>"
    )


def metric_table(rows: Sequence[Row]) -> str:
    """Return the table of the other metrics, those that differ from exact match anywhere, or an empty text."""
    names = {name: text for name, text in METRIC_NAMES.items() if any(_adds(scores, name) for _, _, scores in rows)}
    return rate_table(rows, names, "Other metrics") if names else ""


def rate_table(rows: Sequence[Row], names: Mapping[str, str], title: str) -> str:
    """Return a table of scores by their names in Scores, each with its interval; `names` are the columns' heads."""
    head = "".join(f'<th scope="col">{escape(text)}</th>' for text in names.values())
    body = []
    for label, _, scores in rows:
        cells = "".join(
            f"<td>{_figure(scores, name, f'{name}_interval')}</td>" if is_number(scores.get(name)) else "<td></td>"
            for name in names
        )
        body.append(f'<tr><th scope="row">{escape(label)}</th>{cells}</tr>')
    return (
        f"<h3>{escape(title)} <small>percent, 95\u00a0% interval</small></h3>"
        f'<div class="wide"><table class="plain"><thead><tr><td></td>{head}</tr></thead>'
        f"<tbody>{''.join(body)}</tbody></table></div>"
    )


def group_table(groups: Mapping[str, Mapping[str, Any]], title: str) -> str:
    """Return exact match (and VQA accuracy) of named groups of questions, most questions first."""
    if not groups:
        return ""
    with_vqa = any(is_number(group.get("vqa_accuracy")) for group in groups.values())
    body = []
    for name, group in sorted(groups.items(), key=lambda item: -int(item[1].get("count", 0))):
        vqa = _figure(group, "vqa_accuracy", "vqa_accuracy_interval") if is_number(group.get("vqa_accuracy")) else ""
        body.append(
            f'<tr><th scope="row">{escape(name)}</th><td>{int(group.get("count", 0)):,}</td>'
            f"<td>{_figure(group, 'exact_match', 'interval')}</td>{f'<td>{vqa}</td>' if with_vqa else ''}</tr>"
        )
    vqa_head = '<th scope="col">VQA accuracy</th>' if with_vqa else ""
    return (
        f'<details><summary>{escape(title)}</summary><div class="wide"><table class="plain"><thead><tr><td></td>'
        f'<th scope="col">Questions</th><th scope="col">Exact match</th>{vqa_head}</tr></thead>'
        f"<tbody>{''.join(body)}</tbody></table></div></details>"
    )


def confusion_grid(counts: Mapping[tuple[str, str], int]) -> str:
    """Return reference against answer as a grid of shares of each reference, or an empty text when classes are many."""
    references = Counter[str]()
    for (reference, _), count in counts.items():
        references[reference] += count
    ranked = [name for name, _ in references.most_common()]
    names = sorted(ranked, key=lambda name: TYPES.index(question_type(name)))
    if not 2 <= len(names) <= MAX_CONFUSION_SIZE or max(map(len, names)) > MAX_CLASS_LENGTH:
        return ""
    head = "".join(f'<th scope="col"><span>{escape(name) or "(empty)"}</span></th>' for name in [*names, "other"])
    body = []
    for name in names:
        row = {answer: count for (reference, answer), count in counts.items() if reference == name}
        cells = [row.get(other, 0) for other in names]
        cells.append(sum(row.values()) - sum(cells))
        marked = [
            _share_cell(count, references[name], column == names.index(name)) for column, count in enumerate(cells)
        ]
        body.append(f'<tr><th scope="row">{escape(name) or "(empty)"}</th>{"".join(marked)}</tr>')
    return (
        '<div class="wide"><table class="grid"><caption>Rows: the reference. Columns: what the model answered. '
        f"Counts; shade is the share of the row.</caption><thead><tr><td></td>{head}</tr></thead>"
        f"<tbody>{''.join(body)}</tbody></table></div>"
    )


def confusion_list(counts: Mapping[tuple[str, str], int]) -> str:
    """Return the commonest wrong answers as a list, sentences left out; an empty text when there is none."""
    wrong = Counter(
        {
            pair: count
            for pair, count in counts.items()
            if pair[0] != pair[1] and max(map(len, pair)) <= MAX_LISTED_LENGTH
        }
    )
    if not wrong:
        return ""
    items = "".join(
        f'<li><b class="ref">{escape(shortened(reference)) or "(empty)"}</b> answered as <b class="bad">'
        f"{escape(shortened(answer)) or '(nothing)'}</b> <small>{count:,}\u00d7</small></li>"
        for (reference, answer), count in wrong.most_common(MAX_CONFUSION_LIST)
    )
    rest = len(wrong) - MAX_CONFUSION_LIST
    more = f"<p class=note>and {rest:,} rarer confusions.</p>" if rest > 0 else ""
    return f'<ul class="confusions">{items}</ul>{more}'


def facts(values: Mapping[str, Any], depth: int = 0) -> str:
    """Return nested facts as a definition list; long lists are cut with their length said."""
    items = []
    for name, value in values.items():
        label = escape(str(name).replace("_", " "))
        if isinstance(value, Mapping) and value and depth < 3:
            items.append(f"<dt>{label}</dt><dd>{facts(value, depth + 1)}</dd>")
        else:
            items.append(f"<dt>{label}</dt><dd>{_fact(value)}</dd>")
    return f'<dl class="facts">{"".join(items)}</dl>'


def difference(test: PairedTest) -> str:
    """Return a paired test as HTML: the difference, then its interval and p value in small print."""
    figure, _, rest = test.in_words().replace("-", "\u2212").partition(" (")
    return f"<b>{escape(figure)}</b> <small>{escape(rest.removesuffix(')'))}</small>"


def shortened(text: str, limit: int = 80) -> str:
    """Return the text, cut in its middle of words with an ellipsis when it is longer than `limit`."""
    return text if len(text) <= limit else f"{text[: limit - 1].rstrip()}\u2026"


def _fact(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: DASH}[value]
    if isinstance(value, int):
        return f"{value:,}" if abs(value) >= 10_000 else str(value)
    if isinstance(value, (list, tuple)):
        shown = ", ".join(str(item) for item in value[:12])
        return escape(shortened(shown, 400)) + (f" \u2026 ({len(value):,} in all)" if len(value) > 12 else "")
    return escape(shortened(str(value), 400))


def _adds(scores: Mapping[str, Any], name: str) -> bool:
    """Whether the metric says more than exact match does: on one-word answers token F1 is the same number."""
    return is_number(scores.get(name)) and abs(scores[name] - scores["exact_match"]) >= SAME


def _column(name: str, rows: Sequence[Row]) -> str:
    counts = [int((s if name == "all" else s.get("by_type", {}).get(name, {})).get("count", 0)) for _, _, s in rows]
    title = "All" if name == "all" else TYPE_NAMES.get(name, name)
    return f"{escape(title)} <small>{max(counts):,}</small>"


def _cell(scores: Mapping[str, Any] | None) -> str:
    if not scores or not is_number(scores.get("exact_match")):
        return f'<td class="none">{DASH}</td>'
    value = 100 * scores["exact_match"]
    low, high = _percent_bounds(scores, "interval")
    return (
        f"<td>{_figure(scores, 'exact_match', 'interval')}"
        f'<span class="bar" style="--v:{value:.2f};--lo:{low:.2f};--hi:{high:.2f}" aria-hidden="true">'
        "<i></i></span></td>"
    )


def _figure(scores: Mapping[str, Any], name: str, bounds: str) -> str:
    small = f"<small>{interval(scores[bounds])}</small>" if isinstance(scores.get(bounds), (list, tuple)) else ""
    return f'<span class="num">{escape(bare_percent(scores[name]))}</span>{small}'


def _percent_bounds(scores: Mapping[str, Any], name: str) -> tuple[float, float]:
    bounds = scores.get(name)
    if not isinstance(bounds, (list, tuple)) or len(bounds) != 2:
        return 100 * scores["exact_match"], 100 * scores["exact_match"]
    return 100 * bounds[0], 100 * bounds[1]


def _share_cell(count: int, total: int, is_right: bool) -> str:
    if not count:
        return '<td class="nil">\u00b7</td>'
    share = count / total
    return f'<td class="{"good" if is_right else "bad"}" style="--s:{max(share, 0.08):.3f}">{count:,}</td>'
