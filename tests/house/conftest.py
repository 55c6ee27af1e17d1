"""A machine to pretend on: fake GPUs, fake launchers, and the project's scripts run in it."""

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

RECORDER = """#!/usr/bin/env bash
printf '%s\\n' "$(basename "$0")" "$@" >"$RECORD"
env >"$RECORD.env"
"""


def write_program(path: Path, text: str) -> Path:
    """An executable file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    path.chmod(0o755)
    return path


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """A folder that comes first on PATH: deepspeed and torchrun that only note what they were given, and no GPU."""
    folder = tmp_path / "programs"
    for name in ("deepspeed", "torchrun"):
        write_program(folder / name, RECORDER)
    write_program(folder / "nvidia-smi", "#!/bin/sh\nexit 9\n")
    return folder


@pytest.fixture
def with_gpus(programs: Path) -> Callable[[int, int], None]:
    """Let nvidia-smi show `number` GPUs of `gigabytes` each."""

    def show(number: int, gigabytes: int = 80) -> None:
        rows = "\n".join(f"{index}, NVIDIA Fake, {gigabytes * 1024}" for index in range(number))
        write_program(programs / "nvidia-smi", f"#!/bin/sh\ncat <<'EOF'\n{rows}\nEOF\n")

    return show


@pytest.fixture
def run_script(programs: Path, tmp_path: Path) -> Callable[..., "subprocess.CompletedProcess[str]"]:
    """Run a script of the project with these fakes, in an empty folder and with a bare environment."""

    def run(script: str, *arguments: str, **variables: str) -> "subprocess.CompletedProcess[str]":
        empty = tmp_path / "empty"
        empty.mkdir(exist_ok=True)
        environment: Mapping[str, str] = {
            "PATH": os.pathsep.join([str(programs), str(Path(sys.prefix) / "bin"), os.environ["PATH"]]),
            "HOME": str(tmp_path),
            "RECORD": str(tmp_path / "record"),
            "OMP_NUM_THREADS": "1",
            **variables,
        }
        command = ["bash", str(ROOT / script), *arguments]
        return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=empty, timeout=120)

    return run
