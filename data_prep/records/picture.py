"""The one door for pictures: name -> path inside the folder -> RGB picture, the same for checks and for training.

    image = open_image(resolve_image("images", "holiday/IMG_1.HEIC"))

It reads JPEG, PNG, WebP, AVIF, HEIC, GIF (first frame), TIFF, BMP, PPM and JPEG 2000; applies the EXIF orientation;
scales 16-bit greys (Pillow alone turns them white); lays transparent pictures on white (Pillow alone shows whatever
colour is under the transparency); and refuses pictures too large to be meant (MAX_PIXELS) before decoding them.
"""

from __future__ import annotations

import importlib.util
import io
import os
import stat
import warnings
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from data_prep.errors import PictureError, PictureFault

if TYPE_CHECKING:
    from PIL import Image

MAX_PIXELS = 89_478_485
"""Pixels above which a picture is refused: Pillow's own limit, a quarter of a gigabyte as RGB."""

FORMATS = (
    "JPEG", "PNG", "WEBP", "GIF", "AVIF", "HEIF", "TIFF", "BMP", "DIB", "PPM", "JPEG2000",
)  # fmt: skip
"""What is read. Others that Pillow knows (EPS runs Ghostscript, for one) are refused."""

ORIENTATION = 0x0112


def resolve_image(folder: str | os.PathLike[str], name: str) -> Path:
    """Return the path of picture `name` in `folder`.

    Raises PictureError when the name is absolute, has `..`, or is a link that leads out of the folder: a records file
    from elsewhere must not make training read other files. Whether the picture exists is not looked at.
    """
    root = os.fspath(folder)
    if not name or name[0] in "/\\" or "\0" in name or ".." in name.split("/"):
        shown = "an absolute name" if name[:1] in {"/", "\\"} else "a name with .." if ".." in name else "an empty name"
        advice = "name pictures relative to the image folder"
        raise PictureError(name, PictureFault.OUTSIDE, f"{shown} leaves the image folder {root}; {advice}")
    path = f"{root}{os.sep}{name}"
    is_link = os.path.islink(path)  # noqa: PTH114  (strings: this runs once a picture in every pass)
    place = "" if os.path.isabs(root) else os.getcwd()  # noqa: PTH117, PTH109
    inside = os.path.realpath(path) if is_link else _real(path.rpartition(os.sep)[0], place)
    real_root = _real(root, place)
    if inside != real_root and not inside.startswith(real_root.rstrip(os.sep) + os.sep):
        advice = "copy it in, or name the folder that holds it as the image folder"
        raise PictureError(name, PictureFault.OUTSIDE, f"a link that leads out of the image folder {root}; {advice}")
    return Path(path)


@lru_cache(maxsize=4096)
def _real(folder: str, place: str) -> str:
    """Return the real path of a folder; `place` is the working folder that a relative one begins in."""
    return os.path.realpath(os.path.join(place, folder))  # noqa: PTH118


