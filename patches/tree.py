"""The patched tree on disk: written beside the old one, then swapped in by one atomic rename of a symbolic link.

build/patched/llava is a link to build/patched/.llava-<hash>-<random>. A process killed at any point leaves the old tree
or the new one, never a mix. One writer at a time holds build/patched/.lock.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

LOCK_SECONDS = 60.0


class TreeError(Exception):
    """The tree cannot be written; the message says why and that the old tree stands."""


def digest_of(files: Mapping[str, bytes]) -> str:
    """One SHA-256 over names and bytes."""
    digest = hashlib.sha256()
    for name, content in sorted(files.items()):
        digest.update(name.encode() + b"\0" + hashlib.sha256(content).digest())
    return digest.hexdigest()


@contextlib.contextmanager
def locked(output: Path, wait: float = LOCK_SECONDS) -> Iterator[None]:
    """Hold the folder's lock; the kernel drops it when the process dies. Raises TreeError after `wait` seconds."""
    with _explained(output):
        output.mkdir(parents=True, exist_ok=True)
        handle = (output / ".lock").open("a+")
    with handle:
        end = time.monotonic() + wait
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > end:
                    raise TreeError(
                        f"{output}: another `python -m patches` has held the lock for {wait:g} s; wait for it, "
                        "or look for it with: ps -ef | grep patches"
                    ) from None
                time.sleep(0.05)
        yield


def write_tree(output: Path, files: Mapping[str, bytes]) -> bool:
    """Make output/llava hold exactly `files` (keys `llava/...`); True when something was written. Needs the lock."""
    link = output / "llava"
    if link.is_symlink() and read_tree(output) == dict(files):
        _remove_others(output, link)
        return False
    if link.exists() and not link.is_symlink():
        raise TreeError(
            f"{link} is a folder that this tool did not write; move it away, then run: python -m patches apply"
        )
    with _explained(output):
        fresh = Path(tempfile.mkdtemp(prefix=f".llava-{digest_of(files)[:12]}-", dir=output))
        try:
            fresh.chmod(0o755)
            for name, content in files.items():
                write_file(fresh / Path(name).relative_to("llava"), content)
            _point(link, fresh)
        except BaseException:
            shutil.rmtree(fresh, ignore_errors=True)
            raise
    _remove_others(output, link)
    return True


def write_file(path: Path, content: bytes) -> None:
    """One file. No fsync: after a power cut the stamp's sums tell a damaged tree; write it again."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def _point(link: Path, target: Path) -> None:
    new = link.with_name(f"{target.name}.link")
    new.symlink_to(target.name)
    new.replace(link)


def _remove_others(output: Path, link: Path) -> None:
    """Trees that nothing points at: older ones, and what a killed process left."""
    current = link.readlink().name if link.is_symlink() else ""
    for path in output.glob(".llava-*"):
        if path.is_symlink():
            path.unlink()
        elif path.name != current:
            shutil.rmtree(path, ignore_errors=True)


def read_tree(output: Path) -> dict[str, bytes]:
    """What output/llava holds: .py files and the stamp."""
    folder = output / "llava"
    paths = sorted(path for path in folder.rglob("*") if path.suffix in (".py", ".json"))
    return {f"llava/{path.relative_to(folder).as_posix()}": path.read_bytes() for path in paths}


def remove_tree(output: Path) -> bool:
    """Remove output/llava and everything this tool wrote there. True when there was something. Needs the lock."""
    link = output / "llava"
    if link.exists() and not link.is_symlink():
        raise TreeError(f"{link} is a folder that this tool did not write; remove it yourself")
    found = link.is_symlink()
    with _explained(output):
        link.unlink(missing_ok=True)
    _remove_others(output, link)
    return found


@contextlib.contextmanager
def _explained(output: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise TreeError(
            f"{output}: cannot be written ({error.strerror or error}); the tree that was there stands as it was. "
            "Make room or give write permission, then run: python -m patches apply"
        ) from error
