"""Commands as processes of their own, and the truth about them from what lies on the disk.

A job is a folder: `command.json` (what was asked), `log` (what it said), `starting` and `pid` (its process and when
that began, as its parent and as it itself wrote it down), `step`
(which of its commands runs), `exit` (how it ended, blank before). The process is a session of its own: neither the
page nor the server nor a closed terminal ends it, and whoever looks later reads the same.

    job = start(workspace, "check", "Check the answers", [Step(("python", "-m", "data_prep", "check", ...))])
    look(job).state      # waiting | running | done | found | stopped | failed | killed
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from data_prep.errors import DataError
from data_prep.files import write_json
from llava_finetune import ROOT
from llava_finetune.errors import UserError
from llava_finetune.saved.documents import read_document
from llava_finetune.studio.alive import is_alive, members, started
from llava_finetune.studio.documents import CommandFile, ProcessFile
from llava_finetune.studio.refusals import Refused, said
from llava_finetune.studio.workspace import Workspace

BLANK = "          \n"
"""Content of `exit` before the end: the code is written over it, which a full disk does not hinder."""
BEGINNING_SECONDS = 20.0
"""How long a process may take to be written down."""
LOG_TAIL = 60_000
ROOM = 1 << 16
"""Bytes that must be free for a job to say anything."""
STOPPED_CODES = frozenset({75, 130, 143})
ENDED = frozenset({"done", "found", "stopped", "failed", "killed"})


@dataclass(frozen=True)
class Step:
    """One command: its words, variables before it, and the file that takes its output.

    After an exit code of `fine` the next step follows; one of `found` ends the job and is no failure.
    """

    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    stdout: str | None = None
    fine: tuple[int, ...] = (0,)
    found: tuple[int, ...] = ()

    @property
    def text(self) -> str:
        """The command as it can be pasted into a shell, in the workspace."""
        words = [f"{name}={shlex.quote(value)}" for name, value in self.env.items()]
        words += [shlex.quote(word) for word in self.argv]
        return " ".join([*words, *([">", shlex.quote(self.stdout)] if self.stdout else [])])


@dataclass(frozen=True)
class Job:
    """What was asked for, as command.json has it."""

    folder: Path
    kind: str
    title: str
    steps: tuple[Step, ...]
    made: str
    queued: bool = False
    about: Mapping[str, Any] = field(default_factory=dict)

    @property
    def id(self) -> str:
        """The folder's name; it begins with a number that grows."""
        return self.folder.name


Unless = Callable[[Job], "Refused | None"]
"""Says of a job that has not ended why another must not begin; None where it may."""


@dataclass(frozen=True)
class Look:
    """The truth about a job at one moment."""

    state: str
    code: int | None = None
    step: int = 0
    seconds: float = 0.0


def start(
    space: Workspace,
    kind: str,
    title: str,
    steps: Sequence[Step],
    *,
    queued: bool = False,
    unless: Unless | None = None,
    **about: Any,
) -> Job:
    """Start a job and return it; `queued` jobs run one after the other, in the order in which they were made.

    Raises DataError or OSError for a full disk, and the refusal of `unless`: nothing was started then. `unless` is
    given each job that has not ended, under the workspace's lock: two pages that click at once start one.
    """
    with space.locked():
        for other in jobs(space) if unless else []:
            if look(other).state not in ENDED and (refusal := unless(other) if unless else None):
                raise refusal
        folder = space.jobs / f"{_next_number(space):04d}-{kind}"
        job = Job(folder, kind, title, tuple(steps), datetime.now(timezone.utc).isoformat(), queued, about)
        try:
            _write_down(job)
        except (OSError, DataError):
            shutil.rmtree(folder, ignore_errors=True)  # what was never started is no job that broke off
            raise
        with (folder / "log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "llava_finetune.studio.runner", str(folder)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=space.folder,
                env=environment(),
                start_new_session=True,
            )
        _CHILDREN.append(process)
        with contextlib.suppress(DataError):  # a full disk: the job itself says so
            write_json(folder / "starting", {"pid": process.pid, "started": started(process.pid)})
    return job


def while_made(key: str, kind: str, name: str) -> Unless:
    """For `start`: refuses, by the text `key`, while a job of this kind is about this name."""

    def refusal(other: Job) -> Refused | None:
        is_this = (other.kind, other.about.get("name")) == (kind, name)
        return Refused(key, name=name) if is_this else None

    return refusal


def _write_down(job: Job) -> None:
    job.folder.mkdir(parents=True)
    value = {**asdict(job), "lines": [step.text for step in job.steps]}
    write_json(job.folder / "command.json", {name: one for name, one in value.items() if name != "folder"})
    (job.folder / "exit").write_text(BLANK, encoding="ascii")
    (job.folder / "log").touch()


_CHILDREN: list[subprocess.Popen[bytes]] = []
"""Those that this server started: they are waited for, so that none stays a zombie."""


