"""Errors whose message is the whole story: what, where, expected and found, what to do next.

The command line prints them without a traceback (`--debug` shows it); it calls anything else a fault of ours.
In a run of several ranks the first one to fail leaves its message for the launcher, which prints it last.

    raise UserError("runs/a: no config.json; give the folder that training wrote")
"""

import json
import os
from enum import Enum
from pathlib import Path

from data_prep.errors import UserError as UserError  # every command reports it, and every kind of it, alike

FAILURE_VARIABLE = "LLAVA_FINETUNE_FAILURE"
"""Environment variable with the file that the first failing rank writes."""

WITHOUT_DEEPSPEED = (
    "DeepSpeed is not installed here (it needs Linux, WSL included); leave it out (DEEPSPEED_CONFIG=none) and train on "
    "one process, or on several with torchrun"
)


class UsageError(UserError):
    """The command was called in a wrong way; it ends with exit code 2."""

    exit_code = 2


class OutOfMemoryError(UserError):
    """Ranks ran out of memory together; the launcher starts them again with smaller micro-batches."""

    exit_code = 71  # EX_OSERR of sysexits.h


ECHOES = (
    "connection closed by peer",
    "connection reset by peer",
    "broken pipe",
    "remote process exited",
    "communicator was aborted",
    "recvvalue failed",
    "failed to recv",
)
"""What gloo, NCCL and torch's store say, in small letters, when the process at the other end is gone."""


def is_echo(error: BaseException) -> bool:
    """Whether an error only tells that another rank is gone: why it went is that rank's to say."""
    text = str(error).lower()
    return isinstance(error, RuntimeError | ConnectionError) and any(echo in text for echo in ECHOES)


class Recorded(Enum):
    """What became of a rank's message: left for the launcher, which prints it; said by another; nobody reads it."""

    LEFT, LATE, UNREAD = "left", "late", "unread"


def record_failure(message: str, code: int = 1) -> Recorded:
    """Leave this rank's message and exit code for the launcher, where no other rank has done so before.

    Launchers replace a rank's exit code by their own: `llava_finetune.launching.processes` gives this one back.
    """
    path = os.environ.get(FAILURE_VARIABLE)
    if not path:
        return Recorded.UNREAD
    own = _own_file(path)
    try:
        _write(own, message, code)
        os.link(own, path)  # fails where the file exists: one winner, and never half a message
    except FileExistsError:
        return Recorded.LATE
    except OSError:
        return Recorded.UNREAD  # a launcher that is gone, or a file system without links: this rank speaks for itself
    finally:
        own.unlink(missing_ok=True)
    return Recorded.LEFT


def record_details(message: str, code: int = 1) -> None:
    """Say more in the message that this rank has left (`Recorded.LEFT`); where that fails, the first one stays."""
    path = os.environ[FAILURE_VARIABLE]
    own = _own_file(path)
    try:
        _write(own, message, code)
        own.replace(path)
    except OSError:
        own.unlink(missing_ok=True)


def _own_file(path: str) -> Path:
    """This rank's: on a shared disk ranks of several machines meet, and their process ids may be equal."""
    return Path(f"{path}.{os.environ.get('RANK', '0')}")


def _write(own: Path, message: str, code: int) -> None:
    value = {"rank": os.environ.get("RANK", "0"), "message": message, "code": code}
    own.write_text(json.dumps(value), encoding="utf-8")
