"""Run a launcher to its end: pass signals on, and say in words why it ended.

A run that is killed from outside leaves only a number (-9, -7, -8 ...); `explain` says what usually stands behind it.
The first rank that fails writes its message to $LLAVA_FINETUNE_FAILURE (llava_finetune.errors), so that the last line
of a run is the message of the rank that ended it and not a neighbour's "connection closed". Its exit code survives too:
launchers end with their own, and a scheduler requeues on 75 alone.

    >>> run(["python", "-c", "raise SystemExit(3)"], os.environ)
    3
"""

import contextlib
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import IO, Any

import psutil

from llava_finetune.errors import FAILURE_VARIABLE, UserError
from llava_finetune.flags import flag
from llava_finetune.launching.launcher_lines import LauncherLines, say
from llava_finetune.launching.preflight import read_hostfile
from llava_finetune.launching.ssh_environment import forwarded
from llava_finetune.machine import available_ram, free_shm, readable

SIGNALS = {
    9: "killed by the system (SIGKILL), nearly always because host RAM ended. Every rank loads the model into RAM: use "
    "fewer processes, ZeRO-3 (each rank keeps a part), --bits 4, fewer --dataloader_num_workers, or no CPU offload",
    7: "bus error (SIGBUS), nearly always because /dev/shm is full. In a container: --shm-size=8g or --ipc=host; "
    "else fewer --dataloader_num_workers",
    8: "floating point exception (SIGFPE), nearly always a library built for another CPU or CUDA. Run `llava-finetune "
    "doctor`, and rebuild DeepSpeed's operators: remove the folder that TORCH_EXTENSIONS_DIR names",
    11: "segmentation fault (SIGSEGV), nearly always two libraries that do not fit. Run `llava-finetune doctor`; then "
    "remove the folder that TORCH_EXTENSIONS_DIR names, so that DeepSpeed's operators are built again",
    6: "aborted (SIGABRT): a library stopped the process; its own message stands above, or in debug.log of OUTPUT",
    3: "ended at once by Ctrl-\\ (SIGQUIT), without a save; go on with the same command and --resume auto",
    4: "illegal instruction (SIGILL): a library was built for a newer CPU. Remove the folder that TORCH_EXTENSIONS_DIR "
    "names, so that DeepSpeed's operators are built for this one",
    15: "ended by another process (SIGTERM): a queue's time limit, or a rank that failed before (its message is above)",
}

PORTS = (20_000, 32_768)
"""Between services' usual ports and Linux's for outgoing connections."""
STOPPING = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT") if hasattr(signal, name))
"""A scheduler, Ctrl-C, a terminal that is closed, Ctrl-\\: each asks the ranks to save and to leave; the second Ctrl-\\
ends them at once. A single process hears the terminal itself, and ends with the first Ctrl-\\, without a save."""
ONE_SESSION = "LLAVA_FINETUNE_ONE_SESSION"
"""A variable, set by who ends what it started by its session, as the studio does: a launcher stays in it."""
TIME_TO_SAVE = 600.0
"""Seconds that ranks have to save after a signal; a scheduler's own limit is mostly shorter."""
TIME_TO_FAIL = 30.0
"""Seconds that ranks have to notice that another one has failed."""


