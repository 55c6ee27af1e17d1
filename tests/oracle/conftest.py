"""Upstream patched for today's stack alone, in a tree of its own, and tiny tokenizers of each kind."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tiny import make_tiny_language_model


@pytest.fixture(scope="session")
def upstream_tree(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose `llava` is pinned upstream with nothing but the patches that today's packages force."""
    folder = tmp_path_factory.mktemp("upstream")
    command = [sys.executable, "-m", "patches", "apply", "--only", "stack", "--output", str(folder)]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def _edit(folder: Path, **values: object) -> None:
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.fixture(scope="session")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders by kind: llama, legacy (as Llama-1 and -2 checkpoints), chatml, and smol, whose BOS is <|im_start|>."""
    folder = tmp_path_factory.mktemp("tokenizers")
    kinds = {"llama": "llama", "legacy": "llama", "chatml": "chatml", "smol": "chatml"}
    paths = {name: make_tiny_language_model(folder / name, tokenizer=kind) for name, kind in kinds.items()}
    _edit(paths["legacy"], legacy=True)
    _edit(paths["smol"], bos_token="<|im_start|>")
    return paths
