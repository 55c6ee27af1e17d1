"""Run the commands of one job, one after the other, and write down how it ended. The studio calls it, nobody by hand.

    python -m llava_finetune.studio.runner chess/jobs/0003-train

It is the head of a session of its own, so that stopping it stops what it started, and nothing else does.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from data_prep.files import write_json
from llava_finetune.launching.processes import ONE_SESSION
from llava_finetune.studio.alive import started
from llava_finetune.studio.jobs import BLANK, ENDED, Job, Step, jobs, look, read_job
from llava_finetune.studio.workspace import Workspace

LOOK_SECONDS = 0.5
OWN_WORDS = {"python": (sys.executable,), "llava-finetune": (sys.executable, "-m", "llava_finetune")}
"""Commands that are this very installation's, whatever PATH says."""


class Runner:
    """One job under way: the process that runs now, and whether it was asked to stop."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.child: subprocess.Popen[bytes] | None = None
        self.is_stopped = self.is_told = False

    def take_signal(self, number: int, _frame: object) -> None:
        """Hand a signal on to the command; before one runs, the job ends."""
        self.is_stopped = True
        if self.child is not None and self.child.poll() is None:
            self.is_told = True
            self.child.send_signal(number)

    def run(self) -> int:
        """Wait for the job's turn, run its steps until one fails, and return the last exit code."""
        code = 0
        while self.job.queued and not self.is_stopped and self._is_behind():
            time.sleep(LOOK_SECONDS)
        for number, step in enumerate(self.job.steps, 1):
            if self.is_stopped:
                return code or 143
            (self.job.folder / "step").write_text(str(number), encoding="ascii")
            code = self._run(step)
            if code not in step.fine:
                return code
        return code

    def _is_behind(self) -> bool:
        """Whether an earlier job of the queue has not ended."""
        space = Workspace(self.job.folder.parent.parent)
        earlier = [one for one in jobs(space) if one.queued and one.id < self.job.id]
        return any(look(one).state not in ENDED for one in earlier)

    def _run(self, step: Step) -> int:
        print(f"$ {step.text}", flush=True)
        environment = {**os.environ, ONE_SESSION: "1", **step.env}
        argv = [*OWN_WORDS.get(step.argv[0], (step.argv[0],)), *step.argv[1:]]
        with contextlib.ExitStack() as stack:
            out = stack.enter_context(Path(f"{step.stdout}.part").open("wb")) if step.stdout else None
            try:
                self.child = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=out, env=environment)
            except OSError as error:
                print(f"error: {argv[0]} cannot be started ({error.strerror})", flush=True)
                return 127
            if self.is_stopped and not self.is_told:
                self.child.terminate()  # the signal came while it was being started
            code = self.child.wait()
        if step.stdout:
            part = Path(f"{step.stdout}.part")
            is_right = code in (*step.fine, *step.found)
            if is_right and part.stat().st_size:
                part.replace(step.stdout)
            else:
                part.unlink()
                return 2 if is_right else code  # it said nothing: not what a right end leaves
        return 128 - code if code < 0 else code


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job in the folder that `argv` names; its own exit code is the job's."""
    folder = Path((sys.argv[1:] if argv is None else argv)[0])
    runner = Runner(read_job(folder))
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, runner.take_signal)
    try:
        write_json(folder / "pid", {"pid": os.getpid(), "started": started(os.getpid())})
        runner.is_stopped |= (folder / "stop").exists()
        code = runner.run()
    except Exception as error:
        with contextlib.suppress(OSError):
            print(f"error: {error}", flush=True)
        code = 1
    end(folder, code)
    return code


def end(folder: Path, code: int) -> None:
    """Write the exit code over the blanks that are there: no new block of the disk is needed."""
    with contextlib.suppress(OSError), (folder / "exit").open("r+", encoding="ascii") as file:
        file.write(f"{code}".ljust(len(BLANK) - 1)[: len(BLANK) - 1])
        file.flush()
        os.fsync(file.fileno())


if __name__ == "__main__":
    sys.exit(main())
