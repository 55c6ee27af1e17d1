"""The gallery: a sample of questions with their pictures, small enough for one page, every outcome represented.

Pictures are shrunk and travel inside the page; one that cannot be opened leaves a note in its place and is counted.

    html = gallery(results, Pictures([Path("images")]))
"""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from data_prep.boxes.overlay import boxes_in_pixels, overlay
from llava_finetune.evaluation import metrics
from llava_finetune.report.outcomes import GAINED, LOST, OUTCOMES, RIGHT, WRONG, Outcome
from llava_finetune.report.tables import shortened

PER_OUTCOME = {LOST: 24, WRONG: 30, GAINED: 24, RIGHT: 24}
MAX_SIDE = 320
QUALITY = 80
# Pictures this small look smeared when they are blown up smoothly.
PIXELATED_BELOW = 128
# Mean length of references from which cards are wide.
LONG = 30
SIGNS = {LOST: "\u2717", WRONG: "\u2717", GAINED: "\u2713", RIGHT: "\u2713"}


class Pictures:
    """Opens pictures once each and keeps them as `<img>` texts; `unreadable` names those that could not be opened."""

    def __init__(self, folders: Sequence[Path]) -> None:
        self.folders = folders
        self.unreadable: dict[str, str] = {}
        self._made: dict[str, str] = {}
        self._sizes: dict[str, tuple[int, int]] = {}

    def with_boxes(self, prediction: Mapping[str, Any]) -> str:
        """Return the prediction's picture as `tag` does, the boxes of its reference and its answer drawn on it."""
        image = prediction.get("image")
        tag = self.tag(image)
        if not isinstance(image, str) or image not in self._sizes:
            return tag
        size, texts = self._sizes[image], [str(prediction["reference"]), prediction["answer"]]
        kinds = zip(boxes_in_pixels(texts, size, prediction), ("reference", "answer"), strict=True)
        return tag + overlay(size, [(box, kind) for boxes, kind in kinds for box in boxes])

    def tag(self, image: Any) -> str:
        """Return an `<img>` with the (first) picture inside it, or a note that says why there is none."""
        names = [image] if isinstance(image, str) else list(image or [])
        if not names:
            return '<div class="nopic">no picture: text only</div>'
        if names[0] not in self._made:
            self._made[names[0]] = self._read(str(names[0]))
        more = f'<span class="more">+{len(names) - 1}</span>' if len(names) > 1 else ""
        return self._made[names[0]] + more

    def _read(self, name: str) -> str:
        from data_prep.records.record import open_image, resolve_image

        self.unreadable[name] = "no image folder is known: give --images"
        for folder in self.folders:
            try:
                picture = open_image(resolve_image(folder, name))
                self._sizes[name] = picture.size
                made = image_tag(picture, name)
            except Exception as error:  # any decoder's error: the page shows the rest and says this
                self.unreadable[name] = str(error)
            else:
                del self.unreadable[name]
                return made
        return f'<div class="nopic">not found: {escape(shortened(name, 40))}</div>'


def image_tag(picture: Any, name: str) -> str:
    """Return a PIL picture as an `<img>` with a data URL, at most 320 pixels on its longer side."""
    picture = picture.convert("RGB")
    small = max(picture.size) < PIXELATED_BELOW
    picture.thumbnail((MAX_SIDE, MAX_SIDE))
    buffer = io.BytesIO()
    if small:
        picture.save(buffer, "PNG", optimize=True)
    else:
        picture.save(buffer, "JPEG", quality=QUALITY, optimize=True)
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    style = ' class="pixels"' if small else ""
    return (
        f'<img{style} width="{picture.width}" height="{picture.height}" alt="{escape(name, quote=True)}" '
        f'decoding="async" src="data:image/{"png" if small else "jpeg"};base64,{data}">'
    )


