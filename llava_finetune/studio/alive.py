"""Whether a process that was written down is still there: a number alone may be another's by now.

write_json(folder / "pid", {"pid": os.getpid(), "started": started(os.getpid())})
is_alive(folder)      # True until it and all that it started have ended
"""

from __future__ import annotations

import contextlib
from pathlib import Path

from llava_finetune.studio.documents import ProcessFile, read_known


def is_alive(folder: Path, name: str = "pid") -> bool:
    """Whether the process that `pid` names is there, or what it started: a number alone may be another's by now."""
    value = read_known(folder / name, ProcessFile)
    if not value:
        return False
    pid, began = value["pid"], str(value["started"])
    now = started(pid)
    if now is not None:
        return now == began
    return began.startswith(f"{_boot()} ") and bool(members(pid))


def members(session: int) -> list[int]:
    """The processes of a session, and what they started: torchrun gives each of its ranks a session of its own.

    What a job started is there after the job's own process was killed.
    """
    parents: dict[int, int] = {}
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, IndexError):
            after = path.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
            if after[0] not in "ZX":
                parents[int(path.parent.name)] = int(after[1])
                if int(after[3]) == session:
                    found.append(int(path.parent.name))
    for one in found:  # it grows meanwhile
        found += [child for child, parent in parents.items() if parent == one and child not in found]
    return found


def _boot() -> str:
    """A text that is another one after each start of the machine."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


def started(pid: int) -> str | None:
    """When a process began, as a text that no later process repeats; None for one that is gone or a zombie."""
    try:
        after = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        return None if after[0] in "ZX" else f"{_boot()} {after[19]}"
    except (OSError, IndexError):
        if Path("/proc/self/stat").exists():
            return None
    import psutil

    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else f"{process.create_time():.0f}"
    except psutil.Error:
        return None
