"""docs/architecture.md is the code's: its tree of rooms is generated, and every file and function it names is there."""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.house.test_layering import ROOMS

WRITTEN = "written by pytest tests/house/test_architecture.py --update-golden"


def first_line(path: Path) -> str:
    """What a module or a package says of itself in one line."""
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").splitlines()[0]


def tree(root: Path) -> str:
    """Every room in import order, with its own line."""
    lines = []
    for package, rooms in ROOMS.items():
        lines += ["", f"`{package}`", "", "| room | what is in it |", "|---|---|"]
        lines += [f"| `{room}` | {first_line(root / package / room)} |" for room in rooms]
    return "\n".join([*lines, ""])


@functools.cache
def index(root: Path) -> str:
    """Every module of every room, with its own line."""
    lines = []
    for package, rooms in {**ROOMS, "patches": [""]}.items():
        for room in rooms:
            folder = root / package / room
            files = sorted(folder.rglob("*.py") if room else folder.glob("*.py"))
            files = [file for file in files if not file.name.startswith("__")]
            if not files:
                continue
            lines += ["", f"`{package}/{room}`".replace("/`", "`"), ""]
            lines += [f"- `{file.relative_to(folder).with_suffix('')}`: {first_line(file)}" for file in files]
    return "\n".join([*lines, ""])


@pytest.fixture
def page(root: Path) -> str:
    return (root / "docs/architecture.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(("name", "made"), [("rooms", tree), ("modules", index)])
def test_what_is_generated_is_the_codes(
    root: Path, request: pytest.FixtureRequest, name: str, made: Callable[[Path], str]
) -> None:
    page = (root / "docs/architecture.md").read_text(encoding="utf-8")
    begin, end = f"<!-- {name}: {WRITTEN} -->", f"<!-- end of {name} -->"
    head, _, rest = page.partition(begin)
    _, _, tail = rest.partition(end)
    wanted = f"{head}{begin}\n{made(root)}\n{end}{tail}"
    if request.config.getoption("--update-golden"):
        (root / "docs/architecture.md").write_text(wanted, encoding="utf-8")
        page = wanted
    assert page == wanted, "write it with: python -m pytest tests/house/test_architecture.py --update-golden"


def test_every_module_says_what_it_is_in_one_whole_line(root: Path) -> None:
    said = re.findall(r"^- `([\w/]+)`: (.+)$", index(root), re.MULTILINE)
    assert len(said) > 300
    assert [name for name, words in said if not words.endswith((".", "?"))] == []


def test_every_file_that_it_names_is_there(page: str, root: Path) -> None:
    named = set(re.findall(r"`((?:patches|data_prep|llava_finetune|scripts|tests)/[\w./]+)`", page))
    assert len(named) > 40
    assert [name for name in sorted(named) if name != "tests/ROOM" and not (root / name).exists()] == []


def test_every_function_stands_in_the_file_of_its_row(page: str, root: Path) -> None:
    rows = re.findall(r"^\|[^|]+\| `([\w./]+\.py)` \| `(\w+)` \|", page, re.MULTILINE)
    assert len(rows) > 15
    for file, name in rows:
        tree = ast.parse((root / file).read_text(encoding="utf-8"))
        names = {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
        assert name in names, f"{file}: no {name}"


def test_every_name_in_a_file_is_there(page: str, root: Path) -> None:
    """`A` and `B` in `FILE`, `A` of `FILE`."""
    said = re.findall(r"((?:`\w+`(?:,| and| or)? )+)(?:in|of) `([\w./]+\.py)`", page)
    assert len(said) > 20
    for names, file in said:
        text = (root / file).read_text(encoding="utf-8")
        for name in re.findall(r"`(\w+)`", names):
            assert re.search(rf"^(?:(?:async )?def|class) {name}\b|^{name}\b.*=", text, re.MULTILINE), (
                f"{file}: no {name}"
            )


def test_every_test_folder_has_its_room_or_its_line(page: str, root: Path) -> None:
    folders = {path.parent.name for path in (root / "tests").rglob("test_*.py")}
    across = {name for name in folders if name not in ROOMS["llava_finetune"]}
    assert [name for name in sorted(across) if f"`tests/{name}`" not in page] == []
