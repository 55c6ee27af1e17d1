"""How a run's end is told: exit codes of killed ranks, and the message of the rank that ended it."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from llava_finetune.errors import UserError
from llava_finetune.launching import preflight, processes
from llava_finetune.launching.relaunch import run_until_it_fits

KILL = "import os, signal; os.kill(os.getpid(), signal.{})"
TORCHRUN = """#!/usr/bin/env bash
echo 'Signal 7 (SIGBUS) received by PID 4' >&2
echo '  exitcode  : -7 (pid: 4)' >&2
exit 1
"""


@pytest.mark.parametrize(
    ("code", "number"),
    [(-9, 9), (137, 9), (247, 9), (-7, 7), (249, 7), (248, 8), (245, 11), (1, None), (3, None), (-3, 3)],
)
def test_an_exit_code_is_read_as_its_signal(code: int, number: int | None) -> None:
    assert processes.signal_number(code) == number


@pytest.mark.parametrize(
    ("name", "code", "words"),
    [
        ("SIGKILL", 137, ("-9", "host RAM", "Free RAM now")),
        ("SIGBUS", 135, ("-7", "/dev/shm", "--shm-size=8g", "Free in /dev/shm now")),
        ("SIGFPE", 136, ("-8", "llava-finetune doctor", "TORCH_EXTENSIONS_DIR")),
        ("SIGSEGV", 139, ("-11", "doctor")),
    ],
)
def test_a_killed_process_is_explained(
    name: str, code: int, words: tuple[str, ...], capfd: pytest.CaptureFixture[str]
) -> None:
    assert processes.run([sys.executable, "-c", KILL.format(name)], os.environ) == code
    text = capfd.readouterr().err
    for word in words:
        assert word in text


def test_torchrun_tells_the_signal_on_stderr(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    program = tmp_path / "torchrun"
    program.write_text(TORCHRUN)
    program.chmod(0o755)
    path = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    old = os.environ["PATH"]
    os.environ["PATH"] = path["PATH"]
    try:
        assert processes.run(["torchrun"], {**os.environ}) == 135
    finally:
        os.environ["PATH"] = old
    text = capfd.readouterr().err
    assert "Signal 7 (SIGBUS) received by PID 4" in text, "what torchrun says is passed on"
    assert "a process ended with exit code -7: bus error" in text


def test_the_message_of_the_rank_that_failed_comes_last(capfd: pytest.CaptureFixture[str]) -> None:
    code = (
        "import os, sys; os.environ['RANK'] = '1'\n"
        "from llava_finetune.errors import record_failure\n"
        "record_failure('record 7: no picture'); print('noise', file=sys.stderr); sys.exit(1)"
    )
    assert processes.run([sys.executable, "-c", code], os.environ) == 1
    assert capfd.readouterr().err == "noise\nrank 1 ended the run: record 7: no picture\n"


@pytest.mark.parametrize(
    ("code", "expected"), [(75, 75), (71, 0)], ids=["a run to queue again", "one to start with half the batch"]
)
def test_a_screen_that_is_gone_changes_no_exit_code(
    code: int, expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once out of memory is enough: the second try, with half the batch, ends with 0."""
    rank = (
        "import os, sys; os.environ['RANK'] = '0'\n"
        "from llava_finetune.errors import record_failure\n"
        "'--resume' in sys.argv and sys.exit(0)\n"
        f"record_failure('told', {code}); sys.exit({code})"
    )
    for name in ("stdout", "stderr"):
        read, write = os.pipe()
        os.close(read)
        monkeypatch.setattr(sys, name, os.fdopen(write, "w"))
    assert run_until_it_fits([sys.executable, "-c", rank], os.environ, 2, 1) == expected
    for stream in (sys.stdout, sys.stderr):
        stream.close()  # what it buffers finds an end


def test_where_the_output_is_not_shared_hosts_and_their_logs_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    launcher, hosts, output = tmp_path / "deepspeed", tmp_path / "hosts", tmp_path / "out"
    launcher.write_text("#!/bin/sh\nexit 1\n")
    launcher.chmod(0o755)
    hosts.write_text("one slots=1\ntwo slots=1\n")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    command = ["deepspeed", "--hostfile", str(hosts), "train", "--output_dir", str(output)]
    assert processes.run(command, os.environ) == 1
    log = output / "debug.log"
    said = f"message is in the debug.log of its own machine: one:{log}, two:{log}\n"
    assert capfd.readouterr().err.endswith(said)
    hosts.unlink()
    assert processes.run(command, os.environ) == 1
    assert "training ended with exit code 1" in capfd.readouterr().err, "also where the hosts' file is gone by then"
    assert processes.run([command[0], "--no_ssh", *command[1:]], os.environ) == 1
    assert "own machine" not in capfd.readouterr().err, "there a launcher on each machine tells it"


def test_a_good_run_says_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    assert processes.run([sys.executable, "-c", "print('done')"], os.environ) == 0
    assert capfd.readouterr() == ("done\n", "")


