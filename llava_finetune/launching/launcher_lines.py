"""What DeepSpeed's and torch's launchers say about themselves: it goes to the run's debug log, the ranks' lines go on.

lines = LauncherLines(Path("runs/a/debug.log"), sys.stderr.buffer)
lines.feed(b"[2026-11-30 05:30:16,755] [INFO] [launch.py:152:main] WORLD INFO DICT: ...\\n")     # to the log
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import BinaryIO, TextIO

from data_prep.files import without_waiting
from llava_finetune.screen import to_nowhere

OWN = re.compile(
    rb"\[\d{4}-\d\d-\d\d [\d:,]+\] \[(INFO|WARNING|ERROR)\] "  # DeepSpeed's logger, in its launcher and in the ranks
    rb"|[WIE]\d{4} [\d:.]+ +\d+ "  # torchrun's
    rb"|\*{20,}\s*$|Setting OMP_NUM_THREADS environment variable for each process"
    rb"|\[Gloo\] Rank |\[W\d{4} |\[rank\d+\]:\[W\d{4} "
)


def say(line: str, screen: TextIO) -> None:
    """Print a line of the launcher's own. A screen that is gone costs the line, never the run or its exit code."""
    try:
        print(line, file=screen, flush=True)
    except (OSError, ValueError):
        to_nowhere(screen)


class LauncherLines:
    """Sorts a launcher's output by line. `is_stopping`: a Ctrl-C has been sent, so its tracebacks are an echo of it."""

    def __init__(self, log: Path | None, screen: BinaryIO) -> None:
        self.log, self.screen = log, screen
        self.is_stopping = False
        self.is_lost = False
        self.in_traceback = False

    def feed(self, line: bytes) -> None:
        """Pass one line on, to the log where it is the launcher's own."""
        if self.log is not None and (self.is_lost or self._is_own(line)) and self._keep(line):
            return
        if self.is_lost:
            return
        try:
            self.screen.write(line)
            self.screen.flush()
        except (OSError, ValueError):  # a terminal that was closed, a reader that left: the run must not wait for it
            self.is_lost = True
            to_nowhere(self.screen)
            if self.log is not None:
                self._keep(line)

    def _is_own(self, line: bytes) -> bool:
        if self.in_traceback:
            self.in_traceback = line[:1] in b" \t\n"
            return True
        if self.is_stopping and line.startswith(b"Traceback (most recent call last)"):
            self.in_traceback = True
            return True
        return bool(OWN.match(line))

    def _keep(self, line: bytes) -> bool:
        assert self.log is not None
        if not self.log.parent.is_dir():  # a run that was refused leaves no folder behind
            return True
        try:
            with open(self.log, "ab", opener=without_waiting) as file:
                file.write(line)
        except OSError:
            return False
        return True
