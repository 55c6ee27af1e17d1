"""One run, one folder: a lock in OUTPUT that says who writes there, known for stale when nobody does any more.

The lock is a file that names host, process and start. On its own host a dead process is seen at once. From another
host of a shared file system only the file is seen: its owner touches it every few seconds, and a lock that nobody
touches while it is watched is stale, whatever the two hosts' clocks say.

    with run_lock(Path("runs/mine"), print):
        ...
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import psutil

from data_prep.files import without_waiting
from llava_finetune.errors import UserError
from llava_finetune.saved.documents import read_document
from llava_finetune.saved.model_documents import Count

NAME = ".run.lock"
TOUCH_SECONDS = 5.0
LONGEST = 4096
"""Bytes of a lock that are compared."""
WATCH_SECONDS = 60.0
"""A shared file system may show a touch half a minute late (NFS keeps attributes that long)."""


class Owner(msgspec.Struct):
    """Who holds a lock: `space` tells containers of one host name apart, `started` a process from a later one."""

    host: str
    space: str
    process: Count
    started: float


@contextmanager
def run_lock(output: Path, say: Callable[[str], None] = print) -> Iterator[None]:
    """Hold the folder's lock inside the block. Raises UserError where another run holds it."""
    made = [folder for folder in (output, *output.parents) if not folder.exists()]
    output.mkdir(parents=True, exist_ok=True)
    lock, own = output / NAME, _own_file(output)
    try:
        while not _taken(own, lock):
            seen = _content(lock)
            _require_stale(lock, output, say)
            _remove_stale(lock, seen)
        mine = _content(lock)
        own.unlink(missing_ok=True)  # the lock stays: a run that is killed leaves nothing else
        ended = threading.Event()
        threading.Thread(target=_touch, args=(lock, ended), daemon=True).start()
        try:
            yield
        finally:
            ended.set()
            if _content(lock) == mine:  # a run that stood still may have lost it to another
                lock.unlink(missing_ok=True)
    finally:
        own.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # there is something in it now
            for folder in made:
                folder.rmdir()


def _own_file(output: Path) -> Path:
    """Write this process's claim beside the lock; a link to it, which only one can make, is the lock."""
    path = output / f"{NAME}.{socket.gethostname()[:60]}.{os.getpid()}"
    path.write_text(json.dumps(msgspec.to_builtins(_myself())), encoding="utf-8")
    return path


def _myself() -> Owner:
    process = psutil.Process()
    return Owner(socket.gethostname(), _space(), process.pid, process.create_time())


def _space() -> str:
    """The start of this system and the process namespace, in which a process id means something."""
    with contextlib.suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"  # noqa: PTH115 (no path)
    return socket.gethostname()


def _taken(own: Path, lock: Path) -> bool:
    """Make the file `own` the lock too, unless there is one."""
    try:
        os.link(own, lock)
    except FileExistsError:
        return False
    except OSError:  # a file system without links
        try:
            with lock.open("x", encoding="utf-8") as stream:
                stream.write(own.read_text(encoding="utf-8"))
        except FileExistsError:
            return False
    return True


def _require_stale(lock: Path, output: Path, say: Callable[[str], None]) -> None:
    """Return when the lock's owner is gone. Raises UserError when it is alive."""
    owner = _owner_of(lock)
    if owner is None:
        who, alive = "an unreadable lock", _is_touched(lock)
    elif owner.space == _space():
        who, alive = f"process {owner.process}", _is_alive(owner)
    else:
        who = f"process {owner.process} on {owner.host}"
        say(f"{lock}: held by {who}; watching for up to {WATCH_SECONDS:.0f} s whether it is alive")
        alive = _is_touched(lock)
    if alive:
        raise UserError(
            f"{output} is being written by another run ({who}): wait for it, stop it, or choose another --output_dir"
        )


def _owner_of(lock: Path) -> Owner | None:
    try:
        return msgspec.convert(read_document(lock, Owner), Owner)
    except UserError:
        return None


def _is_alive(owner: Owner) -> bool:
    try:
        return bool(abs(psutil.Process(owner.process).create_time() - owner.started) < 2)
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:
        return True


def _is_touched(lock: Path) -> bool:
    """Whether somebody touches the lock while it is watched."""
    before, end = _state(lock), time.monotonic() + WATCH_SECONDS
    while time.monotonic() < end:
        time.sleep(min(1.0, WATCH_SECONDS / 10))
        if _state(lock) != before:
            return True
    return False


def _state(lock: Path) -> Any:
    try:
        # Opened anew: a shared file system looks again then.
        with open(lock, "rb", opener=without_waiting) as stream:
            return os.fstat(stream.fileno()).st_mtime_ns
    except OSError:
        return None


def _content(lock: Path) -> bytes | None:
    """What tells one lock from the next that stands in its place; None where there is none."""
    try:
        with open(lock, "rb", opener=without_waiting) as stream:
            return stream.read(LONGEST)
    except OSError:
        return None


def _remove_stale(lock: Path, seen: bytes | None) -> None:
    """Move the lock that was `seen` stale away; of several that saw it one does, and the others look again.

    Between the look and the move another may have done so and taken the folder: that one's lock is put back.
    """
    aside = lock.with_name(f"{NAME}.stale.{socket.gethostname()[:60]}.{os.getpid()}")
    try:
        lock.rename(aside)
    except FileNotFoundError:
        return
    try:
        if seen is not None and _content(aside) != seen:
            _taken(aside, lock)
    finally:
        aside.unlink(missing_ok=True)


def _touch(lock: Path, ended: threading.Event) -> None:
    while not ended.wait(TOUCH_SECONDS):
        with contextlib.suppress(OSError):
            os.utime(lock)
