"""Shared material of the report's tests: made run folders.

python -m pytest tests/report -q
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.report import run_maker


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Path]:
    """Return `make_run(name="made", **options)`, which writes a run folder below tmp_path."""
    return lambda name="made", **options: run_maker.make_run(tmp_path / name, **options)