def environment() -> dict[str, str]:
    """The variables of a command of ours: it finds this checkout from any folder, and no module in the workspace."""
    before = os.environ.get("PYTHONPATH")
    path = os.pathsep.join([str(ROOT), *([before] if before else [])])
    return {**os.environ, "PYTHONPATH": path, "PYTHONSAFEPATH": "1"}


def _next_number(space: Workspace) -> int:
    numbers = [int(path.name[:4]) for path in space.jobs.iterdir() if re.match(r"\d{4}-", path.name)]
    return max(numbers, default=0) + 1


def jobs(space: Workspace) -> list[Job]:
    """Every job of the workspace, oldest first; a folder without a command is none."""
    space.require()
    found = []
    for folder in sorted(space.jobs.iterdir()) if space.jobs.is_dir() else []:
        with contextlib.suppress(UserError):
            found.append(read_job(folder))
    return found


def find(space: Workspace, name: str) -> Job:
    """The job of an id. Raises UserError where there is none."""
    if not re.fullmatch(r"\d{4}-[a-z-]+", name) or not (space.jobs / name).is_dir():
        raise Refused("no_job", name=name)
    return read_job(space.jobs / name)


def read_job(folder: Path) -> Job:
    """The job in a folder. Raises UserError for a folder that holds none."""
    try:
        value = read_document(folder / "command.json", CommandFile)
    except (OSError, UserError) as error:
        raise UserError(f"{folder}: no job can be read here ({error})") from None
    steps = [
        Step(tuple(one["argv"]), one["env"], one["stdout"], tuple(one["fine"]), tuple(one["found"]))
        for one in value["steps"]
    ]
    return Job(folder, value["kind"], value["title"], tuple(steps), value["made"], value["queued"], value["about"])


def look(job: Job) -> Look:
    """What is true of a job now."""
    _CHILDREN[:] = [child for child in _CHILDREN if child.poll() is None]
    has_begun, alive = (job.folder / "pid").exists(), is_alive(job.folder)  # before `exit`, which an end writes first
    code, step = exit_code(job.folder), _number(job.folder / "step")
    begun = _modified(job.folder / "command.json")
    ended = _modified(job.folder / "exit") if code is not None else time.time()
    seconds = max(0.0, ended - begun)
    if code is not None:
        if is_stopping(job) and code != 0:
            return Look("stopped", code, step, seconds)
        now = job.steps[min(step, len(job.steps)) - 1]
        if code in now.fine or code in now.found:
            return Look("done" if code == 0 else "found", code, step, seconds)
        return Look("stopped" if code in STOPPED_CODES else "failed", code, step, seconds)
    if alive:
        return Look("running" if step else "waiting", None, step, seconds)
    if not has_begun and _is_starting(job.folder, begun):
        return Look("waiting", None, 0, seconds)
    if not has_begun and (job.folder / "pid").exists():
        return look(job)  # it began, and may have ended, while it was looked at
    return Look("killed", None, step, max(0.0, _modified(job.folder / "log") - begun))


def _is_starting(folder: Path, begun: float) -> bool:
    """Whether a process that has not written its pid yet is still to come."""
    if (folder / "starting").exists():
        return is_alive(folder, "starting")
    return time.time() - begun < BEGINNING_SECONDS


def exit_code(folder: Path) -> int | None:
    """How a job ended; None before it did."""
    try:
        text = (folder / "exit").read_text(encoding="ascii").strip()
        return int(text) if text else None
    except (OSError, ValueError):
        return None


def stop(job: Job, *, now: bool = False) -> None:
    """Ask a job to end: a training saves first. `now` ends all its processes at once."""
    if look(job).state in ENDED:
        return
    with contextlib.suppress(OSError):
        (job.folder / "stop").touch()
    if not is_alive(job.folder):
        return  # it is being started: it looks for `stop` first
    pid = read_document(job.folder / "pid", ProcessFile)["pid"]
    told = [pid] if started(pid) and not now else members(pid)
    for one in told:
        with contextlib.suppress(ProcessLookupError):
            os.kill(one, signal.SIGKILL if now else signal.SIGTERM)


def log_tail(job: Job, most: int = LOG_TAIL) -> str:
    """The end of what a job said; of lines that a progress wrote over itself, the last state."""
    try:
        with (job.folder / "log").open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - most))
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return ""
    return "\n".join(line.rstrip("\r").rpartition("\r")[2] for line in text.split("\n"))


def is_stopping(job: Job) -> bool:
    """Whether a job was asked to end."""
    return (job.folder / "stop").exists()


def reason(job: Job) -> str:
    """The line of the log that says why a job failed; where the disk left no room for one, that it is full."""
    lines = [line.strip() for line in log_tail(job).splitlines() if line.strip()]
    telling = [line for line in lines if re.match(r"(error:|rank \d+ ended|a process ended|stopped by you)", line)]
    if not lines:
        return said("job.full") if shutil.disk_usage(job.folder).free < ROOM else ""
    return (telling or lines)[-1].removeprefix("error: ")[:1000]


def _number(path: Path) -> int:
    try:
        return int(path.read_text(encoding="ascii") or 0)
    except (OSError, ValueError):
        return 0


def _modified(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
