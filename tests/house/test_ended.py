"""A command that is ended leaves nothing behind: no half-written folder, and no process that works for nobody."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from llava_finetune.evaluation.processes import spread
from llava_finetune.parent import VARIABLE, bound_to_this

pytestmark = pytest.mark.skipif(os.name == "nt", reason="signals are sent as POSIX knows them")

COMMAND = """
import sys, tempfile, time
def main(argv):
    with tempfile.TemporaryDirectory(dir=argv[0]):
        print("begun", flush=True)
        time.sleep(60)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_what_is_half_written_goes_with_the_command(number: signal.Signals, tmp_path: Path, root: Path) -> None:
    (tmp_path / "slow.py").write_text(COMMAND)
    (tmp_path / "out").mkdir()
    code = "import sys; from llava_finetune.cli import run_command; sys.exit(run_command('slow', sys.argv[1:]))"
    command = [sys.executable, "-c", code, str(tmp_path / "out")]
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{root}"}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"begun\n"
        assert list((tmp_path / "out").iterdir())
        process.send_signal(number)
        _, error = process.communicate(timeout=30)
    assert process.returncode == 128 + number and error == b""
    assert not list((tmp_path / "out").iterdir())


def test_a_process_ends_with_the_one_that_it_belongs_to_also_when_that_is_killed(root: Path) -> None:
    child = (
        "import os, sys, time; from llava_finetune.parent import VARIABLE, end_with_parent; end_with_parent()\n"
        "assert VARIABLE not in os.environ\nprint(os.getpid(), flush=True); time.sleep(60)"
    )
    code = (
        "import os, subprocess, sys; from llava_finetune.parent import bound_to_this\n"
        f"subprocess.run([sys.executable, '-c', {child!r}], env=bound_to_this(os.environ))"
    )
    with subprocess.Popen([sys.executable, "-c", code], cwd=root, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        one = psutil.Process(int(process.stdout.readline()))
        process.kill()
    deadline = time.monotonic() + 30
    with contextlib.suppress(psutil.NoSuchProcess):  # it may go between two looks
        while one.is_running() and one.status() != psutil.STATUS_ZOMBIE:
            assert time.monotonic() < deadline, "it lives on"
            time.sleep(0.05)


def test_the_processes_of_an_evaluation_are_bound_to_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def begin(*_: object, env: dict[str, str], **__: object) -> None:
        seen.append(env[VARIABLE])
        raise OSError("enough")

    monkeypatch.setattr(subprocess, "Popen", begin)
    with pytest.raises(OSError, match="enough"):
        spread(["--data", "x"], 2, 2, tmp_path)
    assert seen == [bound_to_this({})[VARIABLE]] == [str(os.getpid())]
