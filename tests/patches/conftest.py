"""Pristine upstream and tiny models, made once per session."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from patches.source import find_source, read_pristine

#: A folder that a session finds its tiny models in.
MADE = "TINY_MODELS"


@pytest.fixture(scope="session")
def source() -> Path:
    """Where `python -m patches fetch` put upstream."""
    return find_source()


@pytest.fixture(scope="session")
def pristine(source: Path) -> dict[str, bytes]:
    """The 50 files."""
    return read_pristine(source)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny LLaVAs of every family, a plain language model in `language`, a Mistral one in `mistral`.

    Under `python -m patches prove` they are there already, made with the whole series.
    """
    if made := os.environ.get(MADE):
        return Path(made)
    return make_tiny(tmp_path_factory.mktemp("tiny"))


def make_tiny(folder: Path) -> Path:
    """What the fixture `tiny` gives."""
    from tests.tiny import FAMILIES, make_tiny_language_model, make_tiny_llava

    for family in FAMILIES:
        make_tiny_llava(folder / family, family)
    make_tiny_language_model(folder / "language")
    make_tiny_language_model(folder / "mistral", language="mistral")
    return folder


@pytest.fixture
def copy_of_upstream(tmp_path: Path, pristine: dict[str, bytes]) -> Path:
    """A folder of pristine files that a test may change."""
    folder = tmp_path / "upstream"
    for name, content in pristine.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


def run_module(module: str, *arguments: object, **keywords: object) -> subprocess.CompletedProcess[str]:
    """`python -m module arguments`, with its output as text."""
    command = [sys.executable, "-m", module, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, **keywords)  # type: ignore[call-overload,no-any-return]
