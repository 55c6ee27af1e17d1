"""scripts/setup.sh against bad machines: too old a Python, no compiler, no registry, a full disk, a kill half way."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

PYTHON = """#!/usr/bin/env bash
# A Python that only pretends: makes environments out of itself and notes what pip is asked for.
echo "$*" >>"$CALLS"
case "$*" in
  *version_info*) echo "${FAKE_VERSION:-3.12}" ;;
  *-V*) echo "Python ${FAKE_VERSION:-3.12}.0" ;;
  *get_paths*include*) echo "$FAKE_INCLUDE" ;;
  *get_paths*purelib*) mkdir -p "$FAKE_SITE" && echo "$FAKE_SITE" ;;
  "-m venv "*) folder="${*: -1}"; mkdir -p "$folder/bin" && cp "$0" "$folder/bin/python" ;;
  "-m pip install"*) eval "${FAKE_PIP:-true}" ;;
  "-m patches "*) eval "${FAKE_PATCHES:-true}" ;;
esac
"""


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A checkout that holds what set-up reads, and a machine whose Python pretends."""
    folder = tmp_path / "clone"
    (folder / "scripts").mkdir(parents=True)
    for name in ("setup.py", "constraints.txt", "scripts/setup.sh"):
        shutil.copy(ROOT / name, folder / name)
    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / "python3").write_text(PYTHON)
    (programs / "c++").write_text("#!/bin/sh\n")
    for program in programs.iterdir():
        program.chmod(0o755)
    include = tmp_path / "include"
    include.mkdir()
    (include / "Python.h").touch()
    # A PATH without the machine's own compilers and Pythons: only the plain tools that the script calls.
    for tool in (
        "bash",
        "sed",
        "cat",
        "cut",
        "tr",
        "grep",
        "sort",
        "paste",
        "tail",
        "mkdir",
        "cp",
        "rm",
        "mv",
        "uname",
        "dirname",
        "cksum",
        "sleep",
        "df",
        "flock",
        "env",
        "kill",
    ):
        if found := shutil.which(tool):
            (programs / tool).symlink_to(found)
    return folder


def environment(clone: Path, **variables: str) -> dict[str, str]:
    base = clone.parent
    return {
        "PATH": str(base / "programs"),
        "HOME": str(base),
        "CALLS": str(base / "calls"),
        "FAKE_INCLUDE": str(base / "include"),
        "FAKE_SITE": str(base / "site"),
        **variables,
    }


def run_setup(clone: Path, *extras: str, **variables: str) -> "subprocess.CompletedProcess[str]":
    command = ["bash", "scripts/setup.sh", *extras]
    env = environment(clone, **variables)
    return subprocess.run(command, cwd=clone, env=env, capture_output=True, text=True, timeout=60)


def pip_calls(clone: Path) -> list[str]:
    return [line for line in (clone.parent / "calls").read_text().splitlines() if line.startswith("-m pip install")]


def test_everything_is_installed_with_torch_pinned_on_every_call(clone: Path) -> None:
    result = run_setup(clone, "dev", "quant")
    assert result.returncode == 0, result.stderr
    calls = pip_calls(clone)
    assert len(calls) == 2
    assert all(" torch==2.13.0 " in call and "constraints.txt" in call for call in calls)
    assert "--no-build-isolation" in calls[1] and calls[1].endswith(f"-e {clone}[dev,quant]")
    assert (clone.parent / "site" / "llava_finetune_patched.pth").read_text() == f"{clone}/build/patched\n"
    order = [line for line in (clone.parent / "calls").read_text().splitlines() if line.startswith("-m patches")]
    assert order == ["-m patches fetch", "-m patches apply"]


def test_a_second_run_installs_nothing(clone: Path) -> None:
    run_setup(clone, "dev")
    result = run_setup(clone)
    assert result.returncode == 0 and "environment is ready" in result.stdout
    assert len(pip_calls(clone)) == 2


def test_a_new_extra_or_pin_installs_again_and_keeps_the_old_extras(clone: Path) -> None:
    run_setup(clone, "dev")
    run_setup(clone, "serve")
    assert pip_calls(clone)[-1].endswith("[dev,serve]")
    with (clone / "constraints.txt").open("a") as file:
        file.write("another==1.0\n")
    run_setup(clone)
    assert len(pip_calls(clone)) == 6
    assert pip_calls(clone)[-1].endswith("[dev,serve]")


def test_an_old_python_is_named_with_what_to_do(clone: Path) -> None:
    result = run_setup(clone, FAKE_VERSION="3.8")
    assert result.returncode == 1
    assert "setup: Python 3.10 to 3.13 is needed; python3 is 3.8;\n" in result.stderr
    assert "PYTHON=/path/to/python3.12 bash scripts/setup.sh" in result.stderr
    assert not (clone / ".venv").exists()


def test_a_python_that_is_too_new_is_refused_too(clone: Path) -> None:
    assert "python3 is 3.14;" in run_setup(clone, FAKE_VERSION="3.14").stderr


