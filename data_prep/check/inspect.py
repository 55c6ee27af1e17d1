"""What one picture file holds: whether it decodes, its kind, size, frames, and fingerprints to find it again.

facts = inspect_picture("images", "a.jpg")
facts.fault, facts.width, facts.digest
"""

from __future__ import annotations

import hashlib
import io
import os
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from data_prep.errors import PictureError, PictureFault
from data_prep.records.foreign import ENDINGS
from data_prep.records.greys import Greys, Scale
from data_prep.records.picture import (
    extension_of,
    load,
    num_frames,
    open_lazily,
    read_picture,
    resolve_image,
    rgb,
    stored_pixels,
)

THUMB = (9, 8)
FINE = 64


class Facts(NamedTuple):
    """What a picture file holds; `fault` is None for a good picture, else `problem` says what is wrong.

    Width and height are those of the upright picture. `greys` tells how more than 8 bits became 8. `digest` is of
    the bytes; `pattern` (64 bits: is each of 8 x 8 places brighter than its right neighbour) and `thumb` (9 x 8
    RGB) are of what it looks like.
    """

    fault: PictureFault | None = None
    problem: str = ""
    width: int = 0
    height: int = 0
    frames: int = 1
    turned: bool = False
    true_extension: str | None = None
    greys: Greys | None = None
    digest: bytes = b""
    pattern: int = 0
    thumb: bytes = b""


def inspect_picture(folder: str, name: str) -> Facts:
    """Return the facts of picture `name` in `folder`; every pixel is decoded, nothing is raised."""
    try:
        path = resolve_image(folder, name)
        return _inspect(path, name)
    except PictureError as error:
        return Facts(fault=error.fault, problem=error.problem)


def _inspect(path: Path, name: str) -> Facts:
    raw = read_picture(path)
    image = open_lazily(io.BytesIO(raw), name)
    stored, orientation = stored_pixels(image)
    width, height = reversed(stored) if orientation >= 5 else stored
    has_deep_colours = ";16" in _raw_mode(image)
    drafted = None
    if image.format == "JPEG" and min(stored) >= 4 * FINE:
        drafted = image.draft(
            "RGB", (stored[0] // 8, stored[1] // 8)
        )  # entropy-decodes every byte, inverse-transforms few
    load(image, name)
    shown, greys = (image, None) if image.mode == "L" else rgb(image, name)
    if has_deep_colours and greys is None:
        greys = _deep_colours(image)
    thumb = _thumb(shown, drafted[1] if drafted else (0, 0, *shown.size))
    return Facts(
        width=width,
        height=height,
        frames=num_frames(image),
        turned=orientation != 1,
        true_extension=_true_extension(name, raw),
        greys=greys,
        digest=hashlib.blake2b(raw, digest_size=16).digest(),
        pattern=_pattern(thumb),
        thumb=thumb.tobytes(),
    )


def _raw_mode(image: Any) -> str:
    """Return how the pixels lie in the file, as Pillow names it: `RGB;16B` for colours of 16 bits."""
    arguments = image.tile[0][3] if getattr(image, "tile", None) else ""
    first = arguments[0] if isinstance(arguments, tuple) and arguments else arguments
    return first if isinstance(first, str) else ""


def _deep_colours(image: Image.Image) -> Greys:
    """Return what colours of 16 bits hold: of them the upper 8 bits are read, so those of 12 bits are nearly black."""
    extremes: Any = image.getextrema()
    pairs = extremes[:3] if isinstance(extremes[0], tuple) else [extremes]
    return Greys(Scale(0, 65535), 257 * min(low for low, _ in pairs), 257 * max(high for _, high in pairs))


def _thumb(image: Image.Image, box: tuple[float, float, float, float]) -> Image.Image:
    """Return the thumbnail of what `box` holds: a draft's last row and column reach beyond the picture."""
    return image.resize(THUMB, Image.Resampling.BILINEAR, box=box, reducing_gap=3.0).convert("RGB")


def _pattern(thumb: Image.Image) -> int:
    """Return the difference hash of a 9 x 8 thumbnail (Krawetz, "Kind of like that", 2013)."""
    grey = thumb.convert("L").tobytes()
    bits = 0
    for place in range(len(grey) - 1):
        if place % 9 != 8:
            bits = bits << 1 | (grey[place] > grey[place + 1])
    return bits


def _true_extension(name: str, raw: bytes) -> str | None:
    """Return the extension that the bytes ask for when the name says another, else None."""
    said = os.path.splitext(name)[1].lower()  # noqa: PTH122
    true = extension_of(raw[:16])
    return true if true and ENDINGS.get(said, said) != true else None
