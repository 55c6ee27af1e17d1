"""The one door for pictures: name -> path inside the folder -> RGB picture, the same for checks and for training.

    image = open_image(resolve_image("images", "holiday/IMG_1.HEIC"))

It reads JPEG, PNG, WebP, AVIF, HEIC, GIF (first frame), TIFF, BMP, PPM and JPEG 2000; applies the EXIF orientation;
scales greys of more than 8 bits (Pillow alone turns them white or black, see `greys`); lays transparent pictures on
white (Pillow alone shows whatever colour is under the transparency); and refuses pictures that are, or would become
in a model's processor, too large to be meant (`pixel_limit`) before decoding them.
"""

from __future__ import annotations

import errno
import importlib.util
import io
import logging
import os
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from types import ModuleType
from typing import TYPE_CHECKING, Any, BinaryIO

from data_prep.errors import PictureError, PictureFault, first_line, shortened
from data_prep.records.exif import jpeg_with_plain_exif, orientation_of, turn_of
from data_prep.records.foreign import HEAD, HEIF_BRANDS, MAGIC, RAW_ENDINGS, extension_of, foreign_kind
from data_prep.records.greys import Greys, eight_bits
from data_prep.records.names import resolve_image
from data_prep.records.pixels import MAX_PIXELS, largest_form, pixel_limit, too_large
from data_prep.records.tiff_facts import misread_tiff, unread_tiff

if TYPE_CHECKING:
    from PIL import Image

__all__ = [
    "FORMATS", "MAX_PIXELS", "decode", "extension_of", "load", "num_frames", "open_image", "open_lazily",
    "read_picture", "resolve_image", "rgb", "stored_pixels", "stored_size", "upright_rgb",
]  # fmt: skip

VERSION = 4
"""Part of the keys of caches: one more whenever a file comes out with other pixels than before."""

BYTES_A_PIXEL = 16
"""Bytes of a file for each allowed pixel: four bands of floats. Larger files are not read."""

FORMATS = (
    "JPEG", "PNG", "WEBP", "GIF", "AVIF", "HEIF", "TIFF", "BMP", "DIB", "PPM", "JPEG2000",
)  # fmt: skip
"""What is read. Others that Pillow knows (EPS runs Ghostscript, for one) are refused."""

TEXT_BYTES = 1 << 26
"""Bytes of PNG text (prompts of image generators, XMP) that are skipped; beyond Pillow's megabyte it would refuse."""


def open_image(path: str | os.PathLike[str], max_pixels: int | None = None) -> Image.Image:
    """Return the picture at `path` as RGB, upright, first frame.

    Raises PictureError for a missing file, text or a web page named .jpg, a truncated or damaged picture, and one of
    more than `max_pixels` pixels (None: `pixel_limit`).
    """
    with _opened_file(path, max_pixels) as stream:
        return decode(stream, path, max_pixels)


def read_picture(path: str | os.PathLike[str], max_pixels: int | None = None) -> bytes:
    """Return the bytes of the picture at `path`; raise PictureError where there is no file that can be read."""
    with _opened_file(path, max_pixels) as stream:
        return stream.read()


def stored_size(path: str | os.PathLike[str], max_pixels: int | None = None) -> tuple[tuple[int, int], int]:
    """Return (width, height) of the stored pixels of the picture at `path`, and its EXIF orientation, 1 to 8.

    Only the header is read. Raises PictureError as `open_image` does.
    """
    with _opened_file(path, max_pixels) as stream:
        image = open_lazily(stream, path, max_pixels)
        return stored_pixels(image)


def stored_pixels(image: Image.Image) -> tuple[tuple[int, int], int]:
    """Return (width, height) of the stored pixels of a picture that is not loaded yet, and its orientation, 1 to 8."""
    orientation = orientation_of(image)
    is_swapped = image.format == "TIFF" and orientation >= 5  # of TIFF alone Pillow tells the upright size
    return (image.size[1], image.size[0]) if is_swapped else image.size, orientation