def run(command: Sequence[str], environment: Mapping[str, str], failure: Path | None = None) -> int:
    """Run `command`, wait, explain a bad end on stderr, and return its exit code (128 + n for signal n).

    `failure`: where the first rank that fails leaves its message, on a disk that all machines of the run see; for one
    machine a file of its own.
    """
    with tempfile.TemporaryDirectory(prefix="llava-finetune-") as folder:
        failure = failure or Path(folder) / "failure.json"
        # Launchers speak about themselves; torchrun hides a rank's signal behind exit code 1 and tells it on stderr.
        # They also kill their ranks 30 s after a Ctrl-C, in the middle of a save: so they get a session of their own,
        # which no Ctrl-C reaches, and `_wait` tells the ranks.
        piped = subprocess.PIPE if command[0] in ("torchrun", "deepspeed") else None
        output = flag(command, "--output_dir")
        log = Path(output) / "debug.log" if output and "--debug" not in command else None
        try:
            with _environment(command, {**environment, FAILURE_VARIABLE: str(failure)}) as variables:
                apart = piped is not None and ONE_SESSION not in os.environ
                process = subprocess.Popen(command, env=variables, stdout=piped, stderr=piped, start_new_session=apart)
                code, tail, is_stopped = _wait(process, failure, log, apart=apart)
        except FileNotFoundError:
            say(f"error: no {command[0]} on PATH; run: bash scripts/setup.sh", sys.stderr)
            return 1
        first = _first_failure(failure) if code else {}
        number = signal_number(code, tail)
        if first or code not in (0, 130):
            say(_last_words(first, code, number, is_stopped) + ("" if first else _elsewhere(command, log)), sys.stderr)
    if first.get("code", 1) != 1:  # 1 says less than what the launcher saw
        return int(first["code"])
    return 128 + number if number else code


def _environment(command: Sequence[str], environment: dict[str, str]) -> contextlib.AbstractContextManager[Any]:
    """What the launcher is started with: over ssh DeepSpeed takes along only what a file says."""
    return forwarded(environment) if _is_over_ssh(command) else contextlib.nullcontext(environment)


def _is_over_ssh(command: Sequence[str]) -> bool:
    return "--hostfile" in command and "--no_ssh" not in command


def _elsewhere(command: Sequence[str], log: Path | None) -> str:
    """Where a rank's message lies that came to no disk of this machine: the hosts, and the file on each of them."""
    if log is None or not _is_over_ssh(command):
        return ""
    try:
        hosts = [host for host, _ in read_hostfile(Path(flag(command, "--hostfile") or ""))]
    except (UserError, OSError):  # changed since the start; what ended the run is told all the same
        return ""
    files = ", ".join(f"{host}:{log.absolute()}" for host in hosts[:8]) + (", ..." if len(hosts) > 8 else "")
    return f"; where OUTPUT is not shared, a rank's message is in the debug.log of its own machine: {files}"


def signal_number(code: int, output: str = "") -> int | None:
    """The signal that ended a rank: from the exit code (-9, 137 and DeepSpeed's 247 are all 9) or torchrun's report."""
    reported = re.findall(r"exitcode\s*:\s*-(\d+)", output)
    if reported:
        return int(reported[0])
    for candidate in (-code, code - 128, 256 - code):
        if candidate in SIGNALS:
            return candidate
    return None


def explain(number: int) -> str:
    """What a process killed by this signal most likely suffered from, with this machine's memory where that matters."""
    text = SIGNALS.get(number, f"signal {number}")
    if number == 9:
        return f"{text}. Free RAM now: {readable(available_ram())}"
    shm = free_shm()
    return f"{text}. Free in /dev/shm now: {readable(shm)}" if number == 7 and shm is not None else text


def free_port() -> int:
    """A port that nobody listens on, outside of those that the system gives to outgoing connections at any moment."""
    for port in random.SystemRandom().sample(range(*PORTS), 100):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("", port))
            return port
    raise UserError(f"none of a hundred ports from {PORTS[0]} to {PORTS[1]} is free; name one: MASTER_PORT=...")


def _first_failure(path: Path) -> dict[str, Any]:
    """What the first failing rank left: rank, message, code; empty where none did."""
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}


def _last_words(first: Mapping[str, Any], code: int, number: int | None, is_stopped: bool = False) -> str:
    if first:
        said = str(first["message"])
        if is_stopped and said.startswith(("SIGINT", "SIGTERM")):
            return f"stopped by you {said.partition(' ')[2]}"
        return f"rank {first['rank']} ended the run: {said}"
    if number is not None:
        return f"a process ended with exit code -{number}: {explain(number)}"
    return f"training ended with exit code {code}; its message stands above"


