"""The Python files of any commit of a git directory, read without a checkout.

with History(Path("LLaVA.git")) as history:
    for commit in history.commits((), limit=50):
        files = history.files(commit)
"""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

PACKAGE = re.compile(r"^(?P<root>(?:[^\n]*/)?)llava/")
SECONDS = 120


class SurveyError(Exception):
    """The git directory or a commit of it cannot be read; the message says what to do."""


@dataclass(frozen=True)
class Commit:
    """One commit: its full name, its day and the first line of its message."""

    name: str
    day: str
    subject: str


@dataclass
class History:
    """A git directory, bare or with a work tree. What one commit shares with another is read once."""

    repository: Path
    _blobs: dict[str, bytes] = field(default_factory=dict)
    _reader: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> History:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._reader is not None:
            self._reader.terminate()
            self._reader.communicate()

    def commits(self, revisions: tuple[str, ...], limit: int) -> tuple[list[Commit], int]:
        """The newest `limit` commits to judge, and how many there are: `revisions` (names, or ranges such as a..b).

        Without revisions: every commit on any branch or tag that changes a Python file. Raises SurveyError.
        """
        form = "--format=%H%x1f%cs%x1f%s"
        if not revisions:
            lines = self._git("log", "--all", form, "--", "*.py").splitlines()
        elif any(".." in revision for revision in revisions):
            lines = self._git("log", form, *revisions, "--", "*.py").splitlines()
        else:
            lines = self._git("log", "--no-walk=unsorted", form, *revisions, "--").splitlines()
        commits = [Commit(*line.split("\x1f", 2)) for line in lines]
        return commits[:limit], len(commits)

    def blobs(self, commit: Commit) -> dict[str, str]:
        """`llava/...` to the name of its blob, for every Python file of the package, wherever it is in the tree."""
        entries = {}
        for line in self._git("ls-tree", "-r", "-z", commit.name).split("\0"):
            head, _, path = line.partition("\t")
            if path.endswith(".py") and head.split()[1:2] == ["blob"]:
                entries[path] = head.split()[2]
        homes = [PACKAGE.match(path) for path in entries if path.endswith("llava/__init__.py")]
        roots = {home["root"] for home in homes if home}
        if not roots:
            return {}
        root = min(roots, key=len)
        return {path.removeprefix(root): blob for path, blob in entries.items() if path.startswith(f"{root}llava/")}

    def read(self, blob: str) -> bytes:
        """A blob's bytes. Raises SurveyError when the repository lacks it, as a partial clone may."""
        if blob not in self._blobs:
            self._blobs[blob] = self._read(blob)
        return self._blobs[blob]

    def _read(self, blob: str) -> bytes:
        if self._reader is None:
            command = ["git", "-C", str(self.repository), "cat-file", "--batch"]
            self._reader = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=_environment()
            )
        given, answered = self._reader.stdin, self._reader.stdout
        assert given is not None and answered is not None
        given.write(f"{blob}\n".encode())
        given.flush()
        words = answered.readline().split()
        if len(words) != 3:
            raise SurveyError(
                f"{self.repository}: the file {blob[:12]} is not in it, as in a partial clone; run: git fetch --refetch"
            )
        content = answered.read(int(words[2]))
        answered.read(1)
        return content

    def _git(self, *arguments: str) -> str:
        command = ["git", "-C", str(self.repository), *arguments]
        try:
            done = subprocess.run(command, capture_output=True, timeout=SECONDS, env=_environment(), check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise SurveyError(f"{self.repository}: git cannot be run there ({error})") from None
        if done.returncode:
            reason = done.stderr.decode(errors="replace").strip().splitlines()[:1]
            raise SurveyError(
                f"{self.repository}: git {arguments[0]}: {' '.join(reason) or 'failed'}; "
                "give a git directory, and names of commits, branches or tags that it has"
            )
        return done.stdout.decode(errors="replace")


def _environment() -> dict[str, str]:
    """Nothing is asked and nothing is fetched."""
    return {**os.environ, "GIT_TERMINAL_PROMPT": "0", "GIT_NO_LAZY_FETCH": "1", "LC_ALL": "C"}
