"""The notes on the forty problems and on moving the pin name patches, modules, tests and commands that are there."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from llava_finetune.cli import COMMANDS
from patches.series import load_series, read_order

STATES = ("mended", "mended in part", "not applicable", "left")
OTHER_WORDS = {
    "stack",
    "python -m data_prep",
    "check",
    "llava_finetune.json",
    "logging_nan_inf_filter",
    "image",
    "none",
}
OURS = ("deploy", "chat", "upgrading", "oracle", "pains")


def rows(root: Path) -> list[list[str]]:
    """The cells of the forty rows of docs/pains.md."""
    lines = (root / "docs/pains.md").read_text(encoding="utf-8").splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if re.match(r"\| \d+ \|", line)]


def named(cell: str) -> Iterator[str]:
    """The words between back quotes of a cell."""
    yield from re.findall(r"`([^`]+)`", cell)


def found(root: Path, word: str) -> bool:
    """Whether a word of the table stands for a patch, a file, a command or a flag that is there."""
    word = word.rstrip("/")
    if word.startswith(("llava-finetune ", "doctor")):
        return word.removeprefix("llava-finetune ").split()[0] in COMMANDS
    if word in read_order() or (word.endswith("_*") and any(name.startswith(word[:-1]) for name in read_order())):
        return True
    if word.startswith("--"):
        flag = word.split()[0]
        return any(flag.lstrip("-") in path.read_text(encoding="utf-8") for path in modules(root))
    folders = ("", "tests/patches", "llava_finetune", "llava_finetune/upstream")
    if any((root / folder / word).exists() for folder in folders):
        return True
    module, _, attribute = word.partition(".")
    found = [path for path in modules(root) if path.stem == module]
    return any(f"def {attribute}(" in path.read_text(encoding="utf-8") for path in found)


def modules(root: Path) -> Iterator[Path]:
    yield from (root / "llava_finetune").rglob("*.py")


def test_all_forty_problems_have_a_state_what_mends_them_and_a_test(root: Path) -> None:
    table = rows(root)
    assert [int(row[0]) for row in table] == list(range(1, 41))
    for number, problem, state, by, held in table:
        assert state in STATES, number
        assert problem and by, number
        tests = [word for word in named(held) if "test" in word]
        assert tests, f"{number}: no test named"
        missing = [
            word for word in tests if not any((root / place / word).is_file() for place in ("", "tests/patches"))
        ]
        assert not missing, f"{number}: no such test file: {missing}"


@pytest.mark.parametrize("number", range(1, 41))
def test_what_a_row_names_is_there(root: Path, number: int) -> None:
    row = rows(root)[number - 1]
    unknown = {word for cell in row[3:] for word in named(cell) if not found(root, word)}
    assert not unknown - OTHER_WORDS


def test_every_patch_that_answers_a_problem_is_in_its_row(root: Path) -> None:
    """A patch says `(problem 8)` or `(problems 10, 22)` in its origin."""
    table = {int(row[0]): " ".join(row[3:]) for row in rows(root)}
    for patch in load_series():
        for group in re.findall(r"\(problems? ([\d, ]+)\)", patch.origin):
            for number in map(int, group.split(",")):
                words = list(named(table[number]))
                hit = patch.name in words or any(
                    word.endswith("_*") and patch.name.startswith(word[:-1]) for word in words
                )
                assert hit, f"{patch.name} answers problem {number}, docs/pains.md does not say so"


@pytest.mark.parametrize("page", OURS)
def test_links_and_files_of_a_page_exist(root: Path, page: str) -> None:
    text = (root / f"docs/{page}.md").read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)#:]+)\)", text)
    files = re.findall(r"`((?:tests|llava_finetune|scripts|patches|deepspeed_configs)/[\w./-]+\.(?:py|sh|json))`", text)
    missing = [link for link in links if not (root / "docs" / link).exists()]
    missing += [file for file in files if not (root / file).is_file() and "NAME" not in file]
    assert not missing


def test_a_module_is_named_with_its_folder(root: Path) -> None:
    """A bare `watch.py` tells a reader nothing; and it stays when the module moves."""
    words = {word for row in rows(root) for word in named(row[3]) if word.endswith(".py")}
    assert [word for word in sorted(words) if not (root / word).is_file()] == []


def test_the_page_on_moving_the_pin_names_patches_that_exist(root: Path) -> None:
    text = (root / "docs/upgrading.md").read_text(encoding="utf-8")
    names = set(re.findall(r"^\| `(\w+)` \| (?:drifted|already there|not needed) \|", text, re.MULTILINE))
    assert names and names <= set(read_order())
