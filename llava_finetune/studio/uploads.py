"""Files that a browser brings, piece by piece, so that one of gigabytes takes a request of a few megabytes each.

receive(space, Piece(name="photos/a.jpg", offset=0, size=1000), data)      # the name that it got, or None so far
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from data_prep.converters.rows import FORMATS
from data_prep.files import sha256_of, write_problem
from data_prep.records.foreign import ENDINGS
from llava_finetune.errors import UserError
from llava_finetune.studio.refusals import Refused
from llava_finetune.studio.workspace import OWN, Workspace

PIECE_BYTES = 8_000_000
MOST_BYTES = 20_000_000_000
FORGOTTEN_SECONDS = 86_400
BESIDE = (".txt", ".caption")
ENDINGS_TAKEN = {*ENDINGS, *FORMATS, ".zip", *BESIDE}


@dataclass(frozen=True)
class Piece:
    """A part of a file: the file's name below the workspace, where the part begins, and the file's whole size."""

    name: str
    offset: int
    size: int


def receive(space: Workspace, piece: Piece, data: bytes) -> str | None:
    """Add a piece; return the file's name in the workspace once it is whole, else None.

    Raises UserError for names and kinds that are not taken, and a full disk.
    """
    space.require()
    target = target_of(space, piece.name)
    if not 0 <= piece.offset <= piece.size <= MOST_BYTES or piece.offset + len(data) > piece.size:
        raise Refused("too_large", name=piece.name, bytes=piece.size, most=MOST_BYTES)
    key = hashlib.sha256(f"{piece.name} {piece.size}".encode(errors="surrogatepass")).hexdigest()[:32]
    part = space.hidden / "uploads" / f"{key}.part"
    try:
        part.parent.mkdir(parents=True, exist_ok=True)
        if not piece.offset:
            _forget_old(part.parent)
            # Before gigabytes came, and others find no room; a file system that does not count says 0.
            if 0 < shutil.disk_usage(part.parent).free < piece.size:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        with part.open("r+b" if part.exists() and piece.offset else "wb") as file:
            file.seek(0, 2)
            if file.tell() < piece.offset:
                raise Refused("send_again", name=piece.name)
            file.seek(piece.offset)
            file.write(data)
            file.truncate()
        if piece.offset + len(data) < piece.size:
            return None
        target.parent.mkdir(parents=True, exist_ok=True)
        with space.locked():  # two files of one name at once: the second would take the place of the first
            return space.name_of(_placed(part, target))
    except OSError as error:
        with suppress(OSError):
            part.unlink()  # else a picture that never came whole keeps the disk full
        raise UserError(f"{piece.name[:200]}: {write_problem(error)}") from None


def _forget_old(folder: Path) -> None:
    """Delete what began to come and did not go on for a day."""
    for path in folder.glob("*.part"):
        with suppress(OSError):
            if time.time() - path.stat().st_mtime > FORGOTTEN_SECONDS:
                path.unlink()


def target_of(space: Workspace, name: str) -> Path:
    """Where an uploaded file shall lie: pictures without a folder among those of the rows, else in photos/.

    Nothing comes over a file of ours.
    """
    path = PurePosixPath(name.replace("\\", "/"))
    parts = [part for part in path.parts if part not in ("/", ".")]
    if not parts or ".." in parts or any(part.startswith(".") for part in parts):
        raise Refused("hidden", name=name)
    ending = PurePosixPath(parts[-1]).suffix.lower()
    if ending not in ENDINGS_TAKEN:
        raise Refused("left_out", name=parts[-1])
    if len(parts) == 1 and ending in {*ENDINGS, *BESIDE}:
        chosen = space.settings().get("images")
        parts = [chosen if isinstance(chosen, str) and chosen != "." else "photos", *parts]
    elif parts[0] in OWN:
        parts[0] = f"added-{parts[0]}"
    return space.below("/".join(parts))


def _placed(part: Path, target: Path) -> Path:
    """Put a whole file into its place: the same bytes once, other bytes of the same name beside it."""
    number = 2
    wanted = target
    while target.exists():
        if target.stat().st_size == part.stat().st_size and sha256_of(target) == sha256_of(part):
            part.unlink()
            return target
        target = wanted.with_name(f"{wanted.stem}-{number}{wanted.suffix}")
        number += 1
    return part.replace(target)
