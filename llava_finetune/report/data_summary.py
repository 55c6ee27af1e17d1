"""The training data in a few lines: what `python -m data_prep check` found, and what the answers are.

html = data_section(json.loads(Path("check.json").read_text()))      # written by: check RECORDS --json > check.json
"""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from llava_finetune.report.numbers import bare_percent, plural
from llava_finetune.report.run_folder import is_number
from llava_finetune.report.tables import facts, shortened

NUM_ANSWERS = 10


def data_section(check: Mapping[str, Any]) -> str:
    """Return counts, findings, commonest answers and token lengths; facts that are not known stand as they are."""
    if not check:
        return ""
    if "findings" not in check and "statistics" not in check:
        return facts(check)
    found = check.get("statistics")
    statistics: Mapping[str, Any] = found if isinstance(found, Mapping) else {}
    known = {name: value for name, value in statistics.items() if name != "answers"}
    return "".join(
        [
            f"<p>{escape(_sentence(check))}</p>",
            _findings(check.get("findings")),
            _answers(statistics.get("answers")),
            f"<details><summary>Turns, pictures, tokens</summary>{facts(known)}</details>" if known else "",
        ]
    )


def _sentence(check: Mapping[str, Any]) -> str:
    parts = []
    if is_number(check.get("records")):
        parts.append(plural(int(check["records"]), "record"))
    if is_number(check.get("pictures")):
        parts.append(plural(int(check["pictures"]), "picture") + (", all decoded" if check.get("decoded") else ""))
    verdict = "nothing stands in the way of training" if check.get("ok") else "the check found errors"
    source = f"{check['path']}: " if isinstance(check.get("path"), str) else ""
    return f"{source}{', '.join(parts)}; {verdict}." if parts else f"{verdict.capitalize()}."


def _findings(findings: Any) -> str:
    rows = [one for one in findings if isinstance(one, Mapping)] if isinstance(findings, list) else []
    if not rows:
        return ""
    body = "".join(
        f'<tr><th scope="row">{escape(str(one.get("kind", "")))}</th><td>{escape(str(one.get("severity", "")))}</td>'
        f"<td>{escape(_count(one.get('count')))}</td><td>{escape(str(one.get('why', '')))}</td></tr>"
        for one in rows
    )
    head = "".join(f'<th scope="col">{name}</th>' for name in ("Finding", "", "Places", "Why it matters"))
    table = f'<table class="plain"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'
    return f'<div class="wide">{table}</div>'


def _answers(answers: Any) -> str:
    if not isinstance(answers, Mapping) or not isinstance(answers.get("most_common"), list):
        return ""
    pairs = [pair for pair in answers["most_common"][:NUM_ANSWERS] if isinstance(pair, list) and len(pair) == 2]
    known = [(str(text), float(share)) for text, share in pairs if is_number(share)]
    if not known:
        return ""
    top = max(share for _, share in known) or 1
    items = "".join(
        f'<li><span>{escape(shortened(text, 40))}</span><i style="--v:{100 * share / top:.1f}"></i>'
        f"<small>{bare_percent(share)}</small></li>"
        for text, share in known
    )
    count, distinct = answers.get("count"), answers.get("distinct")
    about = f" <small>percent of {_count(count)} answers, {_count(distinct)} different</small>" if count else ""
    return f'<h3>Commonest answers{about}</h3><ol class="shares">{items}</ol>'


def _count(value: Any) -> str:
    return f"{int(value):,}" if is_number(value) else "?"
