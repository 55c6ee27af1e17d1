"""The screen shows what we print. What other libraries print goes to a debug log, and with --debug to the screen too.

The module whose code writes tells them apart: warnings, loggers and progress bars of other libraries write through
their own frames. In a training also what native code writes past Python is caught, by the file descriptors.

    with routed("evaluate", debug=False):
        ...
        debug_to(output / "debug.log")        # where it is kept; else in the cache folder, as evaluate.log
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from data_prep.files import without_waiting
from llava_finetune.machine import cache_folder

OURS = frozenset({"llava_finetune", "data_prep", "patches", "scripts", "tests", "__main__"})
"""Top packages whose output is the user's."""
SPEAKERS = frozenset({"argparse", "threading"})
"""Modules that speak for us: usage errors, and the traceback of a thread."""
THROUGH = frozenset({"json", "traceback", "pprint", "textwrap", "csv", "shutil", "runpy", "contextlib", "codecs"})
"""Modules that write what their caller gives them."""
NAME = "debug.log"
_log: DebugLog | None = None


class DebugLog:
    """The file that other libraries' output goes to; kept in memory until its place is known."""

    def __init__(self) -> None:
        self.kept: list[str] = []
        self.file: TextIO | None = None
        self.descriptors: dict[int, int] = {}

    def write(self, text: str) -> None:
        """Keep a piece of output. A disk that is full costs the log, never the run."""
        if self.file is None:
            self.kept.append(text)
            return
        with contextlib.suppress(OSError, ValueError):
            self.file.write(text)
            self.file.flush()

    def open(self, path: Path) -> None:
        """Go on in this file, with what was kept so far."""
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            self.file = open(path, "a", encoding="utf-8", errors="replace", opener=without_waiting)  # noqa: SIM115
            kept, self.kept = self.kept, []
            self.write("".join(kept))

    def take(self, number: int) -> TextIO:
        """Turn a descriptor to the log; what it was, as a stream."""
        assert self.file is not None
        self.descriptors[number] = os.dup(number)
        os.dup2(self.file.fileno(), number)
        return os.fdopen(os.dup(self.descriptors[number]), "w", buffering=1, encoding="utf-8", errors="replace")

    def give_back(self) -> None:
        """Turn the descriptors back."""
        for number, kept in self.descriptors.items():
            os.dup2(kept, number)
            os.close(kept)
        self.descriptors.clear()


class Routed:
    """A text stream in the place of sys.stdout or sys.stderr."""

    def __init__(self, screen: TextIO, log: DebugLog, debug: bool) -> None:
        self.screen, self.log, self.debug = screen, log, debug
        self.outlives = False
        """Whether the command goes on where its screen is gone: a training does, a table for `head` does not."""
        self.is_lost = False
        self.unseen = ""
        """What was written since the last line that is known to be on the screen."""

    def write(self, text: str) -> int:
        """Write to the screen what is ours, and the rest to the log."""
        if is_ours():
            return self._show(text)
        self.log.write(text)
        if self.debug:
            self._show(text)
        return len(text)

    def _show(self, text: str) -> int:
        if not self.outlives:
            return self.screen.write(text)
        if self.is_lost:
            self.log.write(text)
            return len(text)
        self.unseen += text
        try:
            self.screen.write(text)
        except OSError:
            self._lose()
        else:
            if "\n" in text:
                self.flush()
        return len(text)

    def _lose(self) -> None:
        """Go on without a screen, a terminal that was closed or a reader that left: its lines go to the log."""
        self.is_lost, self.debug = True, False
        self.log.write(self.unseen)
        to_nowhere(self.screen)

    def writelines(self, lines: Any) -> None:
        """As a file's."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """As a file's."""
        try:
            self.screen.flush()
            self.unseen = ""
        except OSError:
            if not self.outlives:
                raise
            if not self.is_lost:
                self._lose()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.screen, name)


def is_ours() -> bool:
    """Whether the code that is just writing is ours; the interpreter's own last words are shown too."""
    frame: Any = sys._getframe(2)
    while frame is not None:
        top = str(frame.f_globals.get("__name__", "")).partition(".")[0]
        if top == "tqdm":
            return sys.__stderr__ is not None and sys.__stderr__.isatty() and _downloads(frame)
        if top not in THROUGH:
            return top in OURS or top in SPEAKERS
        frame = frame.f_back
    return True


def _downloads(frame: Any) -> bool:
    """Whether a progress bar is that of a download, which takes minutes that nothing else explains."""
    while frame is not None:
        if str(frame.f_globals.get("__name__", "")).startswith("huggingface_hub"):
            return True
        frame = frame.f_back
    return False


@contextlib.contextmanager
def routed(command: str, debug: bool = False) -> Iterator[None]:
    """Route the output of a command. What was kept and has no place of its own goes to the cache folder at the end."""
    global _log
    if _log is not None:  # a command within a command
        yield
        return
    log, before = DebugLog(), (sys.stdout, sys.stderr)
    _log = log
    for stream in before:
        if isinstance(stream, io.TextIOWrapper):  # a name of a file need not be text in the screen's encoding
            stream.reconfigure(errors="backslashreplace")
    sys.stdout, sys.stderr = (Routed(stream, log, debug) for stream in before)
    try:
        yield
    finally:
        _log = None
        log.give_back()
        for stream in before:
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        if isinstance(sys.stdout, Routed) and sys.stdout.log is log:
            sys.stdout, sys.stderr = before
        if log.kept:
            with contextlib.suppress(OSError, RuntimeError):  # no home, or one that cannot be written
                path = cache_folder("debug") / f"{command}.log"
                path.unlink(missing_ok=True)
                log.open(path)


def debug_to(path: Path, native: bool = False) -> None:
    """Keep the log in this file from now on.

    `native`, of a training: also what C code writes to the descriptors 1 and 2; and a screen that goes ends nothing.
    """
    if _log is None:
        return
    _log.open(path)
    if not native:
        return
    for number, stream in ((1, sys.stdout), (2, sys.stderr)):
        if isinstance(stream, Routed):
            stream.outlives = True
        if _log.file is None:
            continue
        if isinstance(stream, Routed) and not stream.debug and _descriptor(stream.screen) == number:
            stream.screen.flush()
            stream.screen = _log.take(number)


def note(line: str) -> None:
    """Write a line to the debug log alone."""
    if _log is not None:
        _log.write(f"{line}\n")


def to_nowhere(stream: Any) -> None:
    """Turn a stream whose reader is gone to /dev/null: what it still buffers must find an end at exit, too.

    One that is closed, or that has no descriptor, stays as it is.
    """
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        try:
            os.dup2(nowhere, stream.fileno())
        finally:
            os.close(nowhere)


def _descriptor(stream: TextIO) -> int | None:
    try:
        return stream.fileno()
    except (OSError, ValueError):
        return None
