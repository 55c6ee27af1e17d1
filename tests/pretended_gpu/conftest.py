"""Every pretended training of jobs.py, run once in a process of its own."""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from llava_finetune.pretended_gpu.facts import Facts


@pytest.fixture(scope="session")
def facts(tmp_path_factory: pytest.TempPathFactory, root: Path) -> Callable[[str], Facts]:
    """facts("lora") -> what that training showed; a training that failed fails the test with its traceback."""
    out = tmp_path_factory.mktemp("pretended") / "facts.pickle"
    command = [sys.executable, "-m", "tests.pretended_gpu.jobs", str(out)]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stderr[-4000:]
    found = pickle.loads(out.read_bytes())

    def of(name: str) -> Facts:
        assert isinstance(found[name], Facts), found[name]
        return found[name]

    return of
