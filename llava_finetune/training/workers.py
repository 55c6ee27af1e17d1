"""Processes that load data: they ignore the signals that stop a run, and do not keep a process from ending.

loader.worker_init_fn = functools.partial(start_worker, loader.worker_init_fn)
atexit.register(end_workers)
"""

from __future__ import annotations

import multiprocessing
import signal
from typing import Any

from llava_finetune.launching.processes import STOPPING


def start_worker(usual: Any, number: int) -> None:
    """Begin a data loading worker: a signal to the whole run is its rank's affair, which needs it up to the save."""
    for one in STOPPING:
        signal.signal(one, signal.SIG_IGN)
    if usual is not None:
        usual(number)


def end_workers() -> None:
    """At the end of the process: multiprocessing sends its children SIGTERM, which they ignore, and waits for ever.

    They are gone before that, unless an error or a profile's trace still holds the loader.
    """
    if hasattr(signal, "SIGCHLD"):
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's handler takes a killed worker for a failure
    for child in multiprocessing.active_children():
        if child.daemon:
            child.kill()
