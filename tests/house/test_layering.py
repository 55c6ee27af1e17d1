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


ROOMS = {
    "llava_finetune": [
        "errors",
        "machine",
        "flags",
        "parent",
        "screen",
        "cli",
        "environments",
        "kernels",
        "saved",
        "planning",
        "launching",
        "config",
        "data",
        "model",
        "evaluation",
        "report",
        "training",
        "pretended_gpu",
        "upstream",
        "convert",
        "merge",
        "engines",
        "publish",
        "serve",
        "studio",
        "doctor",
        "quickstart",
    ],
    "data_prep": [
        "errors",
        "command_line",
        "numbers",
        "picture_folder",
        "last_resort",
        "files",
        "progress",
        "publishing",
        "records",
        "boxes",
        "view",
        "check",
        "converters",
        "detection",
        "hf",
        "generate",
        "tools",
    ],
}
"""A room imports only rooms before it."""


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


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def own_imports(package: str) -> dict[str, list[tuple[str, int]]]:
    """Per module of `package`: (module of the same package that it imports anywhere, line)."""
    names = {module_name(path) for path in modules(package)}
    found: dict[str, list[tuple[str, int]]] = {}
    for path in modules(package):
        wanted = found.setdefault(module_name(path), [])
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                asked = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                inside = [f"{node.module}.{alias.name}" for alias in node.names]
                asked = [name if name in names else node.module for name in inside]
            else:
                continue
            wanted += [(name, node.lineno) for name in asked if name in names and name != package]
    return found


@pytest.mark.parametrize("package", ROOMS)
def test_no_room_imports_a_later_one(package: str) -> None:
    order = {room: number for number, room in enumerate(ROOMS[package])}
    found = [
        f"{name}:{line} imports {other}"
        for name, wanted in own_imports(package).items()
        if name.count(".") and not name.endswith("__main__")
        for other, line in wanted
        if order[other.split(".")[1]] > order[name.split(".")[1]]
    ]
    assert found == []


@pytest.mark.parametrize("package", ROOMS)
def test_no_modules_import_each_other_in_a_circle(package: str) -> None:
    graph = {name: {other for other, _ in wanted} - {name} for name, wanted in own_imports(package).items()}
    while leaves := [name for name, wanted in graph.items() if not wanted & graph.keys()]:
        for name in leaves:
            del graph[name]
    assert sorted(graph) == []


@pytest.mark.parametrize("package", ROOMS)
def test_every_room_is_listed_and_says_what_it_holds(package: str) -> None:
    entries = [entry for entry in (ROOT / package).iterdir() if not entry.name.startswith("__")]
    rooms = {entry.stem for entry in entries if entry.suffix == ".py" or (entry / "__init__.py").is_file()}
    assert rooms == set(ROOMS[package])
    for room in rooms:
        path = ROOT / package / room
        path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        words = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
        assert words and len(words.splitlines()[0]) > 20, path


COMMAND_LINE = {"llava_finetune.config.arguments", "llava_finetune.config.training_flags"}


def test_a_trainings_command_line_is_no_messenger() -> None:
    seen = [
        name
        for name, wanted in own_imports("llava_finetune").items()
        if any(other in COMMAND_LINE for other, _ in wanted)
    ]
    assert len(seen) < 10, seen


def test_nothing_is_planted_on_a_model_or_a_trainer_from_outside() -> None:
    """`trainer.x = ...` anywhere but in the trainer's own methods; a model is told by a method of its own."""
    watched = {"trainer", "model", "training", "arguments"}
    found = []
    for room in ("config", "data", "evaluation", "model", "training"):
        for path in sorted((ROOT / "llava_finetune" / room).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                targets = node.targets if isinstance(node, ast.Assign) else []
                if isinstance(node, ast.AugAssign | ast.AnnAssign):
                    targets = [node.target]
                for target in targets:
                    for one in target.elts if isinstance(target, ast.Tuple) else [target]:
                        holder = one.value if isinstance(one, ast.Attribute) else None
                        name = getattr(holder, "id", getattr(holder, "attr", None))
                        if name in watched:
                            found.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert found == []


@pytest.mark.parametrize("package", FORBIDDEN)
def test_a_module_is_read_in_one_sitting(package: str) -> None:
    lengths = {
        str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines()) for path in modules(package)
    }
    assert {name: length for name, length in lengths.items() if length > 310} == {}, "split it by intention"


def test_tests_stand_in_the_folder_of_the_room_that_they_prove() -> None:
    whole = {"data_prep", "patches"}
    across = {"house", "oracle", "families", "fixtures"}
    found = {path.parent.name for path in (ROOT / "tests").rglob("test_*.py")}
    assert found <= whole | across | set(ROOMS["llava_finetune"])


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


@pytest.mark.parametrize("package", sorted(FORBIDDEN))
def test_no_two_modules_of_a_room_differ_in_an_s(package: str) -> None:
    names = {path.with_suffix("") for path in modules(package)}
    assert [str(path) for path in names if path.with_name(path.name + "s") in names] == []


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
