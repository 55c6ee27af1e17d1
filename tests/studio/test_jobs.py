"""A job is a process of its own: the truth about it is on the disk, whoever was killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from llava_finetune.errors import UserError
from llava_finetune.studio import alive, jobs
from llava_finetune.studio.jobs import Job, Step
from llava_finetune.studio.runner import end
from llava_finetune.studio.workspace import Workspace

SLOW = "import time; print('working', flush=True); time.sleep(60)"
SAVES = (
    "import signal, sys, time\n"
    "signal.signal(signal.SIGTERM, lambda *_: (print('saved', flush=True), sys.exit(143)))\n"
    "print('working', flush=True)\ntime.sleep(60)"
)


@pytest.fixture
def space(tmp_path: Path) -> Workspace:
    return Workspace.open(tmp_path / "space")


def python(code: str, **more: object) -> Step:
    return Step(("python", "-c", code), **more)  # type: ignore[arg-type]


def until(job: Job, wanted: Callable[[], object]) -> None:
    limit = time.monotonic() + 60
    while not wanted():
        assert time.monotonic() < limit, (jobs.look(job), jobs.log_tail(job))
        time.sleep(0.02)


def ended(job: Job) -> jobs.Look:
    until(job, lambda: jobs.look(job).state in jobs.ENDED)
    return jobs.look(job)


def test_a_job_runs_its_steps_and_keeps_command_log_and_exit(space: Workspace) -> None:
    steps = [python("print('one')"), python("print('two')", stdout="out.txt"), python("raise SystemExit(3)")]
    job = jobs.start(space, "train", "three steps", steps)
    assert ended(job).state == "failed" and jobs.look(job).code == 3
    assert (space.folder / "out.txt").read_text() == "two\n"
    kept = json.loads((job.folder / "command.json").read_text())
    assert kept["lines"][1].endswith("> out.txt")
    assert jobs.read_job(job.folder) == job
    assert [line for line in jobs.log_tail(job).splitlines() if not line.startswith("$ ")] == ["one"]


def test_a_job_outlives_the_server_that_started_it(space: Workspace) -> None:
    code = (
        "import sys; from pathlib import Path\n"
        "from llava_finetune.studio import jobs; from llava_finetune.studio.workspace import Workspace\n"
        "step = jobs.Step(('python', '-c', 'import time; time.sleep(1.5); print(7)'))\n"
        "jobs.start(Workspace.open(Path(sys.argv[1])), 'train', 'x', [step]); import os; os.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(space.folder)], check=False)
    assert done.returncode == -signal.SIGKILL
    (job,) = jobs.jobs(space)
    until(job, lambda: jobs.look(job).state != "waiting")
    assert ended(job).state == "done" and jobs.log_tail(job).strip().endswith("7")


@pytest.mark.skipif(sys.version_info < (3, 11), reason="before 3.11 Python looks into the working folder first")
def test_a_module_that_lies_in_the_workspace_is_not_run(space: Workspace) -> None:
    (space.folder / "json.py").write_text("open('run', 'w'); raise SystemExit(9)")
    job = jobs.start(space, "train", "x", [Step(("python", "-m", "json.tool", "--help"))])
    assert ended(job).state == "done" and not (space.folder / "run").exists()


def test_a_stopped_job_saves_and_says_so(space: Workspace) -> None:
    job = jobs.start(space, "train", "x", [python(SAVES)])
    until(job, lambda: jobs.log_tail(job).endswith("working\n"))
    jobs.stop(job)
    assert ended(job).state == "stopped" and "saved" in jobs.log_tail(job)


def test_a_killed_job_is_known_for_broken_off_and_not_for_running(space: Workspace) -> None:
    job = jobs.start(space, "train", "x", [python(SLOW)])
    until(job, lambda: jobs.log_tail(job).endswith("working\n"))
    head = int(json.loads((job.folder / "pid").read_text())["pid"])
    os.kill(head, signal.SIGKILL)
    until(job, lambda: alive.started(head) is None)
    assert jobs.look(job).state == "running", "what it started is still at work"
    jobs.stop(job, now=True)
    assert ended(job).state == "killed"
    assert (job.folder / "exit").read_text() == jobs.BLANK


TORCHRUN = """#!{python}
import os, subprocess, sys
rank = "import os, time; print('rank', os.getpid(), flush=True); time.sleep(120)"
subprocess.Popen([sys.executable, "-c", rank], start_new_session=True).wait()
"""


def test_a_launcher_of_a_job_and_its_ranks_end_with_it(
    space: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By hand a launcher has a session of its own, out of Ctrl-C's reach; in a job it stays in the job's."""
    launcher = tmp_path / "torchrun"
    launcher.write_text(TORCHRUN.format(python=sys.executable))
    launcher.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    code = (
        "import os; from llava_finetune.launching.processes import run; print('head', os.getpid(), flush=True); "
        "raise SystemExit(run(['torchrun'], os.environ))"
    )
    job = jobs.start(space, "train", "x", [python(code)])
    until(job, lambda: jobs.log_tail(job).rstrip().rpartition("rank ")[2].isdigit())
    rank = int(jobs.log_tail(job).rstrip().rpartition(" ")[2])
    launchers = [process for process in alive.members(job_head(job)) if process != rank]
    assert len(launchers) >= 3, "the job's own process, the command, the launcher"
    jobs.stop(job, now=True)
    assert ended(job).state == "killed"
    until(job, lambda: not any(map(alive.started, [rank, *launchers])))