@contextmanager
def _opened_file(path: str | os.PathLike[str], max_pixels: int | None) -> Iterator[BinaryIO]:
    """Open a picture's file: a regular one, not larger than any picture allowed; errors become PictureErrors."""
    try:
        with open(path, "rb", opener=_without_waiting) as stream:
            status = os.fstat(stream.fileno())
            if not stat.S_ISREG(status.st_mode):
                problem = "not a file but a pipe, a socket or a device; name a picture"
                raise PictureError(path, PictureFault.NOT_A_PICTURE, problem)
            if status.st_size > BYTES_A_PIXEL * (_limit(max_pixels)):
                problem = f"a file of {status.st_size:,} bytes, larger than any picture allowed; make it smaller"
                raise PictureError(path, PictureFault.HUGE, problem)
            yield stream
    except (OSError, ValueError) as error:
        raise _not_read(path, error) from None


def _limit(max_pixels: int | None) -> int:
    return pixel_limit() if max_pixels is None else max_pixels


def _without_waiting(path: str, flags: int) -> int:
    """Open at once: without O_NONBLOCK a named pipe waits for somebody to write into it."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _not_read(path: object, error: OSError | ValueError) -> PictureError:
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return PictureError(path, PictureFault.MISSING, "no such picture")
    if isinstance(error, IsADirectoryError):
        return PictureError(path, PictureFault.NOT_A_PICTURE, "a folder, not a file; name a picture in it")
    if isinstance(error, ValueError) or error.errno == errno.ENAMETOOLONG:  # NUL, half a surrogate
        return PictureError(shortened(str(path)), PictureFault.MISSING, f"no file can have this name ({error})")
    reason = error.strerror or str(error)
    return PictureError(path, PictureFault.UNREADABLE, f"cannot be read ({reason})")


def decode(stream: io.BufferedIOBase | BinaryIO, where: object, max_pixels: int | None = None) -> Image.Image:
    """Return the picture in `stream` as `open_image` does; `where` is its name for messages."""
    image: Image.Image = open_lazily(stream, where, max_pixels)
    load(image, where)
    return upright_rgb(image, where)


def open_lazily(stream: io.BufferedIOBase | BinaryIO, where: object, max_pixels: int | None = None) -> Image.Image:
    """Return Pillow's picture with its header read and its pixels not; raise PictureError as `open_image` does."""
    pillow: Any = _pillow()
    limit = _limit(max_pixels)
    if limit > MAX_PIXELS:
        pillow.MAX_IMAGE_PIXELS = limit  # Pillow refuses what is twice its own limit
    try:
        image: Image.Image = _opened(pillow, stream)
    except pillow.DecompressionBombError:
        raise PictureError(where, PictureFault.HUGE, too_large(None, limit)) from None
    except Exception as error:  # plugins raise anything on damaged headers
        raise _not_opened(stream, where, error) from None
    width, height = image.size
    if largest_form(width, height) > limit:
        image.close()
        raise PictureError(where, PictureFault.HUGE, too_large((width, height), limit))
    if image.format == "TIFF" and os.path.splitext(str(where))[1].lower() in RAW_ENDINGS:  # noqa: PTH122
        problem = "a camera's raw file, of which only the preview would be seen; develop it to JPEG or TIFF"
        raise PictureError(where, PictureFault.NOT_A_PICTURE, problem)
    if image.format == "TIFF" and (misread := misread_tiff(getattr(image, "tag_v2", {}))):
        raise PictureError(where, PictureFault.NOT_A_PICTURE, misread)
    return image


def _opened(pillow: ModuleType, stream: io.BufferedIOBase | BinaryIO) -> Image.Image:
    try:
        image: Image.Image = pillow.open(stream, formats=FORMATS)
    except pillow.DecompressionBombError:
        raise
    except Exception:
        stream.seek(0)
        if stream.read(3) != b"\xff\xd8\xff":
            raise
        stream.seek(0)
        image = pillow.open(io.BytesIO(jpeg_with_plain_exif(stream.read())), formats=FORMATS)
    return image


def load(image: Image.Image, where: object) -> None:
    """Decode the pixels of `image`; raise PictureError when they are cut off or damaged."""
    try:
        image.load()
    except MemoryError:
        raise PictureError(where, PictureFault.HUGE, "needs more memory than there is; make it smaller") from None
    except Exception as error:
        cut = "truncated" in str(error) or "incomplete" in str(error).lower() or "end of" in str(error).lower()
        fault = PictureFault.TRUNCATED if cut else PictureFault.UNREADABLE
        what = "the picture is cut off" if cut else "the picture is damaged"
        advice = "fetch it again or drop the record (check --fix)"
        raise PictureError(where, fault, f"{what} ({first_line(error)}); {advice}") from None


