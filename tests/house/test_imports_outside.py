"""Benchmarks and scripts import what is there: no type checker reads them, and some run seldom."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.house.test_docstring_examples import names_in
from tests.house.test_layering import ROOT

OURS = ("benchmarks", "data_prep", "llava_finetune", "patches", "tests")
OUTSIDE = sorted(path for folder in ("benchmarks", "scripts") for path in (ROOT / folder).rglob("*.py"))


def missing(code: str) -> list[str]:
    """The names that `code` imports from our packages and that are not there, at any depth of it."""
    found = []
    for node in ast.walk(ast.parse(code)):
        module = node.module if isinstance(node, ast.ImportFrom) and node.module else ""
        if module.split(".")[0] in OURS:
            path = ROOT / module.replace(".", "/")
            source = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
            there = names_in(ast.parse(source.read_text(encoding="utf-8"))) if source.is_file() else set()
            there |= {one.stem for one in path.glob("*")}
            found += [f"{module}.{one.name}" for one in node.names if one.name not in there]
    return found


@pytest.mark.parametrize("path", OUTSIDE, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_is_imported_is_there(path: Path) -> None:
    assert missing(path.read_text(encoding="utf-8")) == []


def test_a_name_that_is_gone_is_found() -> None:
    code = "def f():\n    from llava_finetune.errors import UserError, Gone\n    from data_prep import away, check\n"
    assert missing(code) == ["llava_finetune.errors.Gone", "data_prep.away"]
