"""What still escapes is a fault of ours: said in one line, with a file that holds the details and how to report it.

try:
    ...
except Exception as error:
    print(fault_of_ours(error, command), file=sys.stderr)
"""

from __future__ import annotations

import errno
import os
import platform
import tempfile
import traceback
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

from data_prep.errors import printable, shortened

PACKAGES = ("torch", "transformers", "peft", "deepspeed", "datasets", "pillow", "msgspec")
REMEDIES = {
    errno.ENOENT: "name one that is there",
    errno.EEXIST: "name another, or move it away",
    errno.ENOTDIR: "a file stands where a folder should be: name another place",
    errno.EISDIR: "name a file in it",
    errno.EACCES: "change who may read and write it, or name another",
    errno.EPERM: "change who may read and write it, or name another",
    errno.EROFS: "name a place that can be written",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ENOSPC: "free some space, or name another place",
    errno.EDQUOT: "free some space, or name another place",
    errno.ELOOP: "its links lead in a circle: name the file itself",
}
NOT_WRITTEN = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}
"""Of a copy or a rename these are of the second name."""
RAN_OUT = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the quota of the disk is full",
    errno.EMFILE: "too many files are open",
    errno.ENFILE: "too many files are open on this machine",
    errno.ENOMEM: "memory ran out",
    errno.EAGAIN: "too many processes run",
}
"""What an error of the system says where it names no file: a write into one that is open does not."""
LONGEST = 300
"""Characters of an error's own words that the line shows; the file holds all of them."""


def fault_of_ours(error: BaseException, command: Sequence[str], program: str = "llava-finetune") -> str:
    """Return the line that tells of an error that nobody foresaw; its details are written to a new temporary file.

    Memory or a disk that ran out is no fault of ours, and the line says what ran out.
    """
    said = printable(str(error).strip().splitlines()[0])[:LONGEST] if str(error).strip() else ""
    what = f"{type(error).__name__}: {said}" if said else type(error).__name__
    if isinstance(error, MemoryError) or _is_of_memory(error):
        return f"error: memory ran out ({what}); close what else runs, or give the command less at a time"
    if isinstance(error, OSError) and error.errno in RAN_OUT:
        return f"error: {RAN_OUT[error.errno]} ({what}); free some, and run the same command again"
    return (
        f"error: a fault of {program}'s own ({what}), not yours. {_kept(error, command)}; how to report it is in "
        "SECURITY.md. The same command with --debug shows where it happened"
    )


def _is_of_memory(error: BaseException) -> bool:
    """Say whether torch ran out of a GPU's memory, or of the machine's: its errors are of kinds of its own."""
    text = str(error)
    return isinstance(error, RuntimeError) and (
        type(error).__name__ == "OutOfMemoryError" or "out of memory" in text or "can't allocate memory" in text
    )


def _kept(error: BaseException, command: Sequence[str]) -> str:
    try:
        return f"The details are in {write_details(error, command)}"
    except OSError as failed:
        return f"The details could not be kept ({failed.strerror})"


def write_details(error: BaseException, command: Sequence[str]) -> Path:
    """Write traceback, command and versions to a new file in the system's temporary folder, readable by its owner."""
    handle, name = tempfile.mkstemp(prefix="llava-finetune-fault-", suffix=".txt")
    lines = [
        f"command: {' '.join(printable(word) for word in command)}",
        f"python {platform.python_version()} on {platform.platform()}; {', '.join(_versions())}",
        "",
        "".join(traceback.format_exception(error)),
    ]
    with os.fdopen(handle, "w", encoding="utf-8", errors="backslashreplace") as stream:
        stream.write("\n".join(lines))
    return Path(name)


def _versions() -> list[str]:
    found = []
    for name in PACKAGES:
        try:
            found.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            continue
    return found


def told(error: BaseException) -> str:
    """Return the words of an error that `is_message`: its own, or the file that the system names, why, and a remedy."""
    if not isinstance(error, OSError) or error.filename is None:
        return str(error)
    name = error.filename2 if error.errno in NOT_WRITTEN and error.filename2 else error.filename
    name = os.fsdecode(name) if isinstance(name, str | bytes | os.PathLike) else name
    reason = (error.strerror or str(error)).rstrip(".")
    remedy = REMEDIES.get(error.errno or 0, "look at it, or name another")
    return f"{shortened(printable(name), LONGEST)}: {reason[:1].lower()}{reason[1:]}; {remedy}"


def is_message(error: BaseException) -> bool:
    """Say whether the error's own words are for the user: one of ours, or an OSError that names a file."""
    names = {kind.__name__ for kind in type(error).__mro__}
    if names & {"UserError", "DataError", "StaleTree", "PatchError"}:
        return True
    return isinstance(error, OSError) and error.filename is not None