def num_frames(image: Image.Image) -> int:
    """Return how many frames a picture has; the second picture of MPO is a preview, not a frame."""
    try:
        return int(getattr(image, "n_frames", 1)) if image.format != "MPO" else 1
    except Exception:  # counting reads the headers of all frames, and the first is all that is used
        return 1


def upright_rgb(image: Image.Image, where: object = "the picture") -> Image.Image:
    """Return a decoded picture as RGB with its EXIF orientation applied; raise PictureError as `rgb` does."""
    if image.mode == "RGB" and not ({"exif", "transparency"} & image.info.keys() or image.format in {"TIFF", "MPO"}):
        return image
    turn = turn_of(image)
    made, _ = rgb(image if turn is None else image.transpose(turn), where)
    made.info.pop("exif", None)  # it would say once more how to turn it
    return made


def rgb(image: Image.Image, where: object = "the picture") -> tuple[Image.Image, Greys | None]:
    """Return a decoded picture as RGB, and what it held where that were greys of more than 8 bits.

    Raises PictureError where none of its values is a number, and where it cannot be converted.
    """
    if image.mode == "RGB" and "transparency" not in image.info:  # PNG may name one of its colours
        return image, None
    try:
        if image.mode.startswith(("I", "F")):
            grey, greys = eight_bits(image)
            return grey.convert("RGB"), greys
        return _on_white(image), None
    except (ValueError, OSError) as error:
        problem = f"its pixels cannot be used ({first_line(error)}); drop the record (check --fix)"
        raise PictureError(where, PictureFault.UNREADABLE, problem) from None


def _on_white(image: Image.Image) -> Image.Image:
    if image.mode in {"RGBA", "LA", "PA", "La", "RGBa"} or "transparency" in image.info:
        layer = image.convert("RGBA")
        white: Image.Image = _pillow().new("RGBA", layer.size, (255, 255, 255, 255))
        white.alpha_composite(layer)
        return white.convert("RGB")
    return image.convert("RGB")


@lru_cache(maxsize=1)
def _pillow() -> ModuleType:
    """Return Pillow's Image module, HEIF registered, its warnings of large pictures and broken metadata off."""
    from PIL import Image, PngImagePlugin

    Image.init()
    if importlib.util.find_spec("pillow_heif") is not None:  # without it HEIC is refused with what to install
        from pillow_heif import register_heif_opener

        register_heif_opener()
    warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
    warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
    logging.getLogger("PIL").addHandler(logging.NullHandler())  # what it says is in the PictureError
    PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY = TEXT_BYTES
    return Image


def _not_opened(stream: io.BufferedIOBase | BinaryIO, where: object, error: Exception) -> PictureError:
    stream.seek(0)
    head = stream.read(HEAD)
    if not head:
        return PictureError(where, PictureFault.TRUNCATED, "an empty file; fetch it again or drop the record")
    if foreign := foreign_kind(head):
        return PictureError(where, PictureFault.NOT_A_PICTURE, foreign)
    if head[4:8] == b"ftyp" and head[8:12] in HEIF_BRANDS and not _heif_is_there():
        return PictureError(where, PictureFault.NOT_A_PICTURE, "a HEIC picture; pip install pillow-heif to read it")
    if extension_of(head) == ".tif" and (unread := unread_tiff(stream)):
        return PictureError(where, PictureFault.NOT_A_PICTURE, unread)
    if extension_of(head) or any(head.startswith(mark) for mark in MAGIC):
        problem = f"the picture is damaged ({first_line(error)}); fetch it again or drop the record"
        return PictureError(where, PictureFault.TRUNCATED, problem)
    problem = f"not a picture: it begins with {head[:16]!r}; drop the record"
    return PictureError(where, PictureFault.NOT_A_PICTURE, problem)


def _heif_is_there() -> bool:
    return "HEIF" in _pillow().OPEN