def test_the_python_that_is_named_is_the_one_used(clone: Path) -> None:
    result = run_setup(clone, PYTHON="/no/such/python3.12")
    assert result.returncode == 1
    assert "Python 3.10 to 3.13 is needed; none found on PATH;" in result.stderr


def test_no_compiler_is_said_before_anything_is_downloaded(clone: Path) -> None:
    (clone.parent / "programs" / "c++").unlink()
    result = run_setup(clone)
    assert result.returncode == 1
    assert "setup: no C++ compiler found (looked for c++, g++, clang++)" in result.stderr
    assert "apt install g++" in result.stderr
    assert not (clone / ".venv").exists() and "pip" not in (clone.parent / "calls").read_text()


def test_missing_headers_name_their_package(clone: Path) -> None:
    (clone.parent / "include" / "Python.h").unlink()
    result = run_setup(clone)
    assert result.returncode == 1 and "has no Python.h" in result.stderr and "apt install python3-dev" in result.stderr


@pytest.mark.parametrize(
    "line",
    [
        "WARNING: Retrying ... NewConnectionError('Failed to establish a new connection: Connection refused')",
        "ERROR: Could not install packages: HTTPSConnectionPool(host='registry', port=443): Read timed out.",
        "WARNING: Retrying ... ProxyError('Cannot connect to proxy.')",
    ],
)
def test_an_unreachable_registry_is_one_clear_message(clone: Path, line: str) -> None:
    fail = f'echo "{line}"; echo "ERROR: No matching distribution found for torch==2.13.0"; exit 1'
    result = run_setup(clone, FAKE_PIP=fail)
    assert result.returncode == 1
    assert result.stderr.startswith("setup: the package registry can't be reached while installing torch==2.13.0")
    assert line[:60] in result.stderr and "run this again: what is installed is kept" in result.stderr
    assert not (clone / ".venv" / ".setup-done").exists()


def test_a_full_disk_is_said(clone: Path) -> None:
    result = run_setup(clone, FAKE_PIP="echo 'ERROR: [Errno 28] No space left on device'; exit 1")
    assert result.returncode == 1 and "setup: the disk is full while installing torch==2.13.0" in result.stderr


def test_any_other_failure_shows_its_last_lines_and_the_log(clone: Path) -> None:
    result = run_setup(clone, FAKE_PIP="echo 'ERROR: resolution is impossible'; exit 1")
    assert "setup: ERROR: resolution is impossible" in result.stderr and "build/setup.log" in result.stderr


def test_a_kill_half_way_leaves_no_marker_and_the_next_run_goes_on(clone: Path) -> None:
    env = environment(clone, FAKE_PIP="sleep 30")
    process = subprocess.Popen(
        ["bash", "scripts/setup.sh"], cwd=clone, env=env, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    calls = clone.parent / "calls"
    for _ in range(300):
        if calls.exists() and "pip install" in calls.read_text():
            break
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=30)
    assert not (clone / ".venv" / ".setup-done").exists()
    result = run_setup(clone)
    assert result.returncode == 0, result.stderr
    assert (clone / ".venv" / ".setup-done").exists()


def test_an_environment_that_was_left_half_made_is_made_again(clone: Path) -> None:
    (clone / ".venv" / "bin").mkdir(parents=True)
    result = run_setup(clone)
    assert result.returncode == 0 and "making .venv again" in result.stdout


def test_a_failing_patch_series_fails_the_set_up(clone: Path) -> None:
    result = run_setup(clone, FAKE_PATCHES='echo "builder.py: expected 1, found 0" >&2; exit 1')
    assert result.returncode == 1 and "builder.py: expected 1, found 0" in result.stderr
    assert "ready" not in result.stdout.splitlines()[-1]


def test_a_sourcing_script_goes_on_in_the_environment(clone: Path) -> None:
    script = 'set -euo pipefail; source scripts/setup.sh --full; echo "$PATH"; echo "$TORCH_EXTENSIONS_DIR"'
    env = environment(clone)
    result = subprocess.run(["bash", "-c", script, "x"], cwd=clone, env=env, capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    path, extensions = result.stdout.splitlines()[-2:]
    assert path.startswith(f"{clone}/.venv/bin:") and extensions == f"{clone}/.venv/torch_extensions"


@pytest.mark.slow
def test_pip_itself_against_a_closed_registry(clone: Path) -> None:
    closed = {"PIP_CONFIG_FILE": os.devnull, "PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_RETRIES": "1"}
    env = {**os.environ, **closed, "PIP_FIND_LINKS": "", "PIP_EXTRA_INDEX_URL": "", "PYTHON": sys.executable}
    command = ["bash", "scripts/setup.sh"]
    result = subprocess.run(command, cwd=clone, env=env, capture_output=True, text=True, timeout=120)
    assert result.returncode == 1
    assert "setup: the package registry can't be reached while installing torch==2.13.0" in result.stderr
    assert not (clone / ".venv" / ".setup-done").exists()
