"""Which way up a picture is, by its EXIF, however broken that is: broken EXIF costs at most the turning.

turn_of(image)          # Image.Transpose.ROTATE_270 for Orientation 6, None for an upright picture
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image

ORIENTATION = 0x0112
SHORT, LONG = 3, 4
MARK = b"Exif\0\0"


def orientation_of(image: Image.Image) -> int:
    """Return a picture's EXIF orientation, 1 to 8; 1 (upright) where there is none or it cannot be read."""
    if "exif" not in image.info and image.format not in {"TIFF", "MPO"}:
        return 1
    value: object = orientation_in(image.info.get("exif") or b"")
    if value is None:
        try:
            value = image.getexif().get(ORIENTATION, 1)  # of a TIFF, or of XMP
        except Exception:  # Pillow's reader raises anything on broken EXIF
            value = 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def turn_of(image: Image.Image) -> Image.Transpose | None:
    """Return what has to be done to a picture so that it stands upright, or None."""
    from PIL import Image as pillow

    how = pillow.Transpose
    turns = {
        2: how.FLIP_LEFT_RIGHT, 3: how.ROTATE_180, 4: how.FLIP_TOP_BOTTOM, 5: how.TRANSPOSE, 6: how.ROTATE_270,
        7: how.TRANSVERSE, 8: how.ROTATE_90,
    }  # fmt: skip
    return turns.get(orientation_of(image))


def orientation_in(exif: bytes) -> int | None:
    """Return the orientation in the bytes of an EXIF block, whatever stands in its other tags; None: it has none.

    Pillow's reader gives up at the first broken tag, and all behind it with it.

    >>> orientation_in(only_orientation(6))
    6
    """
    tiff = exif.removeprefix(MARK)
    order = {b"II": "<", b"MM": ">"}.get(tiff[:2])
    if order is None or len(tiff) < 10:
        return None
    (place,) = struct.unpack_from(f"{order}I", tiff, 4)
    if place + 2 > len(tiff):
        return None
    (count,) = struct.unpack_from(f"{order}H", tiff, place)
    for entry in range(place + 2, min(place + 2 + 12 * count, len(tiff) - 11), 12):
        tag, kind = struct.unpack_from(f"{order}HH", tiff, entry)
        if tag == ORIENTATION and kind in {SHORT, LONG}:
            (value,) = struct.unpack_from(order + ("H" if kind == SHORT else "I"), tiff, entry + 8)
            return int(value) if 1 <= value <= 8 else None
    return None


def only_orientation(value: int) -> bytes:
    """Return an EXIF block with an orientation and nothing else."""
    return MARK + struct.pack("<2sHIHHHIIi", b"II", 42, 8, 1, ORIENTATION, SHORT, 1, value, 0)


def jpeg_with_plain_exif(raw: bytes) -> bytes:
    """Return a JPEG with each EXIF block replaced by its orientation alone; other bytes as they are.

    Pillow reads the resolution while it opens a JPEG and gives up the picture where that is broken.
    """
    kept, place = [raw[:2]], 2
    while raw[place : place + 1] == b"\xff" and raw[place + 1 : place + 2] not in {b"\xda", b""}:
        end = place + 2 + int.from_bytes(raw[place + 2 : place + 4])
        segment = raw[place:end]
        if segment[1:2] == b"\xe1" and segment[4:].startswith(MARK):
            plain = only_orientation(orientation_in(segment[4:]) or 1)
            segment = b"\xff\xe1" + (len(plain) + 2).to_bytes(2) + plain
        kept.append(segment)
        place = max(end, place + 2)
    return b"".join([*kept, raw[place:]])
