"""The examples in the docstrings of modules are Python or a command, and call what is there."""

from __future__ import annotations

import ast
import builtins
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from llava_finetune.cli import COMMANDS
from tests.house.test_layering import ROOT, modules

PACKAGES = ("patches", "data_prep", "llava_finetune")
COMMAND = re.compile(r"(?:\w+=\S+ )*(?:llava-finetune|python|bash|deepspeed|pytest)\b")
BEGINS = re.compile(r"[\w.]+(, [\w.]+)* \+?= |[\w.]+\(|class \w+\(|with |raise |>>> |for |assert |from |import ")
RAW = tuple('{[<|-"')
TREES = {path: ast.parse(path.read_text(encoding="utf-8")) for package in PACKAGES for path in modules(package)}


def examples(tree: ast.Module) -> Iterator[str]:
    """The blocks of a module's docstring that are examples: indented ones, or code where nothing is indented."""
    for block in (ast.get_docstring(tree) or "").split("\n\n")[1:]:
        lines = block.strip("\n").split("\n")
        code = textwrap.dedent(block.strip("\n"))
        if all(line.startswith("    ") for line in lines) or BEGINS.match(code):
            asked = [line for line in code.split("\n") if line.startswith((">>> ", "... "))]  # and no answers
            yield re.sub(r"(?m)^(?:>>>|[.]{3}) |  -> .*$", "", "\n".join(asked) or code)


def names_in(tree: ast.AST) -> set[str]:
    """What a module defines or imports, at any depth."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            found |= {(alias.asname or alias.name).split(".")[0] for alias in node.names}
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
    return found


def called(tree: ast.AST) -> set[str]:
    """The plain names that an example calls or derives from."""
    nodes = list(ast.walk(tree))
    used = [node.func for node in nodes if isinstance(node, ast.Call)]
    used += [base for node in nodes if isinstance(node, ast.ClassDef) for base in node.bases]
    return {node.id for node in used if isinstance(node, ast.Name)}


def fault_of(code: str, known: set[str]) -> str | None:
    """Why an example is wrong; what is raw data, a drawing or a file's content is not looked at."""
    if found := COMMAND.match(code):
        words = code[found.start() :].split()
        named = words[words.index("llava-finetune") + 1] if "llava-finetune" in words else None
        return None if named in {*COMMANDS, None} else f"no command {named}"
    if code.startswith(RAW) or not re.search("[(=]", code):
        return None
    try:
        tree = ast.parse(code)
    except SyntaxError as error:
        return f"not Python ({error.msg}): {error.text}"
    missing = called(tree) - known - names_in(tree)
    return f"calls what is not there: {', '.join(sorted(missing))}" if missing else None


@pytest.mark.parametrize("package", PACKAGES)
def test_every_example_is_python_and_calls_what_is_there(package: str) -> None:
    known = set(dir(builtins)).union(*map(names_in, TREES.values()))
    faults = [
        f"{path.relative_to(ROOT)}: {fault}"
        for path, tree in TREES.items()
        if path.is_relative_to(ROOT / package)
        for code in examples(tree)
        if (fault := fault_of(code, known))
    ]
    assert faults == []


def test_most_modules_show_an_example() -> None:
    shown = [path for path, tree in TREES.items() if any(examples(tree))]
    assert len(shown) > 0.6 * len(TREES)


def test_a_wrong_example_is_found(tmp_path: Path) -> None:
    assert fault_of("save(model", {"save"}) and fault_of("llava-finetune evalute --model x", set())
    assert fault_of("gone(1)", {"there"}) == "calls what is not there: gone"
    assert fault_of("x = there(1)", {"there"}) is None and fault_of("llava-finetune chat runs/a", set()) is None
