"""Pages that stand alone: one HTML file with its style and pictures inside, light and dark, no network.

write_page(Path("check.html"), "Check of records.json", body)
"""

from __future__ import annotations

import base64
import html
import io
from pathlib import Path
from typing import TYPE_CHECKING

from data_prep.files import write_text

if TYPE_CHECKING:
    from PIL import Image

STYLE = """
:root { color-scheme: light dark;
  --back: #f7f7f5; --card: #ffffff; --text: #1d1d1b; --soft: #66665f; --line: #dededa;
  --good: #1b7f4b; --bad: #b3261e; --warn: #8a5a00; --note: #3a5f8a;
  --taught: #cdeedb; --taught-line: #1b7f4b; --end: #ffd9a8; --end-line: #b06a00;
  --chip: #dfe8f5; --untaught: #66665f; }
@media (prefers-color-scheme: dark) { :root {
  --back: #161618; --card: #1f1f22; --text: #ececea; --soft: #a3a39d; --line: #37373b;
  --good: #6fd6a0; --bad: #ff8a80; --warn: #f0b95a; --note: #9cc3f0;
  --taught: #1d4732; --taught-line: #6fd6a0; --end: #5a3d14; --end-line: #f0b95a;
  --chip: #27374d; --untaught: #a3a39d; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--back); color: var(--text);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif; }
main { max-width: 72rem; margin: 0 auto; padding: 1.5rem 1rem 4rem; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 0 .25rem; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 0; overflow-wrap: anywhere; }
p { margin: .4rem 0; } .soft { color: var(--soft); } .small { font-size: .875rem; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 10px;
  padding: 1rem 1.1rem; margin: 1rem 0; }
.error { color: var(--bad); } .warning { color: var(--warn); } .note { color: var(--note); } .ok { color: var(--good); }
.tag { font-size: .8rem; font-weight: 600; text-transform: uppercase; letter-spacing: .04em; }
table { border-collapse: collapse; width: 100%; } .wide { overflow-x: auto; }
th, td { text-align: left; vertical-align: top; padding: .35rem .8rem .35rem 0; border-bottom: 1px solid var(--line); }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; }
tr:last-child td { border-bottom: 0; }
code, pre, .tokens { font-family: ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; margin: .4rem 0; font-size: .85rem; }
.pictures { display: flex; flex-wrap: wrap; gap: .75rem; margin-top: .6rem; }
figure { margin: 0; max-width: 100%; }
figcaption { font-size: .8rem; color: var(--soft); max-width: 22rem; overflow-wrap: anywhere; }
img { display: block; max-width: 100%; border: 1px solid var(--line); border-radius: 6px; background: #8883; }
.bar { background: var(--chip); height: .7rem; border-radius: 3px; min-width: 2px; }
"""


def escape(text: object) -> str:
    """Return text that shows as it is in HTML, control characters and broken Unicode as escapes."""
    shown = "".join(char if char.isprintable() or char in "\n\t" else _escaped(char) for char in str(text))
    return html.escape(shown)


def _escaped(char: str) -> str:
    return char.encode("unicode_escape").decode("ascii")


def write_page(path: Path, title: str, body: str, style: str = "") -> None:
    """Write one HTML file with `body` below no heading of its own; `style` is added to the common style."""
    head = (
        '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}{style}</style>"
    )
    write_text(
        path, f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body><main>\n{body}\n</main></body></html>\n'
    )


def picture_tag(image: Image.Image, alt: str, max_side: int = 336, crisp: bool = False) -> str:
    """Return an <img> with the picture inside, at most `max_side` pixels a side; tiny ones are drawn larger."""
    shown = image
    if max(image.size) > max_side:
        shown = image.copy()
        shown.thumbnail((max_side, max_side))
    stream = io.BytesIO()
    if crisp or max(shown.size) <= 128:
        shown.save(stream, "PNG")
        kind = "png"
    else:
        shown.save(stream, "JPEG", quality=88)
        kind = "jpeg"
    scale = max(1, 160 // max(shown.size))
    size = f'width="{shown.width * scale}" height="{shown.height * scale}"'
    pixelated = ' style="image-rendering: pixelated"' if scale > 1 else ""
    data = base64.b64encode(stream.getvalue()).decode("ascii")
    return f'<img src="data:image/{kind};base64,{data}" alt="{escape(alt)}" {size}{pixelated}>'
