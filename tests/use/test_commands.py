"""The commands' help: examples, exit codes, and no heavy import before they are needed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = ("torch", "transformers", "gradio", "fastapi", "peft")


@pytest.mark.parametrize("name", ["merge", "export", "import", "chat", "serve"])
def test_help_has_examples_and_loads_nothing_heavy(name: str, root: Path) -> None:
    code = (
        "import sys\nfrom llava_finetune.cli import main\n"
        f"try:\n    main(['{name}', '--help'])\nexcept SystemExit as end:\n    assert end.code == 0\n"
        f"print('heavy:', sorted(set(sys.modules) & set({HEAVY!r})))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert f"usage: llava-finetune {name}" in done.stdout
    assert "examples:" in done.stdout
    assert done.stdout.rstrip().endswith("heavy: []")


@pytest.mark.parametrize(
    "words", [["merge"], ["export", "only-one"], ["import"], ["chat"], ["serve", "--port", "x", "m"]]
)
def test_wrong_use_ends_with_2(words: list[str], root: Path) -> None:
    command = [sys.executable, "-m", "llava_finetune", *words]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
