"""The pictures of a data set: written below a folder under the hash of their bytes, by threads, while rows are read.

    store = PictureStore(Path("images"), "mix.parquet")
    store.picture({"bytes": b"...", "path": None})      # Picture("3f/3f9a...c2.jpg", None)

A picture that many rows share is written once, and a run that was killed goes on quickly.
"""

from __future__ import annotations

import base64
import hashlib
import itertools
import os
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote

import xxhash

from data_prep.converters.cells import local_name
from data_prep.converters.options import picture_problem
from data_prep.converters.rows import Row
from data_prep.errors import DataError
from data_prep.files import write_problem
from data_prep.hf.layouts import Layout, picture_cells
from data_prep.hf.parts import picture_in
from data_prep.hf.rows import fetched
from data_prep.records.near_names import near_name
from data_prep.records.output import Reason
from data_prep.records.picture import extension_of

CHUNK = 8
THREADS = 2
BINARY = getattr(os, "O_BINARY", 0)
LONGEST_NAME = 1024
"""Characters of a path or an address."""
SHORTEST_PICTURE = 80
"""Characters of base64 that may be a picture."""
FILE = "file://"
"""How Qwen's and ms-swift's messages begin a path."""
ARCHIVES = ("zip://", "tar://", "gzip://", "bz2://", "xz://", "zstd://", "lz4://")


class Picture(NamedTuple):
    """The name of a picture below the folder, or, with `problem`, the path that gave none ("" for bytes)."""

    name: str
    problem: Reason | None = None


def own_folder(source: str) -> Path | None:
    """Return the folder that relative paths of a data set begin in: the source, or where its file lies."""
    path = Path(source)
    return path if path.is_dir() else path.parent if path.exists() else None


def names_a_file(cell: Any, source: str) -> bool:
    """Say whether a picture's cell is a path, without bytes, to a file in the data set's own folder."""
    inside = picture_in(cell) if isinstance(cell, Mapping) else cell
    below = own_folder(source)
    if not isinstance(inside, str) or below is None or len(inside) >= LONGEST_NAME:
        return False
    names = _spellings(inside)
    return "://" not in names[0] and (any(_is_file(below / name) for name in names) or bool(near_name(below, names[0])))


def _spellings(path: str) -> list[str]:
    """Return the names that a path can mean, likeliest first: `file://` may stand before escapes or a plain name."""
    name = path.removeprefix(FILE)
    names = [name, unquote(name)] if path.startswith(FILE) else [name]
    return list(dict.fromkeys([*names, *(name.replace("\\", "/") for name in names)]))


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name too long, or one that is none
        return False


def embedded(text: str) -> bytes | None:
    """Return the picture that a text holds in base64, as a data address or bare; None for a path or an address.

    Raises ValueError for base64 that is broken.
    """
    head = text[:LONGEST_NAME]
    if head.startswith("data:"):
        kind, mark, text = text.partition(",")
        if not mark or not kind.endswith(";base64"):
            raise ValueError("a data address without base64")
    elif len(text) < SHORTEST_PICTURE or extension_of(_decoded_head(head)) is None:
        return None
    return base64.b64decode("".join(text.split()), validate=True)


def _decoded_head(text: str) -> bytes:
    try:
        return base64.b64decode(text[:24], validate=True)
    except ValueError:
        return b""


