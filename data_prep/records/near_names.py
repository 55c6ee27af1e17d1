"""Names of pictures that are not there, and the files that they most likely mean.

Backslashes and drive letters of Windows, another case of letters, another Unicode form, another ending, escapes of web
addresses, an absolute path of another machine, or the image folder's own name in front:

    near_names("photos", ["sub\\\\e.jpg", "C:\\\\Users\\\\me\\\\photos\\\\c.jpg", "d.JPG", "gone.jpg"])
    # {"sub\\\\e.jpg": "sub/e.jpg", "C:\\\\...c.jpg": "c.jpg", "d.JPG": "d.jpg"}

A name is given a file only where one file alone fits, and no other missing name of another place means the same.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote

from data_prep.errors import PictureError
from data_prep.records.foreign import ENDINGS
from data_prep.records.names import resolve_image, same_name

DRIVE = re.compile(r"^[A-Za-z]:(?=[\\/])")
SCHEME = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]*://")
AROUND = " \t\r\n\"'\ufeff\u200b\u200e\u200f\u00a0"
"""What spreadsheets, shells and copied texts leave around a name."""

LONGEST = 1024
"""Characters of a name beyond which nothing is looked for."""

Files = Mapping[str, list[str]]


class _Meant(NamedTuple):
    """A file below the folder, and the path that asked for it, as a key without its ending."""

    file: str
    path: str


def near_names(folder: str | os.PathLike[str], missing: Iterable[str]) -> dict[str, str]:
    """Return, for each name that no file in `folder` has, the name of the one file that it most likely means."""
    names = [name for name in missing if 0 < len(name) <= LONGEST]
    if not names:
        return {}
    root = os.fspath(folder)
    files = _files_below(root)
    found = {name: meant for name in names if (meant := _meant(root, name, files)) and _opens(root, meant.file)}
    asked: dict[str, set[str]] = defaultdict(set)
    for meant in found.values():
        asked[meant.file].add(meant.path)
    return {name: meant.file for name, meant in found.items() if _are_one(asked[meant.file])}


def near_name(folder: str | os.PathLike[str], name: str) -> str | None:
    """Return the file that one missing `name` means, for converters, which see one row and no other: never by guess."""
    root = os.fspath(folder)
    if not (0 < len(name) <= LONGEST and os.path.isdir(root)):  # noqa: PTH112
        return None
    meant = _meant(root, name, _listed(root, os.stat(root).st_mtime_ns), from_elsewhere=False)  # noqa: PTH116
    return meant.file if meant and _opens(root, meant.file) else None


@lru_cache(maxsize=4)
def _listed(folder: str, state: int) -> Files:
    """Return the files below a folder, kept for as long as its `state`, the time of its last change, is the same."""
    return _files_below(folder)


def _are_one(paths: set[str]) -> bool:
    """Say whether paths can be the same one, written from different folders: each ends the longest."""
    longest = max(paths, key=len)
    return all(f"/{longest}".endswith(f"/{path}") for path in paths)


def near_file(path: str | os.PathLike[str]) -> str | None:
    """Return the file beside a missing `path` that it most likely means, or None."""
    folder, name = os.path.split(os.fspath(path))
    files = _fitting(_key(name), _files_below(folder or os.curdir, deep=False))
    return os.path.join(folder, files[0]) if len(files) == 1 else None  # noqa: PTH118


def _files_below(folder: str, deep: bool = True) -> Files:
    """Return the files below a folder by their key, pictures also by their key without its ending."""
    files: dict[str, list[str]] = defaultdict(list)
    for place, folders, names in os.walk(folder):
        below = os.path.relpath(place, folder).replace(os.sep, "/")
        for name in names:
            file = name if below == "." else f"{below}/{name}"
            key = _key(file)
            files[key].append(file)
            stem, ending = os.path.splitext(key)  # noqa: PTH122
            if ending in ENDINGS:
                files[stem].append(file)
        if not deep:
            folders.clear()
    return files


def _meant(folder: str, name: str, files: Files, from_elsewhere: bool = True) -> _Meant | None:
    """Return the one file that `name` means: the longest end of its path that one file has.

    `from_elsewhere`: a path of another machine may lose any of its folders, else those down to the image folder's name.
    """
    own = _key(os.path.basename(os.path.abspath(folder)))  # noqa: PTH100, PTH119
    has_place = from_elsewhere and _has_place(name)
    for spelled in dict.fromkeys(_spellings(_bare(name))):
        parts = [part for part in same_name(spelled).split("/") if part not in ("", ".", "..")]
        for start in range(len(parts)):
            if start and not (has_place or _key(parts[start - 1]) == own):
                continue
            fitting = _fitting(_key("/".join(parts[start:])), files)
            if fitting:
                path = os.path.splitext(_key("/".join(parts)))[0]  # noqa: PTH122
                return _Meant(fitting[0], path) if len(fitting) == 1 else None
    return None


def _has_place(name: str) -> bool:
    return bool(DRIVE.match(name) or SCHEME.match(name)) or name.startswith(("/", "\\", "~")) or ".." in name


def _fitting(key: str, files: Files) -> list[str]:
    """Return the files of a key; where there is none, pictures that differ in their ending alone."""
    stem, ending = os.path.splitext(key)  # noqa: PTH122
    return list(dict.fromkeys(files.get(key) or files.get(stem if ending in ENDINGS else key) or ()))


def _spellings(name: str) -> Iterator[str]:
    """Yield a name, the name with the escapes of addresses undone, and with UTF-8 that was read as Latin-1."""
    yield name
    yield unquote(name)
    for codec in ("cp1252", "latin-1"):
        try:
            yield name.encode(codec).decode("utf-8")
        except (UnicodeEncodeError, UnicodeDecodeError):
            continue


def _bare(name: str) -> str:
    """Return a name without what stands around it, scheme and query of an address, drive letter."""
    text = name.strip(AROUND)
    if SCHEME.match(text):
        text = SCHEME.sub("/", text).partition("?")[0]
    return DRIVE.sub("", text)


@lru_cache(maxsize=1 << 16)
def _key(name: str) -> str:
    """Return what spellings of one name have in common: Unicode form and case do not count, nor .jpeg against .jpg."""
    folded = unicodedata.normalize("NFC", same_name(name).casefold()).strip(AROUND)
    stem, ending = os.path.splitext(folded)  # noqa: PTH122
    return stem + ENDINGS.get(ending, ending)


def _opens(folder: str, name: str) -> bool:
    try:
        return Path(resolve_image(folder, name)).is_file()
    except (PictureError, OSError):
        return False