def gallery(results: Sequence[Outcome], pictures: Pictures) -> str:
    """Return filters and cards for a sample of the results, or an empty text without results."""
    if not results:
        return ""
    sample = sampled(results)
    totals = {kind: sum(one.kind == kind for one in results) for kind in OUTCOMES}
    names = OUTCOMES if any(one.before for one in results) else {WRONG: "Wrong", RIGHT: "Right"}
    types = [name for name in metrics.TYPES if any(metrics.type_of(one.now) == name for one in sample)]
    cards = "".join(_card(one, pictures) for one in sample)
    is_long = sum(len(one.now["reference"]) for one in sample) > LONG * len(sample)
    shown = (
        f"{len(sample):,} of {len(results):,} answers are shown, chosen by a fixed rule; the predictions file has all."
    )
    style = "cards long" if is_long else "cards"
    return (
        f"{_filters(totals, names, types)}<p class=note>{shown} <span class=count aria-live=polite></span></p>"
        f'<div class="{style}">{cards}</div>'
        '<p><button type="button" class="morecards" hidden>Show more</button></p>'
        '<p class="nothing" hidden>No answer in this sample fits the filter.</p>'
    )


def sampled(results: Sequence[Outcome]) -> list[Outcome]:
    """Return a fixed sample: up to a number per outcome, pictures that differ first, outcomes taking turns."""
    groups = []
    for kind, limit in PER_OUTCOME.items():
        fitting = sorted((one for one in results if one.kind == kind), key=lambda one: _rank(one.now))
        fresh: dict[str, Outcome] = {}
        for one in fitting:
            fresh.setdefault(str(one.now.get("image")), one)
        taken = {id(one) for one in fresh.values()}
        groups.append([*fresh.values(), *(one for one in fitting if id(one) not in taken)][:limit])
    turns = max(map(len, groups))
    return [group[turn] for turn in range(turns) for group in groups if turn < len(group)]


def _rank(prediction: Mapping[str, Any]) -> str:
    name = f"{prediction.get('id')}/{prediction.get('turn')}"
    return hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()


def _filters(totals: Mapping[str, int], names: Mapping[str, str], types: Sequence[str]) -> str:
    from llava_finetune.report.words import TYPE_NAMES

    def chip(group: str, value: str, text: str, count: int | None = None, pressed: bool = False) -> str:
        number = f" <small>{count:,}</small>" if count is not None else ""
        return (
            f'<button type="button" class="chip {value}" data-group="{group}" data-value="{value}" '
            f'aria-pressed="{str(pressed).lower()}">{escape(text)}{number}</button>'
        )

    kinds = [chip("kind", "", "All", sum(totals.values()), True)]
    kinds += [chip("kind", kind, text, totals[kind]) for kind, text in names.items() if totals[kind]]
    rows = f'<div class="chips" role="group" aria-label="Outcome">{"".join(kinds)}</div>'
    if len(types) > 1:
        kinds = [chip("type", "", "Every type", None, True), *(chip("type", name, TYPE_NAMES[name]) for name in types)]
        rows += f'<div class="chips" role="group" aria-label="Type of question">{"".join(kinds)}</div>'
    search = '<input type="search" placeholder="Search in questions and answers" aria-label="Search">'
    return f'<div class="filters">{rows}{search}</div>'


def _card(one: Outcome, pictures: Pictures) -> str:
    now = one.now
    right = one.kind in (GAINED, RIGHT)
    lines = [("answer", f"{SIGNS[one.kind]} {_spoken(now['answer'])}", "good" if right else "bad")]
    if not right:
        lines.append(("reference", _spoken(now["reference"]), "ref"))
    if one.before is not None:
        lines.append(("before", _spoken(one.before["answer"]), "dim"))
    if one.blind is not None:
        lines.append(("blind", _spoken(one.blind["answer"]), "dim"))
    if now.get("truncated"):
        lines.append(("note", "cut at the length limit", "bad"))
    rows = "".join(f'<dt>{name}</dt><dd class="{style}">{text}</dd>' for name, text, style in lines)
    kind = escape(metrics.type_of(now), quote=True)
    return (
        f'<article class="card {one.kind}" data-kind="{one.kind}" data-type="{kind}">'
        f'<div class="pic">{pictures.with_boxes(now)}</div>'
        f'<p class="q">{escape(shortened(now["question"], 300))}</p>'
        f'<dl>{rows}</dl><p class="id">{escape(shortened(str(now.get("id")), 60))}</p></article>'
    )


def _spoken(text: str) -> str:
    return escape(shortened(text.strip(), 240)) or "<i>nothing</i>"
