"""A page of records as the model will see them: pictures after processing, every token, what is taught and what is not.

    python -m data_prep show records.json --images images --model checkpoints/llava-v1.5-7b --html show.html

The masker and the picture processing are those of training, not copies of them.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from data_prep.converters.options import converter_parser
from data_prep.errors import DataError, UsageError
from data_prep.numbers import seed, whole
from data_prep.picture_folder import add_images_option
from data_prep.records.marks import IGNORE_INDEX, IMAGE_TOKEN_INDEX
from data_prep.records.output import refuse_source
from data_prep.records.pixels import add_pixel_option, allow_pixels
from data_prep.records.record import Record, Records, images_of, open_image, read_records, resolve_image
from data_prep.records.usable import TaughtRecord, usable
from data_prep.view.augmented import boxes_of, figure, require_kinds, varied_figures
from data_prep.view.model_view import ModelView, open_model
from data_prep.view.page import escape, write_page

EXAMPLES = """  python -m data_prep show records.json --images images --model MODEL --html show.html
  python -m data_prep show records.json --images images --model MODEL --records okvqa-516065 --html show.html"""
PART = "…"
MOST_PARTS = 3
"""Tokens before the last of a character: one of UTF-8 has at most four bytes."""
STYLE = """
.tokens { line-height: 2; font-size: .85rem; overflow-wrap: anywhere; }
.tokens span { padding: .12rem .2rem; border-radius: 4px; margin-right: 1px; white-space: pre; }
.no { color: var(--untaught); } .yes { background: var(--taught); border-bottom: 2px solid var(--taught-line); }
.end { background: var(--end); border-bottom: 2px solid var(--end-line); font-weight: 600; }
.image { background: var(--chip); font-weight: 600; }
pre .yes { background: var(--taught); border-radius: 3px; }
.legend span { padding: .12rem .4rem; border-radius: 4px; margin-right: .6rem; font-size: .85rem; }
summary { cursor: pointer; margin-top: .6rem; }
.boxed { position: relative; display: block; width: max-content; max-width: 100%; }
.boxed svg { position: absolute; inset: 0; width: 100%; height: 100%; }
"""


def choose(records: Records, wanted: Sequence[str], count: int, seed: int | None) -> list[int]:
    """Return the numbers of the records to show: those named by id or number (from 1), the first, or a draw."""
    if not wanted:
        numbers = list(range(len(records)))
        return (
            sorted(random.Random(seed).sample(numbers, min(count, len(numbers))))
            if seed is not None
            else numbers[:count]
        )
    found = {name: int(name) - 1 for name in wanted if is_number(name) and 0 < int(name) <= len(records)}
    for index in range(len(records)):
        if len(found) == len(set(wanted)):
            break
        name = str(records[index].get("id"))
        if name in wanted:
            found.setdefault(name, index)
    missing = next((name for name in wanted if name not in found), None)
    if missing is not None:
        raise DataError(records.path, f'no record "{missing}"; give an id or a number from 1 to {len(records)}')
    return [found[name] for name in wanted]


def is_number(name: str) -> bool:
    """Say whether a name can be the number of a record: digits, and few of them."""
    return name.isdecimal() and len(name) < 10


def record_card(record: Record, index: int, folder: Path | None, view: ModelView, augment: str | None = None) -> str:
    """Return the HTML of one record: pictures, numbers, tokens, prompt; with `augment` how its picture would vary."""
    title = f"<h2>{escape(record.get('id', f'record {index + 1}'))}</h2>"
    try:
        usable(record, TaughtRecord)
        pictures, counts = _pictures(record, folder, view)
        encoded = view.encode(record)
        varied = varied_figures(record, index, folder, augment) if augment and folder else ""
    except (DataError, ValueError) as error:
        return f'<div class="card">{title}<p class="error">Training would refuse it: {escape(error)}</p></div>'
    total = max(encoded.places) + 1 + sum(count - 1 for count in counts)
    taught = sum(label != IGNORE_INDEX for label in encoded.labels)
    over = f' <strong class="error">{total - view.context} too many</strong>' if total > view.context else ""
    answers = f"{len(encoded.spans)} answer{'s' if len(encoded.spans) != 1 else ''}"
    numbers = f'<p class="soft">{total:,} of {view.context:,} tokens{over}, {taught} taught, {answers}</p>'
    prompts = "".join(f"<pre>{_prompt(pieces)}</pre>" for pieces in view.prompts(record))
    details = f"<details><summary>Exact text of the prompt</summary>{prompts}</details>"
    tokens = f'<p class="tokens">{_tokens(encoded, counts, view)}</p>'
    return f'<div class="card">{title}{numbers}{pictures}{varied}{tokens}{details}</div>'


def _prompt(pieces: Iterable[tuple[str, bool]]) -> str:
    return "".join(f'<span class="yes">{escape(text)}</span>' if taught else escape(text) for text, taught in pieces)


def _pictures(record: Record, folder: Path | None, view: ModelView) -> tuple[str, list[int]]:
    figures, counts = [], []
    for name in images_of(record):
        if folder is None:
            raise DataError(name, "is named, and no --images is given")
        image = open_image(resolve_image(folder, name))
        views = view.views(image)
        counts.append(view.image_tokens(image.size))
        seen = f"{len(views)} views" if len(views) > 1 else "1 view"
        size = f"{image.width} x {image.height}"
        cut = f"; {share:.0%} of the picture is cut off" if (share := view.cut_share(image.size)) >= 0.01 else ""
        facts = f"{name}: {size}, seen as {seen} of {views[0].width} x {views[0].height}, {counts[-1]} tokens{cut}"
        boxes = boxes_of(record, image.size)
        figures.append(figure(image, f"as it is: {facts}", 224, boxes))
        seen_boxes = view.boxes_seen(image.size, boxes) if boxes else [[] for _ in views]
        for number, (one, inside) in enumerate(zip(views, seen_boxes, strict=True), 1):
            figures.append(figure(one, f"view {number} of the model", 224, inside))
    return f'<div class="pictures">{"".join(figures)}</div>' if figures else "", counts


def _tokens(encoded: Any, counts: Sequence[int], view: ModelView) -> str:
    pending = iter(counts)
    ends = {stop - 1 for _, stop in encoded.spans}
    spans = []
    texts = token_texts(encoded.input_ids, view.tokenizer)
    for place, (token, label, text) in enumerate(zip(encoded.input_ids, encoded.labels, texts, strict=True)):
        if token == IMAGE_TOKEN_INDEX:
            spans.append(f'<span class="image" title="the picture">&lt;image&gt; × {next(pending, 1)}</span>')
            continue
        if place in encoded.branches:
            spans.append(f'<br><span class="image">question {encoded.branches.index(place) + 1}, asked alone</span>')
        kind = "no" if label == IGNORE_INDEX else "end" if place in ends else "yes"
        shown = escape(text).replace("\n", "⏎\n").replace(" ", "·") if text.strip() else _blank(text)
        spans.append(f'<span class="{kind}" title="{token}">{shown}</span>')
    return "<wbr>".join(spans)  # lines break between tokens, not inside them


def _blank(text: str) -> str:
    return text.replace(" ", "·").replace("\n", "⏎\n") or "∅"


def token_texts(ids: Iterable[int], tokenizer: Any) -> list[str]:
    """Return the text of each token: what it adds behind the one before.

    Of a character that several tokens make up, such as an umlaut, the last shows it and the others show PART.
    """
    texts = []
    before: list[int] = []
    parts: list[int] = []
    for token in ids:
        if token < 0:
            texts.append("")
            before, parts = [], []
            continue
        prefix = tokenizer.decode(before) if before else ""
        whole = tokenizer.decode([*before, *parts, token])
        text = whole[len(prefix) :] if whole.startswith(prefix) else tokenizer.decode([*parts, token])
        if "\ufffd" in text and len(parts) < MOST_PARTS:
            texts.append(PART)
            parts.append(token)
            continue
        texts.append(text if text and "\ufffd" not in text else str(tokenizer.convert_ids_to_tokens(token)))
        before, parts = [*parts, token], []
    return texts


def main(argv: Sequence[str] | None = None) -> int:
    """Write the page."""
    parser = converter_parser("show", "A page of records as the model will see them.", EXAMPLES)
    parser.add_argument("records_file", type=Path, metavar="records", help="records, .json or .jsonl")
    add_images_option(parser)
    parser.add_argument("--model", required=True, help="the model that will be trained (a folder or a hub name)")
    parser.add_argument("--html", "--output", dest="html", type=Path, required=True, help="the page to write")
    parser.add_argument("--count", type=whole(1), default=8, help="how many records; default 8")
    parser.add_argument("--seed", type=seed, help="draw them with this seed (default: the first)")
    parser.add_argument("--records", nargs="+", default=[], metavar="ID", help="show these, by id or number from 1")
    parser.add_argument("--conversation", help="conversation template, in place of the model's own (plain: stage 1)")
    parser.add_argument("--max-length", type=whole(1), help="context length, in place of the model's own")
    text = "also how training with --augment would vary the pictures: True (the default), or crop,flip,light,colour"
    parser.add_argument("--augment", nargs="?", const="True", metavar="KINDS", help=text)
    add_pixel_option(parser)
    args = parser.parse_args(argv)
    allow_pixels(args.max_pixels)
    if args.count < 1:
        raise UsageError(f"--count {args.count}: at least 1")
    if args.augment:
        require_kinds(args.augment)
    records = read_records(args.records_file)
    refuse_source(args.html, [args.records_file])
    numbers = choose(records, args.records, args.count, args.seed)
    view = open_model(args.model, args.conversation, args.max_length)
    write_page(
        args.html, f"{args.records_file.name} as the model sees it", page_body(args, records, numbers, view), STYLE
    )
    print(f"{args.html}: {len(numbers)} of {len(records)} records, template {view.template}")
    return 0


def page_body(args: argparse.Namespace, records: Records, numbers: Sequence[int], view: ModelView) -> str:
    """Return the page's body: what is shown, the legend, a card for each record."""
    head = f"<h1>{escape(args.records_file.name)} as the model sees it</h1>"
    facts = f"{escape(view.name)}, template <code>{escape(view.template)}</code>, context {view.context:,} tokens"
    shown = f"{len(numbers)} of {len(records):,} records"
    legend = (
        '<p class="legend"><span class="yes">taught</span><span class="end">taught: end of the answer</span>'
        '<span class="no">not taught</span><span class="image">&lt;image&gt; × tokens</span></p>'
    )
    cards = "\n".join(record_card(records[index], index, args.image_folder, view, args.augment) for index in numbers)
    return f'{head}<p class="soft">{facts}; {shown}</p>{legend}{cards}'