def _wait(process: "subprocess.Popen[bytes]", failure: Path, log: Path | None, *, apart: bool) -> tuple[int, str, bool]:
    """Wait for the launcher and its ranks while piped output is passed on, the launcher's own lines to `log`.

    Returns its exit code, stderr's tail, and whether Ctrl-C stopped it.

    Signals go to the ranks and not to the launcher, which would end at once and leave them, or kill them after 30 s.
    Ranks that outlive their launcher are waited for, then killed.
    """
    tail = bytearray()
    passed, readers = _start_readers(process, log, tail)
    told = is_stopped = has_quit = False

    def forward(number: int, _frame: FrameType | None) -> None:
        nonlocal told, is_stopped, has_quit
        if number == getattr(signal, "SIGQUIT", None):
            if has_quit:  # a rank that hangs in C hears nothing else
                _tell(process, failure, signal.SIGKILL, apart=apart)
                return
            has_quit = True
        told = True
        if number == signal.SIGINT:
            is_stopped = True
            for lines in passed:
                lines.is_stopping = True
            if not apart and ONE_SESSION not in os.environ:  # the terminal has told the ranks
                return
        _tell(process, failure, signal.SIGINT if number == signal.SIGINT else signal.SIGTERM, apart=apart)

    # What was ignored from the start (nohup, a job in the background of a script) stays so.
    heard = [number for number in STOPPING if signal.getsignal(number) is not signal.SIG_IGN]
    old = {number: signal.signal(number, forward) for number in heard}
    try:
        code = process.wait()
        if code:
            _, left = psutil.wait_procs(_ranks(failure), timeout=TIME_TO_SAVE if told else TIME_TO_FAIL)
            for one in left:
                with contextlib.suppress(psutil.NoSuchProcess):
                    one.kill()
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
    for reader in readers:
        reader.join(timeout=5)
    return code, tail.decode("utf-8", "replace"), is_stopped


def _tell(process: "subprocess.Popen[bytes]", failure: Path, number: int, *, apart: bool) -> None:
    """Send a signal to the ranks; where there are none yet, to the launcher and what it has started."""
    ranks = _ranks(failure)
    if apart and not ranks:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        return
    for one in ranks or [process]:
        with contextlib.suppress(ProcessLookupError, psutil.NoSuchProcess):
            one.send_signal(number)


def _start_readers(
    process: "subprocess.Popen[bytes]", log: Path | None, tail: bytearray
) -> tuple[list[LauncherLines], list[threading.Thread]]:
    """Start to pass on what is piped of a launcher's output; `tail` gets the end of its stderr."""
    passed, readers = [], []
    for source, screen, kept in ((process.stdout, sys.stdout, None), (process.stderr, sys.stderr, tail)):
        if source is not None:
            passed.append(LauncherLines(log, screen.buffer))
            readers.append(threading.Thread(target=_pass_on, args=(source, passed[-1], kept), daemon=True))
            readers[-1].start()
    return passed, readers


def _ranks(failure: Path) -> list[psutil.Process]:
    """The ranks of a run on this machine: processes that were given its failure file and a LOCAL_RANK, none of theirs.

    Found by their variables, since a launcher that is gone has no children. What a rank forks (data loading workers)
    inherits them; it is the rank's own business.
    """
    found: dict[int, psutil.Process] = {}
    for one in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            variables = one.environ()
            if "LOCAL_RANK" in variables and variables.get(FAILURE_VARIABLE) == str(failure):
                found[one.pid] = one
    ranks = []
    for one in found.values():
        with contextlib.suppress(psutil.Error):
            if one.ppid() not in found:
                ranks.append(one)
    return ranks


def _pass_on(source: IO[bytes], lines: LauncherLines, tail: bytearray | None, keep: int = 65536) -> None:
    for line in iter(source.readline, b""):
        lines.feed(line)
        if tail is not None:
            tail += line
            del tail[:-keep]


if os.name == "nt":  # Windows has no SIGKILL and its exit codes mean other things
    SIGNALS = {}