class PictureStore:
    """Writes pictures below a folder under the hash of their bytes; a picture already there is not written again."""

    def __init__(self, folder: Path, source: str, commit: str | None = None) -> None:
        """Keep the folder, and where the data set may name pictures: below its own folder, or its own hub address.

        `commit` is the state of a data set of the hub.
        """
        self.folder = folder
        self._below = own_folder(source)
        self._hub = f"hf://datasets/{source}"
        self._commit = commit
        self._root = os.path.realpath(folder)

    def picture(self, cell: Any) -> Picture:
        """Return the picture in a cell: bytes, {"bytes", "path"}, a path, an address, or base64 in a text."""
        inside = picture_in(cell) if isinstance(cell, Mapping) else cell
        if isinstance(inside, bytes):
            return self._save(inside, "")
        if not isinstance(inside, str) or not inside:
            return Picture("", Reason.IMAGE_UNREADABLE)
        shown = inside if len(inside) < LONGEST_NAME else f"{inside[:40]}..."
        try:
            raw = embedded(inside)
            if raw is not None:
                return self._save(raw, shown)
            if len(inside) >= LONGEST_NAME:
                return Picture(shown, Reason.IMAGE_UNREADABLE)
            names = _spellings(inside)
            return self._from_address(names[0]) if "://" in names[0] else self._from_disk(names)
        except ValueError:  # broken base64, or a name that the system has no words for
            return Picture(shown, Reason.IMAGE_UNREADABLE)

    def _from_address(self, address: str) -> Picture:
        """Fetch hf://datasets/OWNER/NAME... or zip://a.jpg::archive; a row must not name what is not its data set's."""
        if not self._is_own(address):
            if address.startswith(("http://", "https://")) and "::" not in address:
                saved = local_name(address, self.folder)
                if picture_problem(self.folder, saved) is None:
                    return Picture(saved)
            return Picture(address, Reason.IMAGE_OUTSIDE)
        try:
            return self._save(fetched(address), address)
        except FileNotFoundError:
            return Picture(address, Reason.IMAGE_MISSING)
        except OSError as error:
            raise DataError(address, f"cannot be fetched ({error}); the same command goes on from here") from None

    def _is_own(self, address: str) -> bool:
        """Say whether an address leads to the data set's own hub address or folder, through archives only."""
        *through, place = address.split("::")
        if ".." in address.split("/") or not all(one.startswith(ARCHIVES) for one in through):
            return False
        if "://" in place:
            return place.startswith((f"{self._hub}/", f"{self._hub}@"))
        return self._is_below(place)

    def _from_disk(self, names: Sequence[str]) -> Picture:
        """Return the picture of the first of the `names` that a path can mean that is there."""
        path = names[0]
        picture = Picture(path, Reason.IMAGE_MISSING)
        if self._below is None:
            found = (self._from_hub(name) for name in names)
            return next((one for one in found if one.problem is not Reason.IMAGE_MISSING), picture)
        places = (self._below, self.folder)
        for place, name in itertools.product(places, names):
            if not (at := self._at(place / name, name)).problem:
                return at
            picture = at if at.problem is Reason.IMAGE_OUTSIDE else picture
        # In another spelling: another case, another Unicode form.
        near = next(((place, file) for place in places if (file := near_name(place, path))), None)
        return self._at(near[0] / near[1], path) if near else picture

    def _at(self, place: Path, path: str) -> Picture:
        """Return the picture in a file, named where it lies below the folder, else copied there."""
        real = os.path.realpath(place)
        referenced = real.startswith(self._root + os.sep)
        if not (referenced or self._is_below(real)):
            return Picture(path, Reason.IMAGE_OUTSIDE)
        if not os.path.isfile(real):  # noqa: PTH113
            return Picture(path, Reason.IMAGE_MISSING)
        if referenced:
            return Picture(Path(real).relative_to(self._root).as_posix())
        return self._save(Path(real).read_bytes(), path)

    def _from_hub(self, path: str) -> Picture:
        """Fetch a file that a row of the hub names by its path in the data set; rows elsewhere name none."""
        steps = path.split("/")
        if self._commit is None or path.startswith("/") or ".." in steps or "\0" in path:
            return Picture(path, Reason.IMAGE_OUTSIDE)
        return self._from_address(f"{self._hub}@{self._commit}/{path.removeprefix('./')}")

    def _is_below(self, path: str) -> bool:
        return self._below is not None and Path(os.path.realpath(path)).is_relative_to(os.path.realpath(self._below))

    def _save(self, raw: bytes, path: str) -> Picture:
        extension = extension_of(raw[:16])
        if extension is None:
            return Picture(path, Reason.IMAGE_UNREADABLE)
        for hashed in (xxhash.xxh3_128_hexdigest, _sha256):  # the first is 25 times as fast
            digest = hashed(raw)
            name = f"{digest[:2]}/{digest}{extension}"
            if _write(f"{self.folder}/{name}", raw):
                return Picture(name)
        raise DataError(self.folder / name, "other bytes stand under this picture's name; delete the file")


def _sha256(raw: bytes) -> str:
    return hashlib.sha256(raw).hexdigest()


def _write(path: str, raw: bytes) -> bool:
    """Write a picture that is not there yet; return False where other bytes are.

    No rename from another name: a process that was killed leaves the first bytes. Others are a picture that somebody
    made to have the same hash, or what a power failure left.
    """
    try:
        try:
            file = _create(path)
        except FileExistsError:
            with open(path, "rb") as stream:  # noqa: PTH123
                there = stream.read(len(raw) + 1)
            if there == raw or not raw.startswith(there):
                return there == raw
            file = os.open(path, os.O_WRONLY | os.O_TRUNC | BINARY)
        left = memoryview(raw)
        try:
            while left:  # a disk that fills takes a part of the bytes before it says so
                left = left[os.write(file, left) :]
        finally:
            os.close(file)  # first: Windows removes no open file
            if left:
                os.unlink(path)  # noqa: PTH108
        return True
    except OSError as error:
        raise DataError(path, write_problem(error)) from None


def _create(path: str) -> int:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | BINARY
    try:
        return os.open(path, flags, 0o666)
    except FileNotFoundError:
        os.makedirs(os.path.dirname(path), exist_ok=True)  # noqa: PTH103, PTH120
        return os.open(path, flags, 0o666)


def with_pictures(
    rows: Iterable[tuple[int, Row]], layout: Layout, store: PictureStore, threads: int
) -> Iterator[tuple[int, Row, list[Picture]]]:
    """Yield (row number, row, its pictures) in order, those of the rows ahead being written by threads meanwhile."""
    if not threads:
        for number, row in rows:
            yield number, row, [store.picture(cell) for cell in picture_cells(row, layout)]
        return
    numbered = iter(rows)
    ahead: deque[tuple[list[tuple[int, Row]], Future[list[list[Picture]]]]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        while chunk := list(itertools.islice(numbered, CHUNK)):
            cells = [picture_cells(row, layout) for _, row in chunk]
            ahead.append((chunk, pool.submit(_store_all, store, cells)))
            if len(ahead) > threads:
                yield from _joined(*ahead.popleft())
        while ahead:
            yield from _joined(*ahead.popleft())


def _store_all(store: PictureStore, cells: Sequence[Sequence[Any]]) -> list[list[Picture]]:
    return [[store.picture(cell) for cell in row] for row in cells]


def _joined(
    chunk: Sequence[tuple[int, Row]], found: Future[list[list[Picture]]]
) -> Iterator[tuple[int, Row, list[Picture]]]:
    for (number, row), pictures in zip(chunk, found.result(), strict=True):
        yield number, row, pictures