def open_image(path: str | os.PathLike[str], max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Return the picture at `path` as RGB, upright, first frame.

    Raises PictureError for a missing file, text or a web page named .jpg, a truncated or damaged picture, and one of
    more than `max_pixels` pixels.
    """
    try:
        with Path(path).open("rb") as stream:
            if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
                raise PictureError(path, PictureFault.NOT_A_PICTURE, "not a file")
            return decode(stream, path, max_pixels)
    except (FileNotFoundError, NotADirectoryError):
        advice = "put it there, correct the image folder, or drop the record"
        raise PictureError(path, PictureFault.MISSING, f"no such picture; {advice}") from None
    except OSError as error:
        reason = error.strerror or str(error)
        raise PictureError(path, PictureFault.UNREADABLE, f"cannot be read ({reason})") from None


def decode(stream: io.BufferedIOBase, where: object, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Return the picture in `stream` as `open_image` does; `where` is its name for messages."""
    image: Image.Image = open_lazily(stream, where, max_pixels)
    load(image, where)
    return upright_rgb(image)


def open_lazily(stream: io.BufferedIOBase, where: object, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Return Pillow's picture with its header read and its pixels not; raise PictureError as `open_image` does."""
    pillow = _pillow()
    try:
        image: Image.Image = pillow.open(stream, formats=FORMATS)
    except pillow.DecompressionBombError:
        raise PictureError(where, PictureFault.HUGE, _too_large(None, max_pixels)) from None
    except Exception as error:  # plugins raise anything on damaged headers
        raise _not_opened(stream, where, error) from None
    if image.width * image.height > max_pixels:
        size = image.size
        image.close()
        raise PictureError(where, PictureFault.HUGE, _too_large(size, max_pixels))
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
        raise PictureError(where, fault, f"{what} ({_first_line(error)}); {advice}") from None


def num_frames(image: Image.Image) -> int:
    """Return how many frames a picture has; the second picture of MPO is a preview, not a frame."""
    return int(getattr(image, "n_frames", 1)) if image.format != "MPO" else 1


def upright_rgb(image: Image.Image) -> Image.Image:
    """Return a decoded picture as RGB with its EXIF orientation applied."""
    if image.mode == "RGB" and not ("exif" in image.info or image.format in {"TIFF", "MPO"}):
        return image
    from PIL import ImageOps

    turned = image
    if image.getexif().get(ORIENTATION, 1) != 1:
        turned = ImageOps.exif_transpose(image)
    return _rgb(turned)


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB":
        return image
    if image.mode.startswith(("I", "F")):
        return _eight_bits(image).convert("RGB")
    if image.mode in {"RGBA", "LA", "PA", "La", "RGBa"} or "transparency" in image.info:
        layer = image.convert("RGBA")
        white: Image.Image = _pillow().new("RGBA", layer.size, (255, 255, 255, 255))
        white.alpha_composite(layer)
        return white.convert("RGB")
    return image.convert("RGB")


def _eight_bits(image: Image.Image) -> Image.Image:
    """Return a grey picture of 16 or 32 bits, or of floats, as 8 bits: full range to full range, never cut off."""
    wide = image.convert("F")
    if image.mode.startswith("I;16"):
        top = 65535.0
    else:
        high = float(wide.getextrema()[1])  # type: ignore[arg-type]
        limits = (1.0, 255.0, 65535.0) if image.mode == "F" else (255.0, 65535.0)
        top = next((limit for limit in limits if high <= limit), high)
    return wide.point(lambda value: value * (255.0 / top) + 0.0).convert("L")


@lru_cache(maxsize=1)
def _pillow() -> ModuleType:
    """Return Pillow's Image module, HEIF registered, the warning of large pictures off: here they are an error."""
    from PIL import Image

    Image.init()
    if importlib.util.find_spec("pillow_heif") is not None:  # without it HEIC is refused with what to install
        from pillow_heif import register_heif_opener

        register_heif_opener()
    warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
    return Image


def _too_large(size: tuple[int, int] | None, max_pixels: int) -> str:
    found = f"{size[0]} x {size[1]} pixels" if size else f"more than {2 * MAX_PIXELS:,} pixels"
    return f"{found}, more than the {max_pixels:,} allowed; make it smaller (LLaVA sees 336 to 1,344 pixels a side)"


def _not_opened(stream: io.BufferedIOBase, where: object, error: Exception) -> PictureError:
    stream.seek(0)
    head = stream.read(64)
    if not head:
        return PictureError(where, PictureFault.TRUNCATED, "an empty file; fetch it again or drop the record")
    if head.lstrip()[:9].lower().startswith((b"<!doctype", b"<html")):
        return PictureError(where, PictureFault.NOT_A_PICTURE, "a web page, not a picture; the download failed")
    if head.startswith(b"version https://git-lfs"):
        return PictureError(where, PictureFault.NOT_A_PICTURE, "a Git LFS pointer, not a picture; run git lfs pull")
    if head[4:8] == b"ftyp" and head[8:12] in {b"heic", b"heix", b"mif1", b"msf1"} and not _heif_is_there():
        return PictureError(where, PictureFault.NOT_A_PICTURE, "a HEIC picture; pip install pillow-heif to read it")
    if any(head.startswith(mark) for mark in MAGIC):
        problem = f"the picture is damaged ({_first_line(error)}); fetch it again or drop the record"
        return PictureError(where, PictureFault.TRUNCATED, problem)
    problem = f"not a picture: it begins with {head[:16]!r}; drop the record"
    return PictureError(where, PictureFault.NOT_A_PICTURE, problem)


MAGIC = {
    b"\xff\xd8\xff": ".jpg", b"\x89PNG\r\n\x1a\n": ".png", b"GIF8": ".gif", b"RIFF": ".webp", b"II*\0": ".tif",
    b"MM\0*": ".tif", b"BM": ".bmp", b"P5": ".ppm", b"P6": ".ppm", b"\0\0\0\x0cjP": ".jp2",
}  # fmt: skip
"""How the bytes of each kind of picture begin, and the extension that says so (AVIF and HEIC: see `extension_of`)."""


def extension_of(head: bytes) -> str | None:
    """Return the extension that the first bytes of a picture ask for, or None for bytes that are no known picture.

    >>> extension_of(b"\\xff\\xd8\\xff\\xe0")
    '.jpg'
    """
    if head[4:8] == b"ftyp":
        return ".avif" if head[8:12] in {b"avif", b"avis"} else ".heic"
    if head.startswith(b"RIFF") and head[8:12] != b"WEBP":
        return None
    return next((extension for mark, extension in MAGIC.items() if head.startswith(mark)), None)


def _heif_is_there() -> bool:
    return "HEIF" in _pillow().OPEN


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
