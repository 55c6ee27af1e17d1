"""Who imports whom, as DESIGN draws it, and what no tracked file may hold."""

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HEAVY = {"torch", "transformers", "peft", "accelerate", "deepspeed", "bitsandbytes"}
OURS = {"patches", "data_prep", "llava_finetune", "llava"}
FORBIDDEN = {
    "patches": HEAVY | {"data_prep", "llava_finetune", "llava"},
    "data_prep": {"patches", "llava"},
    "llava_finetune": set(),
}


def imports(path: Path, *, top_only: bool) -> Iterator[tuple[str, int]]:
    """(package, line) of a module's absolute imports; `top_only` leaves out those inside functions."""
    inside: set[int] = set()
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            inside.update(id(child) for child in ast.walk(node))
    for node in ast.walk(tree):
        if top_only and id(node) in inside:
            continue
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name.split(".")[0], node.lineno
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.split(".")[0], node.lineno


def modules(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def tracked() -> list[str]:
    """Files that git tracks; in an unpacked archive without git, the files of our own folders."""
    result = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if result.returncode == 0:
        return [name for name in result.stdout.splitlines() if (ROOT / name).is_file()]
    return [str(path.relative_to(ROOT)) for package in OURS - {"llava"} for path in modules(package)]


@pytest.mark.parametrize("package", FORBIDDEN)
def test_no_package_imports_what_is_above_it(package: str) -> None:
    found = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in modules(package)
        for name, line in imports(path, top_only=False)
        if name in FORBIDDEN[package]
    ]
    assert found == []


def test_data_prep_imports_neither_torch_nor_the_run_time_at_import() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in modules("data_prep")
        for name, line in imports(path, top_only=True)
        if name in HEAVY | {"llava_finetune"}
    ]
    assert found == []


@pytest.mark.parametrize("command", ["patches", "data_prep", "llava_finetune"])
def test_a_commands_help_loads_no_torch(command: str) -> None:
    code = (
        "import runpy, sys; sys.argv = ['x', '--help']\n"
        f"try: runpy.run_module({command!r}, run_name='__main__')\n"
        "except SystemExit: pass\n"
        "print([name for name in ('torch', 'transformers') if name in sys.modules])"
    )
    import sys

    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert result.stdout.endswith("[]\n"), result.stdout + result.stderr


def test_the_layers_are_tested_on_something() -> None:
    assert all(len(modules(package)) > 3 for package in FORBIDDEN)


def test_no_tracked_file_names_a_persons_folder() -> None:
    pattern = re.compile(r"(?<![\w./$])/(home|Users|root|mnt|scratch)/[\w.-]+/")
    found = []
    for name in tracked():
        path = ROOT / name
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        found += [f"{name}:{number}" for number, line in enumerate(text.splitlines(), 1) if pattern.search(line)]
    assert found == []


def test_no_tracked_file_is_upstreams() -> None:
    assert [name for name in tracked() if name.startswith(("third_party/LLaVA/", "build/"))] == []


def test_no_large_file_is_tracked() -> None:
    assert [name for name in tracked() if (ROOT / name).stat().st_size > 2**20] == []


def test_scripts_and_configs_name_no_index() -> None:
    pattern = re.compile(r"--(extra-)?index-url|--find-links|https?://[\w.]*(pypi|pythonhosted|download\.pytorch)")
    names = [
        name for name in tracked() if name.startswith(("scripts/", ".ci/")) or name in ("setup.py", "constraints.txt")
    ]
    assert [name for name in names if pattern.search((ROOT / name).read_text(encoding="utf-8"))] == []
