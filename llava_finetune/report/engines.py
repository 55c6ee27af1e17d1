"""What other programs answered with the model, from certificate.json: a section of the page, a table of the card.

engines_section(run); engines_markdown(run.certificate)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from llava_finetune.report.run_folder import Run, is_number

HEAD = ("Engine", "Version", "Weights", "Identical answers", "Prompt ids", "First token", "Verdict")


def engines_section(run: Run) -> str:
    """The table of the certificate, each engine's first difference, and notes; nothing where there is none."""
    engines = _engines(run.certificate)
    if not engines:
        return ""
    head = "".join(f'<th scope="col">{text}</th>' for text in HEAD)
    rows = "".join("<tr>" + "".join(f"<td>{escape(text)}</td>" for text in _row(one)) + "</tr>" for one in engines)
    said = "".join(f"<li>{escape(text)}</li>" for one in engines for text in _words(one))
    made = f"Asked {run.certificate.get('made', '')}; judged by {run.certificate.get('reference', 'fp32')}."
    return (
        f'<table class="scores"><caption>{escape(made)}</caption><thead><tr>{head}</tr></thead><tbody>{rows}</tbody>'
        f"</table><ul>{said}</ul>"
    )


def engines_markdown(certificate: Mapping[str, Any]) -> str:
    """The same for a model card."""
    engines = _engines(certificate)
    if not engines:
        return ""
    lines = ["## Engines", "", f"| {' | '.join(HEAD)} |", f"|{'---|' * len(HEAD)}"]
    lines += [f"| {' | '.join(text.replace('|', chr(92) + '|') for text in _row(one))} |" for one in engines]
    lines += ["", *(f"- {text}" for one in engines for text in _words(one))]
    return "\n".join([*lines, ""])


def _engines(certificate: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    found = certificate.get("engines")
    return [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []


def _row(one: Mapping[str, Any]) -> list[str]:
    first = one.get("first_token")
    count = one.get("count")
    return [
        str(one.get("engine", "")),
        str(one.get("version", "")),
        str(one.get("dtype", "")),
        f"{one.get('identical')} of {count}" if count else "",
        str(one.get("prompt_ids", "")) if count else "",
        f"{first:.1e} away" if is_number(first) else "",
        str(one.get("verdict", "")),
    ]


def _words(one: Mapping[str, Any]) -> list[str]:
    name = one.get("engine", "")
    said = [f"{name}: {note}" for note in one.get("notes", [])]
    for first in one.get("differences", [])[:1]:
        gap = first.get("gap")
        near = f" (fp32 prefers the first by {gap:.2g})" if is_number(gap) else ""
        said.append(
            f"{name}: question {first.get('question')}: {first.get('expected')!r} became {first.get('answer')!r}{near}"
        )
    return said
