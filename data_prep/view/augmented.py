"""A record's pictures on a page with its boxes drawn, as they are and as `--augment` would vary them.

varied_figures(record, 7, Path("images"), "flip,light")
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_prep.boxes.overlay import boxes_in_pixels, overlay
from data_prep.records.record import images_of, open_image, resolve_image
from data_prep.view.page import escape, picture_tag

if TYPE_CHECKING:
    from PIL import Image

    from data_prep.boxes.box import Box, Size

EPOCHS = 4
SEED = 42
"""transformers' default, which a training without --seed has."""


def varied_figures(record: Mapping[str, Any], index: int, folder: Path, asked: str) -> str:
    """Return figures of a record in its first epochs, with what was done and what its words do not allow."""
    from llava_finetune.config.augmenting import KINDS, asked_kinds
    from llava_finetune.data.allowed_changes import allowed
    from llava_finetune.data.augmentation import Augmentation

    kinds = asked_kinds(asked)
    images = [open_image(resolve_image(folder, name)) for name in images_of(record)]
    if not images:
        return ""
    figures = []
    for epoch in range(EPOCHS):
        varied = Augmentation(kinds, SEED).varied(record, images, index, epoch)
        caption = f"epoch {epoch + 1}: {', '.join(varied.done) or 'as it is'}"
        for image in varied.images:
            figures.append(figure(image, caption, 160, boxes_of(varied.record, image.size)))
    kept = [kind for kind in KINDS if kind in kinds - allowed(record)]
    why = f"not for this record, by its words: {', '.join(kept)}" if kept else "all kinds are allowed by its words"
    return f'<p class="soft">--augment {escape(asked)}; {why}</p><div class="pictures">{"".join(figures)}</div>'


def require_kinds(asked: str) -> None:
    """Raise UsageError for what `--augment` does not know."""
    from llava_finetune.config.augmenting import asked_kinds

    asked_kinds(asked)


def boxes_of(record: Mapping[str, Any], size: Size) -> list[Box]:
    """Return the boxes of a record's texts in pixels of its picture; none where it has several pictures."""
    if len(images_of(record)) != 1:
        return []
    texts = [turn["value"] for turn in record["conversations"] if isinstance(turn.get("value"), str)]
    return [box for boxes in boxes_in_pixels(texts, size, record) for box in boxes]


def figure(image: Image.Image, caption: str, side: int, boxes: Sequence[Box] = ()) -> str:
    """Return a figure of a picture with its boxes, at most `side` pixels a side, above its caption."""
    drawn = overlay(image.size, [(box, "reference") for box in boxes])
    picture = picture_tag(image, caption, side)
    shown = f'<span class="boxed">{picture}{drawn}</span>' if drawn else picture
    return f"<figure>{shown}<figcaption>{escape(caption)}</figcaption></figure>"
