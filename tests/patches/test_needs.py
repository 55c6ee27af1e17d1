"""Any patch can be left out and any kind applied alone: every name resolves, or the refusal tells what to leave."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from patches.engine import Memory, Status, judge
from patches.series import Kind, Patch, SeriesError, dependents, load_series, read_order


def without(name: str) -> list[Patch]:
    """The series without one patch; where others need it, the command that the refusal gives is followed."""
    try:
        return load_series(without=[name])
    except SeriesError as error:
        message = str(error)
    assert f"needs {name}" in message
    return load_series(without=re.findall(r"--without (\w+)", message.split("leave those out too:")[1]))


def write_changed(
    series: list[Patch], pristine: dict[str, bytes], memory: Memory, folder: Path, only: set[str] | None = None
) -> None:
    """The files that the series changes, or those of them in `only`, as text."""
    trees: dict = {}
    results = judge(series, pristine, trees, memory)
    refused = [f"{result.patch.name}: {result.messages}" for result in results if result.status is not Status.APPLIES]
    assert not refused
    for name in trees if only is None else only & trees.keys():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(trees[name].code, encoding="utf-8")


def undefined(folder: Path) -> set[tuple[str, str]]:
    """(file, message) of every name that does not resolve, in each tree below the folder.

    By ruff's F821, and by F405 in files that import `*`: there any name may be one of those, and upstream's are.
    """
    command = [
        sys.executable,
        "-m",
        "ruff",
        "check",
        "--isolated",
        "--no-cache",
        "--select",
        "F821,F405",
        "--exit-zero",
    ]
    done = subprocess.run(
        [*command, "--output-format", "json", str(folder)], capture_output=True, text=True, check=True
    )
    return {(str(Path(row["filename"]).relative_to(folder)), row["message"]) for row in json.loads(done.stdout)}


CHOICES = ["all", *(kind.value for kind in Kind), *(f"without {name}" for name in read_order())]


@pytest.fixture(scope="module")
def found(pristine: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    """What does not resolve in the tree of each choice: `upstream`, `all`, every kind, every single drop."""
    folder, memory, whole = tmp_path_factory.mktemp("choices"), Memory(), load_series()
    for name, content in pristine.items():
        path = folder / "upstream" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    write_changed(whole, pristine, memory, folder / "all")
    for kind in Kind:
        write_changed(load_series([kind]), pristine, memory, folder / kind.value)
    for name in read_order():
        kept = without(name)
        names = {patch.name for patch in kept}
        # Only the files that the left-out patches touch can differ from the whole tree.
        touched = {file for patch in whole if patch.name not in names for file in patch.files}
        write_changed(kept, pristine, memory, folder / f"without {name}", touched)
    messages: dict[str, set[str]] = {choice: set() for choice in ("upstream", *CHOICES)}
    for file, message in undefined(folder):
        choice, _, path = file.partition("/")
        messages[choice].add(f"{path}: {message}")
    return messages


@pytest.mark.parametrize("choice", CHOICES)
def test_every_name_resolves(choice: str, found: dict[str, set[str]]) -> None:
    assert found[choice] <= found["upstream"]


def test_the_check_sees_a_name_that_does_not_resolve(tmp_path: Path, pristine: dict[str, bytes]) -> None:
    """The check itself: the same tree without its declared imports has names that do not resolve."""
    bare = [Patch(**{**patch.__dict__, "imports": ()}) for patch in load_series()]
    write_changed(bare, pristine, Memory(), tmp_path)
    messages = [message for _, message in undefined(tmp_path)]
    for name in ("flags", "folders", "guards", "pictures", "placement", "ranks", "templates", "towers", "weights"):
        assert any(f"`{name}`" in message for message in messages), name


def test_a_needed_patch_is_not_left_out_alone() -> None:
    with pytest.raises(SeriesError) as error:
        load_series(without=["builder_weights"])
    assert str(error.value) == (
        "builder_tower_override needs builder_weights; leave those out too: "
        "--without builder_weights --without builder_tower_override"
    )


def test_what_is_needed_through_others_is_left_out_too() -> None:
    names = dependents(load_series(), ["builder_folder"])
    assert {"builder_weights", "builder_dtype", "builder_tower", "serve_cli"} <= set(names)


def test_an_unknown_name_is_refused_with_the_nearest() -> None:
    with pytest.raises(SeriesError, match=r"--without load_dtyp: no such patch \(did you mean load_dtype\?\)"):
        load_series(without=["load_dtyp"])
