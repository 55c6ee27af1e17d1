"""What still escapes is a fault of ours: said in one line, with a file that holds the details and how to report it.

try:
    ...
except Exception as error:
    print(fault_of_ours(error, command), file=sys.stderr)
"""

from __future__ import annotations

import os
import platform
import tempfile
import traceback
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

from data_prep.errors import printable

PACKAGES = ("torch", "transformers", "peft", "deepspeed", "datasets", "pillow", "msgspec")
LONGEST = 300
"""Characters of an error's own words that the line shows; the file holds all of them."""


def fault_of_ours(error: BaseException, command: Sequence[str], program: str = "llava-finetune") -> str:
    """Return the line that tells of an error that nobody foresaw; its details are written to a new temporary file.

    Memory that ran out is no fault of ours, and the line says that it ran out.
    """
    said = printable(str(error).strip().splitlines()[0])[:LONGEST] if str(error).strip() else ""
    what = f"{type(error).__name__}: {said}" if said else type(error).__name__
    if isinstance(error, MemoryError):
        return f"error: memory ran out ({what}); close what else runs, or give the command less at a time"
    return (
        f"error: a fault of {program}'s own ({what}), not yours. {_kept(error, command)}; how to report it is in "
        "SECURITY.md. The same command with --debug shows where it happened"
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


def is_message(error: BaseException) -> bool:
    """Say whether the error's own words are for the user: one of ours, or an OSError that names a file."""
    names = {kind.__name__ for kind in type(error).__mro__}
    if names & {"UserError", "DataError", "StaleTree", "PatchError"}:
        return True
    return isinstance(error, OSError) and error.filename is not None
