"""A report as one HTML page: style, script and pictures inside, nothing fetched.

html = run_page(read_run(Path("runs/quickstart")))
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timezone
from html import escape
from pathlib import Path

from llava_finetune.report import sections as parts
from llava_finetune.report.data_summary import data_section
from llava_finetune.report.engines import engines_section
from llava_finetune.report.gallery import Pictures, gallery
from llava_finetune.report.numbers import duration
from llava_finetune.report.outcomes import outcomes
from llava_finetune.report.run_folder import Run, is_number
from llava_finetune.report.words import headline, sentences

HERE = Path(__file__).parent
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
WARNINGS = ("Overfitting:", "The score cannot", "Loss or gradient")

# Anchor, title, HTML.
Section = tuple[str, str, str]


def run_page(run: Run, image_folder: Path | None = None) -> str:
    """Return the whole page of a run, whatever there is of it; `image_folder` is tried before those the run names."""
    results = outcomes(run)
    pictures = Pictures([*([image_folder] if image_folder else []), *run.image_folders])
    sections = [
        ("scores", "Before and after", parts.scores_section(run)),
        ("curves", "Training", parts.curves_section(run)),
        ("answers", "Answers", gallery(results, pictures)),
        ("confusions", "Confusions", parts.confusions_section(run)),
        ("worst", "Hardest records", parts.worst_section(run, pictures)),
        ("hallucination", "What is not there", parts.hallucination_section(run)),
        ("probe", "Forgetting", parts.probe_section(run)),
        ("engines", "In other engines", engines_section(run)),
        ("data", "Data", data_section(run.check)),
        ("manifest", "How to repeat it", parts.manifest_section(run)),
        ("missing", "Not in this report", parts.missing_section(run, pictures)),
    ]
    said = sentences(run, results)
    items = "".join(f"<li{' class=warn' if text.startswith(WARNINGS) else ''}>{escape(text)}</li>" for text in said)
    top = (
        f"<h1><b>{escape(run.name)}</b> {_status(run)}</h1>"
        f'<p class="lead">{escape(headline(run))}</p><ul class="says">{items}</ul>'
    )
    return document(f"{run.name}: report", top, sections)


def document(title: str, top: str, sections: Sequence[Section]) -> str:
    """Return a page from its title, the HTML at its top, and its sections; empty sections are left out."""
    kept = [section for section in sections if section[2]]
    links = "".join(f'<a href="#{anchor}">{escape(name)}</a>' for anchor, name, _ in kept)
    body = "".join(f'<section id="{anchor}"><h2>{escape(name)}</h2>{html}</section>\n' for anchor, name, html in kept)
    made = datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    style, script = ((HERE / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        f"<title>{escape(title)}</title><style>\n{style}</style></head>\n<body><header>{top}</header>\n"
        f"<main><nav>{links}</nav>\n{body}</main>\n<footer>Made {made} by llava-finetune. One file: pictures, style "
        f"and script are inside.</footer>\n<script>\n{script}</script></body></html>\n"
    )


def _status(run: Run) -> str:
    started = run.argument("started")
    when = f", started {escape(started[:16].replace('T', ' '))}" if isinstance(started, str) else ""
    if run.is_finished:
        return f'<span class="status">finished{when}</span>'
    if not run.rows:
        return f'<span class="status running">no step logged{when}</span>'
    total = run.argument("total_steps", "max_steps")
    of_total = f" of {int(total):,}" if is_number(total) and total > 0 else ""
    left = run.points("seconds_left")
    is_known = bool(left) and left[-1][1] > 0
    remaining = f", about {duration(left[-1][1])} left when logged" if is_known else ""
    return f'<span class="status running">step {run.last_step:,}{of_total}{remaining}</span>'
