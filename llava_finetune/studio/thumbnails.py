"""Small pictures for the grid: made when first looked at, kept in the workspace, never the file itself.

A picture is decoded by the one door (`data_prep.records.picture`) with its limits, and sent as WebP: whatever a file
is named or holds, a browser gets pixels alone.

    data = thumbnail(workspace, Path("photos/a.HEIC"))          # bytes of a WebP, 200 pixels at most a side
"""

from __future__ import annotations

import hashlib
import io
import os
from contextlib import suppress
from pathlib import Path

from data_prep.records.picture import VERSION, decode, load, open_lazily, read_picture, upright_rgb
from llava_finetune.studio.workspace import Workspace

SIDE = 200
SHOWN_SIDE = 1600


def thumbnail(space: Workspace, path: Path) -> bytes:
    """The small form of a picture, from the folder of thumbnails where it lies already.

    Raises PictureError for what is no picture, OSError where there is no file.
    """
    found = path.stat()
    key = f"{VERSION} {SIDE} {path} {found.st_mtime_ns} {found.st_size}"
    name = hashlib.sha1(key.encode(errors="surrogateescape"), usedforsecurity=False).hexdigest()
    kept = space.hidden / "thumbnails" / name[:2] / f"{name}.webp"
    with suppress(OSError):
        return kept.read_bytes()
    data = smaller(path, SIDE)
    with suppress(OSError):  # a full disk: the picture is shown all the same
        kept.parent.mkdir(parents=True, exist_ok=True)
        temporary = kept.with_suffix(f".{os.getpid()}.{id(data)}.part")
        temporary.write_bytes(data)
        temporary.replace(kept)
    return data


def smaller(path: Path, side: int) -> bytes:
    """A picture as WebP with at most `side` pixels a side, upright, without metadata. Raises as `open_image` does."""
    raw = read_picture(path)
    image = open_lazily(io.BytesIO(raw), path.name)
    if side <= SIDE and image.format == "JPEG":
        image.draft("RGB", (2 * side, 2 * side))  # a JPEG's eighth is decoded in a tenth of the time
        load(image, path.name)
        image = upright_rgb(image, path.name)
    else:
        image = decode(io.BytesIO(raw), path.name)
    image.thumbnail((side, side))
    image.info.clear()
    out = io.BytesIO()
    image.save(out, "WEBP", quality=80, method=1)
    return out.getvalue()