def job_head(job: Job) -> int:
    return int(json.loads((job.folder / "pid").read_text())["pid"])


def test_a_job_that_dies_before_it_writes_its_pid_has_broken_off(
    space: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "BEGINNING_SECONDS", 1e9)
    monkeypatch.setattr(jobs, "environment", lambda: {"PATH": os.environ["PATH"], "PYTHONHOME": "/nowhere"})
    job = jobs.start(space, "train", "x", [python("pass")])
    assert ended(job).state == "killed" and not (job.folder / "pid").exists()
    assert "encodings" in jobs.log_tail(job), "the interpreter's own words stand in the log"


def test_another_process_of_the_same_number_is_not_the_job(space: Workspace) -> None:
    job = jobs.start(space, "train", "x", [python("pass")])
    ended(job)
    (job.folder / "exit").write_text(jobs.BLANK)
    (job.folder / "pid").write_text(json.dumps({"pid": os.getpid(), "started": "another boot 1"}))
    assert jobs.look(job).state == "killed"


def test_a_session_of_the_same_number_is_not_the_job(space: Workspace) -> None:
    job = jobs.start(space, "train", "x", [python("pass")])
    ended(job)
    boot = json.loads((job.folder / "pid").read_text())["started"].split()[0]
    with subprocess.Popen(["sleep", "60"], start_new_session=True) as other:
        (job.folder / "exit").write_text(jobs.BLANK)
        (job.folder / "pid").write_text(json.dumps({"pid": other.pid, "started": f"{boot} 1"}))
        assert jobs.look(job).state == "killed"
        jobs.stop(job, now=True)
        assert other.poll() is None
        other.kill()


def test_a_job_that_is_stopped_before_its_process_has_begun_does_not_run(space: Workspace) -> None:
    job = jobs.start(space, "train", "x", [python("pass")])
    ended(job)
    (job.folder / "exit").write_text(jobs.BLANK)
    for name in ("pid", "starting"):  # the process that `starting` names may be gone by now
        (job.folder / name).unlink()
    (job.folder / "command.json").touch()
    assert jobs.look(job).state == "waiting"
    jobs.stop(job)
    runner = [sys.executable, "-m", "llava_finetune.studio.runner", str(job.folder)]
    done = subprocess.run(runner, capture_output=True, env=jobs.environment(), check=False)
    assert (done.returncode, done.stdout, jobs.look(job).state) == (143, b"", "stopped")


def test_queued_jobs_run_one_after_the_other_and_without_a_server(space: Workspace) -> None:
    first = jobs.start(space, "train", "1", [python("import time; time.sleep(1); print('first')")], queued=True)
    second = jobs.start(space, "train", "2", [python("print(open('../0001-train/exit').read())")], queued=True)
    until(second, lambda: alive.is_alive(second.folder))
    assert jobs.look(second).state == "waiting" or jobs.look(first).state == "done"
    assert ended(second).code != 0 or jobs.look(first).state == "done"


def test_the_end_of_a_job_needs_no_new_block_of_a_full_disk(tmp_path: Path) -> None:
    path = tmp_path / "exit"
    path.write_text(jobs.BLANK)
    before = path.stat()
    end(tmp_path, 137)
    assert (path.stat().st_ino, path.stat().st_size) == (before.st_ino, before.st_size)
    assert jobs.exit_code(tmp_path) == 137


STEP = {"argv": ["true"], "env": {}, "stdout": None, "fine": [0], "found": []}
JOB = {"kind": "check", "title": "t", "steps": [STEP], "made": "now", "queued": False, "about": {}}


@pytest.mark.parametrize(
    "value",
    [5, [], {}, {**JOB, "steps": []}, {**JOB, "steps": [5]}, {**JOB, "steps": [{**STEP, "argv": "true"}]},
     {**JOB, "steps": [{**STEP, "env": {"A": 5}}]}, {**JOB, "about": []}, {**JOB, "kind": 5}],
)  # fmt: skip
def test_a_command_file_of_other_types_is_no_job(tmp_path: Path, value: object) -> None:
    (tmp_path / "command.json").write_text(json.dumps(value))
    with pytest.raises(UserError, match="no job can be read here"):
        jobs.read_job(tmp_path)


@pytest.mark.parametrize("pid", ['{"pid": -1, "started": null}', '{"pid": 0, "started": "x"}', "[" * 9999, "5", "{}",
                                 '{"pid": 1e400, "started": ""}', '{"pid": "1", "started": ""}'])  # fmt: skip
def test_what_names_no_process_is_no_living_job(tmp_path: Path, pid: str) -> None:
    (tmp_path / "pid").write_text(pid)
    assert not alive.is_alive(tmp_path)


def test_an_id_that_is_no_job_is_refused(space: Workspace) -> None:
    for name in ("../../etc", "0001-train", ""):
        with pytest.raises(Exception, match="there is no job"):
            jobs.find(space, name)