def test_a_missing_launcher_names_setup(capfd: pytest.CaptureFixture[str]) -> None:
    assert processes.run(["no-such-launcher"], os.environ) == 1
    assert capfd.readouterr().err == "error: no no-such-launcher on PATH; run: bash scripts/setup.sh\n"


def test_sigterm_is_passed_on_to_the_run() -> None:
    code = (
        "import os, sys; from llava_finetune.launching.processes import run\n"
        "sys.exit(run([sys.executable, '-c', 'import time; print(1, flush=True); time.sleep(60)'], os.environ))"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.terminate()
        _, err = process.communicate(timeout=30)
    assert process.returncode == 143
    assert b"ended by another process (SIGTERM)" in err


def catches(pid: int, number: int) -> bool:
    """Whether a process has a handler for a signal: the rank may be quicker than its launcher."""
    status = Path(f"/proc/{pid}/status")
    if not status.is_file():
        return True
    caught = next(line for line in status.read_text().splitlines() if line.startswith("SigCgt"))
    return bool(int(caught.split()[1], 16) >> (number - 1) & 1)


def test_the_second_sigquit_ends_a_rank_that_hears_nothing() -> None:
    rank = (
        "import signal, time; signal.signal(15, lambda *_: print(2, flush=True)); print(1, flush=True)\n"
        "while True: time.sleep(60)"
    )
    code = (  # a shell that starts the tests in its background leaves SIGQUIT ignored, and the launcher keeps to that
        "import os, signal, sys; signal.signal(signal.SIGQUIT, signal.SIG_DFL)\n"
        "from llava_finetune.launching.processes import run\n"
        f"sys.exit(run([sys.executable, '-c', {rank!r}], os.environ))"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"1\n"
        while not catches(process.pid, signal.SIGQUIT):
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGQUIT)
        assert process.stdout.readline() == b"2\n", "the first one asks to save, and ends nothing"
        process.send_signal(signal.SIGQUIT)
        process.communicate(timeout=30)
    assert process.returncode == 137


LAUNCHER = """
import os, signal, subprocess, sys, time
rank = '''
import os, signal, sys, time
from llava_finetune.errors import record_failure
def save(number, frame):
    time.sleep(1)
    record_failure("SIGTERM at step 3 of 6: checkpoint-3 is saved", 75)
    open(sys.argv[1], "w").write("saved")
    sys.exit(75)
signal.signal(signal.SIGTERM, save)
if os.fork() == 0:  # as a data loading worker: told nothing, it lives on
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    time.sleep(4)
    os._exit(0)
print("ready", flush=True)
while True:
    time.sleep(1)
'''
child = subprocess.Popen([sys.executable, "-c", rank, sys.argv[1]], env={**os.environ, "LOCAL_RANK": "0", "RANK": "0"})
sys.exit(1 if child.wait() else 0)
"""


@pytest.mark.parametrize("everybody", [False, True], ids=["the launcher alone", "every process, as a scheduler does"])
def test_a_run_that_is_told_to_stop_saves_and_ends_with_the_code_to_requeue_on(everybody: bool, tmp_path: Path) -> None:
    saved = tmp_path / "saved"
    code = (
        "import os, sys; from llava_finetune.launching.processes import run\n"
        f"sys.exit(run([sys.executable, '-c', {LAUNCHER!r}, {str(saved)!r}], os.environ))"
    )
    environment = {name: value for name, value in os.environ.items() if name != "LOCAL_RANK"}
    with subprocess.Popen(
        [sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        middle = psutil.Process(process.pid).children()[0]
        process.terminate()
        if everybody:  # DeepSpeed's and torchrun's launchers end at once and leave their ranks
            middle.terminate()
        _, err = process.communicate(timeout=30)
    assert process.returncode == 75, err
    assert saved.read_text() == "saved"
    assert err.decode() == "rank 0 ended the run: SIGTERM at step 3 of 6: checkpoint-3 is saved\n"


HASTY = """#!{python}
import os, signal, subprocess, sys
variables = {{**os.environ, "LOCAL_RANK": "0", "RANK": "0"}}
child = subprocess.Popen([sys.executable, "-c", {rank!r}, sys.argv[1]], env=variables)
def stop(number, frame):
    child.kill()
    sys.exit(1)
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, stop)
sys.exit(1 if child.wait() else 0)
"""
RANK = LAUNCHER.split("'''")[1]


@pytest.mark.parametrize(
    ("number", "told", "said"),
    [
        (signal.SIGINT, "SIGINT", "stopped by you at step 3 of 6: checkpoint-3 is saved\n"),
        (signal.SIGHUP, "SIGTERM", "rank 0 ended the run: SIGTERM at step 3 of 6: checkpoint-3 is saved\n"),
    ],
    ids=["Ctrl-C", "a terminal that is closed"],
)
def test_the_ranks_are_told_and_no_launcher_that_would_kill_them_while_they_save(
    number: signal.Signals, told: str, said: str, tmp_path: Path
) -> None:
    launcher = tmp_path / "deepspeed"
    launcher.write_text(HASTY.format(python=sys.executable, rank=RANK.replace("SIGTERM", told)))
    launcher.chmod(0o755)
    saved = tmp_path / "saved"
    code = (
        "import os, signal, sys; from llava_finetune.launching.processes import run\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # in the background of a script it is ignored
        "signal.signal(signal.SIGHUP, signal.SIG_DFL)\n"
        f"sys.exit(run(['deepspeed', {str(saved)!r}], os.environ))"
    )
    environment = {name: value for name, value in os.environ.items() if name != "LOCAL_RANK"}
    environment["PATH"] = f"{tmp_path}{os.pathsep}{environment['PATH']}"
    with subprocess.Popen(
        [sys.executable, "-c", code],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        os.killpg(process.pid, number)  # as a terminal does: all that run in its foreground
        _, err = process.communicate(timeout=30)
    assert process.returncode == 75, err
    assert saved.read_text() == "saved"
    assert err.decode() == said


def test_a_held_port_is_left_to_its_owner() -> None:
    with socket.socket() as holder:
        holder.bind(("", 0))
        holder.listen()
        assert holder.getsockname()[1] not in {processes.free_port() for _ in range(20)}


def test_too_small_shared_memory_is_refused_before_the_start() -> None:
    with pytest.raises(UserError, match=r"/dev/shm has 64 MB free, 2 processes need 134 MB .* --shm-size=8g"):
        preflight.require_shm(2, 64_000_000)
    preflight.require_shm(1, 64_000_000)
    preflight.require_shm(8, None)


def test_too_little_ram_is_refused_before_the_start() -> None:
    with pytest.raises(UserError, match=r"2 processes need about 30.0 GB of RAM .* 20.0 GB are free .* -9") as two:
        preflight.require_ram(30 * 10**9, 2, 20 * 10**9)
    with pytest.raises(UserError, match=r"1 process needs about 30.0 GB") as one:
        preflight.require_ram(30 * 10**9, 1, 20 * 10**9)
    assert "fewer processes" in str(two.value) and "zero3" in str(two.value)
    assert "fewer processes" not in str(one.value) and "zero3" not in str(one.value), "no advice that cannot help"
    with pytest.raises(UserError) as quantised:
        preflight.require_ram(30 * 10**9, 1, 20 * 10**9, "qlora")
    assert "finetune_qlora" not in str(quantised.value)
    preflight.require_ram(10, 2, 20)


def test_ram_grows_with_the_ranks_that_load_the_whole_model(root: Path) -> None:
    model, config = "liuhaotian/llava-v1.5-7b", root / "deepspeed_configs"
    one, eight = (
        preflight.ram_needed(model, "lora", ranks, on_gpu=True, config=config / "zero2.json") or 0 for ranks in (1, 8)
    )
    assert one > 14 * 10**9 and eight == 8 * one
    sharded = preflight.ram_needed(model, "lora", 8, on_gpu=True, config=config / "zero3.json") or 0
    assert sharded < eight / 3


def test_a_model_that_is_not_at_hand_is_not_guessed(root: Path) -> None:
    assert preflight.ram_needed("some/other-model", "lora", 2, on_gpu=True, config=None) is None


def test_a_broken_deepspeed_config_is_named(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_text('{"zero_optimization": {"stage": 3,}}')
    with pytest.raises(UserError, match=r"mine.json: line 1, column .*compare deepspeed_configs/zero2.json"):
        preflight.zero_stage(path)


def test_a_lock_of_a_killed_build_is_removed_and_a_live_one_kept(tmp_path: Path) -> None:
    killed, fresh, building = (tmp_path / name / "lock" for name in ("killed", "fresh", "building"))
    for lock in (killed, fresh, building):
        lock.parent.mkdir()
        lock.touch()
    for lock in (killed, building):
        os.utime(lock, (0, 0))
    with subprocess.Popen([sys.executable, "-c", "input()"], cwd=building.parent, stdin=subprocess.PIPE) as builder:
        assert preflight.drop_stale_locks(tmp_path) == [killed]
        builder.communicate(b"\n", timeout=30)
    assert not killed.exists() and fresh.exists() and building.exists()
    assert preflight.is_unbuilt(tmp_path) and preflight.is_unbuilt(tmp_path / "gone")
    (fresh.parent / "adam.so").touch()
    assert not preflight.is_unbuilt(tmp_path)


def test_a_driver_that_does_not_answer_is_an_error_and_no_training_on_the_cpu(
    tmp_path: Path, programs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from llava_finetune import machine

    monkeypatch.setenv("PATH", str(programs))  # its nvidia-smi ends with 9
    monkeypatch.setattr(machine, "DRIVERS_GPUS", tmp_path / "none")
    assert machine.gpus() == []
    (tmp_path / "gpus" / "0000:01:00.0").mkdir(parents=True)
    monkeypatch.setattr(machine, "DRIVERS_GPUS", tmp_path / "gpus")
    with pytest.raises(UserError, match=r"nvidia-smi failed .*status 9.*NUM_GPUS=0 trains on the CPU"):
        machine.gpus()


def test_a_memory_check_that_is_left_out_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    preflight.require_ready(mode="lora", model="nobody/unknown", processes=1, on_gpu=False, config=None)
    assert "the memory check is left out: the config of nobody/unknown is not at hand" in capsys.readouterr().err
