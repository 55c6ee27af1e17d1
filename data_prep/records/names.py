"""Names of pictures: which file a name means, and when two names mean the same.

resolve_image("images", "holiday/IMG_1.HEIC")       # Path("images/holiday/IMG_1.HEIC")
same_name("./a.jpg") == same_name("a.jpg")          # True
"""

from __future__ import annotations

import os
import unicodedata
from functools import lru_cache
from pathlib import Path

from data_prep.errors import PictureError, PictureFault, shortened

LONGEST_NAME = 4096
"""Bytes of a path beyond which no system opens it."""


def resolve_image(folder: str | os.PathLike[str], name: str) -> Path:
    """Return the path of picture `name` in `folder`.

    Raises PictureError when the name is absolute, has `..`, or is a link that leads out of the folder: a records file
    from elsewhere must not make training read other files; and for a name that no file can have. Whether the picture
    exists is not looked at.
    """
    root = os.fspath(folder)
    _require_possible(name)
    if not name or name[0] in "/\\" or ".." in name.split("/"):
        shown = "an absolute name" if name[:1] in {"/", "\\"} else "a name with .." if ".." in name else "an empty name"
        advice = "name pictures relative to the image folder"
        raise PictureError(name, PictureFault.OUTSIDE, f"{shown} leaves the image folder {root}; {advice}")
    path = f"{root}{os.sep}{name}"
    is_link = os.path.islink(path)  # noqa: PTH114  (strings: this runs once a picture in every pass)
    place = "" if os.path.isabs(root) else os.getcwd()  # noqa: PTH117, PTH109
    inside = os.path.realpath(path) if is_link else _real(path.rpartition(os.sep)[0], place)
    real_root = _real(root, place)
    is_inside = inside == real_root or inside.startswith(real_root.rstrip(os.sep) + os.sep)
    if not (is_inside or _is_in_hub_cache(inside, real_root)):
        advice = "copy the folder with what its links lead to (cp -rL FOLDER COPY) and name the copy"
        problem = f"a link that leads out of the image folder {root}, to {inside}; {advice}"
        raise PictureError(name, PictureFault.OUTSIDE, problem)
    return Path(path)


def _require_possible(name: str) -> None:
    """Raise PictureError for a name that no file can have: the system would answer with errors of its own kinds."""
    try:
        size = len(os.fsencode(name))
    except UnicodeEncodeError:
        problem = "no file can have this name: it holds half of a surrogate pair; write the name again"
        raise PictureError(shortened(name), PictureFault.MISSING, problem) from None
    if name.startswith("data:"):
        what = f"a picture itself (a data URL of {size:,} bytes), not the name of one"
        advice = "python -m data_prep hf RECORDS --output NEW.json --images FOLDER writes it to a file"
        problem = f"{what}; {advice}"
        raise PictureError(shortened(name), PictureFault.MISSING, problem)
    if "\0" in name:
        problem = "no file can have this name: it holds a NUL character; write the name again"
        raise PictureError(shortened(name), PictureFault.MISSING, problem)
    if size > LONGEST_NAME or any(len(os.fsencode(part)) > 255 for part in (name.split("/") if size > 255 else ())):
        problem = f"no file can have this name: it has {size:,} bytes; is it a text, or a picture itself?"
        raise PictureError(shortened(name), PictureFault.MISSING, problem)


def _is_in_hub_cache(inside: str, root: str) -> bool:
    """Say whether a link of a hub's cache leads to the same cache: snapshots/COMMIT/a.jpg -> blobs/HASH."""
    repository, snapshots, _ = f"{root}{os.sep}".partition(f"{os.sep}snapshots{os.sep}")
    return bool(snapshots) and inside.startswith(f"{repository}{os.sep}blobs{os.sep}")


@lru_cache(maxsize=4096)
def _real(folder: str, place: str) -> str:
    """Return the real path of a folder; `place` is the working folder that a relative one begins in."""
    return os.path.realpath(os.path.join(place, folder))  # noqa: PTH118


def same_name(name: str) -> str:
    """Return the one spelling of a picture's name: `./a.jpg`, `.//a.jpg`, `a.jpg` and their Unicode forms are one.

    >>> same_name(".//sub\\\\e.jpg")
    'sub/e.jpg'
    """
    if name.isascii() and "\\" not in name and "//" not in name and not name.startswith("./") and "/./" not in name:
        return name
    spelled = unicodedata.normalize("NFC", name.replace("\\", "/"))
    start = "/" if spelled.startswith("/") else ""
    return start + "/".join(part for part in spelled.split("/") if part not in ("", "."))
