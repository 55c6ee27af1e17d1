"""Processes that end when the one that started them is gone, also when that one was killed.

    subprocess.Popen([sys.executable, "-m", "llava_finetune", ...], env=bound_to_this(os.environ))
    end_with_parent()                                 # in the child, as its first act

A process that should live on, such as a job of the studio, is started without it.
"""

import os
import signal
import threading
import time
from collections.abc import Mapping

VARIABLE = "LLAVA_FINETUNE_PARENT"
"""The process that another one belongs to; taken out at once, since a child's children belong to the child."""
LOOK_SECONDS = 0.5


def bound_to_this(environment: Mapping[str, str]) -> dict[str, str]:
    """`environment` for a child that ends with this process."""
    return {**environment, VARIABLE: str(os.getpid())}


def end_with_parent() -> None:
    """Where this process was bound to its parent: end it, as by SIGKILL, within a second of the parent's end."""
    named = os.environ.pop(VARIABLE, None)
    if named and os.name == "posix":
        threading.Thread(target=_watch, args=(named,), daemon=True).start()


def _watch(named: str) -> None:
    while str(os.getppid()) == named:
        time.sleep(LOOK_SECONDS)
    os.kill(os.getpid(), signal.SIGKILL)
