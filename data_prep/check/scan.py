"""Inspect many pictures on all cores, in processes of their own.

facts = scan("images", ["a.jpg", "b.jpg"])       # {"a.jpg": Facts(...), ...}
"""

from __future__ import annotations

import itertools
import math
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from data_prep.check.inspect import Facts, inspect_picture
from data_prep.errors import PictureFault
from data_prep.progress import Progress

CHUNK = 32
FEW = 64
"""Up to this many pictures are inspected in this process: starting others would take longer."""

WORKER = (sys.executable, "-m", "data_prep.check.worker")


class Worker:
    """One inspecting process, started when first asked and again when it died."""

    def __init__(self, command: Sequence[str] = WORKER) -> None:
        """Keep the command; nothing is started yet."""
        self._command = command
        self._process: subprocess.Popen[bytes] | None = None
        self._stopped = False

    def inspect(self, folder: str, names: Sequence[str]) -> list[Facts]:
        """Return the facts of `names`; a picture that kills the process is found alone and named unreadable."""
        facts = self._ask(folder, names)
        if facts is not None:
            return facts
        if len(names) == 1:
            return [Facts(fault=PictureFault.UNREADABLE, problem="the decoder crashed on it; drop the record")]
        return [self.inspect(folder, [name])[0] for name in names]

    def _ask(self, folder: str, names: Sequence[str]) -> list[Facts] | None:
        process = self._process or self._start()
        try:
            assert process.stdin and process.stdout
            pickle.dump((folder, list(names)), process.stdin, pickle.HIGHEST_PROTOCOL)
            process.stdin.flush()
            answer: list[Facts] = pickle.load(process.stdout)
            return answer
        except (EOFError, BrokenPipeError, pickle.UnpicklingError):
            if self._stopped:
                raise
            self.close()
            return None

    def _start(self) -> subprocess.Popen[bytes]:
        root = str(Path(__file__).resolve().parents[2])
        path = os.pathsep.join(part for part in (root, os.environ.get("PYTHONPATH")) if part)
        env = {**os.environ, "PYTHONPATH": path}
        self._process = started = subprocess.Popen(
            self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env
        )
        if self._stopped:  # while it was being started: stop() saw no process to end
            self.close()
        return started

    def close(self) -> None:
        """End the process; the next inspection starts another."""
        process, self._process = self._process, None  # first: two threads may close it
        if process:
            process.kill()
            process.communicate()

    def stop(self) -> None:
        """End the process for good: a thread that waits for it must not take its end for a crash of the decoder."""
        self._stopped = True
        self.close()


def num_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def scan(folder: str | os.PathLike[str], names: Sequence[str], workers: int | None = None) -> dict[str, Facts]:
    """Return the facts of every picture of `names`, inspected on all cores (or by `workers` processes).

    Memory is about 550 bytes a picture, plus the largest pictures that are decoded at one time.
    """
    root = os.fspath(folder)
    count = min(workers or num_cores(), len(names) // FEW)
    with Progress("checking pictures", len(names), "pictures") as progress:
        if count < 1:
            return {name: inspect_picture(root, name) for name in progress.each(names)}
        return _scan_in_processes(root, names, count, progress)


def _scan_in_processes(root: str, names: Sequence[str], count: int, progress: Progress) -> dict[str, Facts]:
    found: list[list[Facts]] = [[]] * math.ceil(len(names) / CHUNK)
    starts, lock = iter(range(0, len(names), CHUNK)), threading.Lock()
    failures: list[BaseException] = []

    def feed(worker: Worker) -> None:
        try:
            while not failures:
                with lock:
                    start = next(starts, None)
                if start is None:
                    return
                facts = worker.inspect(root, names[start : start + CHUNK])
                with lock:
                    found[start // CHUNK] = facts
                    progress.advance(len(facts))
        except BaseException as error:  # handed to the caller below
            failures.append(error)

    with ExitStack() as stack:
        workers = [Worker() for _ in range(count)]
        threads = [threading.Thread(target=feed, args=(worker,), daemon=True) for worker in workers]
        stack.callback(_let_end, threads)  # when all are told to stop: one may be starting its process just now
        for worker in workers:
            stack.callback(worker.stop)
        for thread in threads:
            thread.start()
        try:
            for thread in threads:
                while thread.is_alive():  # a wait without end sleeps through a Ctrl-C that comes as it begins
                    thread.join(timeout=0.2)
        except KeyboardInterrupt as stop:
            failures.append(stop)
    if failures:
        raise failures[0]
    return dict(zip(names, itertools.chain.from_iterable(found), strict=True))


def _let_end(threads: Sequence[threading.Thread]) -> None:
    for thread in threads:
        if thread.is_alive():
            thread.join(timeout=10)
