"""Pictures that arrive over the network: limited in bytes, pixels and kind; remote ones only from named public hosts.

picture = picture_from_url("data:image/png;base64,...", Limits())
"""

from __future__ import annotations

import base64
import binascii
import io
import re
from pathlib import Path
from typing import Any

from llava_finetune.errors import UserError
from llava_finetune.serve.limits import Limits
from llava_finetune.serve.remote import fetch

KINDS = {".jpg", ".png", ".webp", ".gif", ".bmp", ".avif", ".heic"}
SHOWN_SIDE = 1600
"""Pixels of the longer side of what is shown in place of a HEIC picture."""

_DATA_URL = re.compile(r"data:image/[\w.+-]+;base64,", re.ASCII)


def picture_from_bytes(data: bytes, limits: Limits, where: str = "the picture") -> Any:
    """An upright RGB picture. Raises UserError for another kind of file, too many bytes or pixels, and damage."""
    from data_prep.records.picture import decode, extension_of

    if len(data) > limits.picture_bytes:
        raise UserError(f"{where} has {len(data):,} bytes, at most {limits.picture_bytes:,} are taken; make it smaller")
    if extension_of(data[:16]) not in KINDS:
        kinds = ", ".join(sorted(kind.removeprefix(".") for kind in KINDS))
        raise UserError(f"{where} is not a picture of a known kind ({kinds}); it begins with {data[:8]!r}")
    return decode(io.BytesIO(data), where, limits.pixels)


def shown_file(path: str, picture: Any) -> str:
    """The file that a browser can show of an uploaded picture: itself, and for HEIC a JPEG beside it."""
    from data_prep.records.picture import extension_of

    with Path(path).open("rb") as stream:
        if extension_of(stream.read(16)) != ".heic":
            return path
    shown = picture.copy()
    shown.thumbnail((SHOWN_SIDE, SHOWN_SIDE))
    shown.info.clear()
    shown.save(f"{path}.jpg", quality=90)
    return f"{path}.jpg"


def picture_from_url(url: str, limits: Limits) -> Any:
    """The picture of a data URL, or of a web address whose host is allowed. Every other scheme is refused."""
    match = _DATA_URL.match(url)
    if match:
        return picture_from_bytes(decode_base64(url[match.end() :], limits), limits)
    scheme = url.split(":", 1)[0][:16] if ":" in url else "none"
    if scheme in ("http", "https"):
        return picture_from_bytes(fetch(url, limits), limits)
    raise UserError(f"image_url with scheme {scheme!r}: send a data URL (data:image/png;base64,...)")


def decode_base64(text: str, limits: Limits) -> bytes:
    """Bytes of a base64 text. Raises UserError for malformed text, and before decoding when it is too long."""
    if len(text) * 3 // 4 > limits.picture_bytes + 4:
        raise UserError(
            f"the picture has about {len(text) * 3 // 4:,} bytes, at most {limits.picture_bytes:,} are taken"
        )
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise UserError(f"the picture's base64 is malformed: {error}") from None
