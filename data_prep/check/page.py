"""The page of a check: verdict, findings with their first examples and pictures, answers.

write_check_page(report, Path("check.html"))
"""

from __future__ import annotations

from pathlib import Path

from data_prep.check.kinds import Severity
from data_prep.check.report import Example, Finding, Report
from data_prep.errors import PictureError, quoted, shortened
from data_prep.records.picture import open_image, resolve_image
from data_prep.view.page import escape, picture_tag, write_page


def write_check_page(report: Report, path: Path, test_image_folder: Path | None = None) -> None:
    """Write the report as a page; pictures of the examples are inside it, at 200 pixels."""
    cards = "\n".join(_card(found, report, test_image_folder) for found in report.findings)
    body = "\n".join([_summary(report), _overview(report), cards, _answers(report), _numbers(report)])
    write_page(path, f"Check of {Path(report.path).name}", body)


def _summary(report: Report) -> str:
    verdict = (
        '<p class="ok"><strong>Nothing stands in the way of training.</strong></p>'
        if report.ok
        else '<p class="error"><strong>Training would be wrong.</strong> The findings in red must be mended.</p>'
    )
    folder = f", image folder <code>{escape(report.image_folder)}</code>" if report.image_folder else ""
    facts = f'<p class="soft">{report.num_records:,} records, {report.pictures_told}{folder}</p>'
    return f"<h1>Check of {escape(report.path)}</h1>{verdict}{facts}"


def _overview(report: Report) -> str:
    if not report.findings:
        return ""
    rows = "".join(
        f'<tr><td class="tag {found.kind.severity.value}">{found.kind.severity.value}</td>'
        f'<td>{escape(found.kind.name)}</td><td class="number">{found.count:,}</td></tr>'
        for found in report.findings
    )
    head = '<tr><th>Severity</th><th>Finding</th><th class="number">Count</th></tr>'
    return f'<div class="card"><table>{head}{rows}</table></div>'


def _card(found: Finding, report: Report, test_folder: Path | None) -> str:
    severity = found.kind.severity
    rows = "".join(_row(example) for example in found.examples)
    if len(found.examples) < found.distinct:
        rows += f'<tr><td colspan="3" class="soft">the first {len(found.examples)} of {found.distinct:,}</td></tr>'
    table = f'<div class="wide"><table><tr><th>Line</th><th>Record</th><th>What is there</th></tr>{rows}</table></div>'
    remedy = f"<p>{escape(_sentence(found.kind.remedy))}</p>" if severity is not Severity.NOTE else ""
    pictures = "".join(_pair(example, report, test_folder) for example in found.examples)
    shown = f'<div class="pictures">{pictures}</div>' if pictures else ""
    tag = f'<span class="tag {severity.value}">{severity.value}</span>'
    head = f"<h2>{tag} {escape(found.kind.name)} · {found.count:,}</h2>"
    return (
        f'<div class="card">{head}<p class="soft">{escape(_sentence(found.kind.why))}</p>{remedy}{table}{shown}</div>'
    )


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + "."


def _row(example: Example) -> str:
    place = str(example.line) if example.line else "all"
    return f"<tr><td>{place}</td><td>{escape(shortened(example.record))}</td><td>{escape(example.detail)}</td></tr>"


def _pair(example: Example, report: Report, test_folder: Path | None) -> str:
    folder = report.image_folder
    if folder is None or example.image is None or example.line == 0:
        return ""
    if example.other_image is None:
        return _figure(folder, example.image, example.record)
    other = _figure(str(test_folder or folder), example.other_image, example.other_image)
    return _figure(folder, example.image, example.image) + other


def _figure(folder: str, name: str, caption: str) -> str:
    try:
        image = open_image(resolve_image(folder, name))
    except PictureError:
        return ""  # what is wrong with it stands in the table above
    return f"<figure>{picture_tag(image, name, 200)}<figcaption>{escape(caption)}</figcaption></figure>"


def _answers(report: Report) -> str:
    answers = report.statistics.get("answers") or {}
    if not answers.get("count"):
        return ""
    top = answers["most_common"][:12]
    widest = top[0][1]
    rows = "".join(
        f'<tr><td>{escape(quoted(text, 80))}</td><td class="number">{share:.1%}</td>'
        f'<td style="width:50%"><div class="bar" style="width:{share / widest:.1%}"></div></td></tr>'
        for text, share in top
    )
    head = f"<h2>Answers</h2><p class='soft'>{answers['count']:,} answers, {answers['distinct']:,} distinct.</p>"
    return f'<div class="card">{head}<table>{rows}</table></div>'


def _numbers(report: Report) -> str:
    rows = "".join(
        f"<tr><td>{escape(group)}: {escape(name.replace('_', ' '))}</td>"
        f'<td class="number">{number(value, name)}</td></tr>'
        for group in ("pictures", "tokens")
        for name, value in report.statistics.get(group, {}).items()
    )
    return f'<div class="card"><h2>Sizes</h2><table>{rows}</table></div>' if rows else ""


def number(value: object, name: str) -> str:
    """A value of the report as the page shows it: shares in percent, numbers with separators."""
    if name.endswith("share") and isinstance(value, int | float):
        return f"{value:.0%}" if value >= 0.01 or not value else f"{value:.1%}"
    return f"{value:,.0f}" if isinstance(value, int | float) else escape(value)
