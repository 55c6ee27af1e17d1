"""Every patch names a test that is there and fails without it; its conditions are false before it and true after."""

import ast
import subprocess
import sys
from pathlib import Path

import libcst as cst
import pytest

from patches.engine import judge
from patches.proofs import broken, holds, promised
from patches.series import Patch, load_series, read_order

SAMPLE = ("sampler_dataset", "train_base_wins", "serve_timeout")


@pytest.fixture(scope="module")
def before_and_after(pristine: dict[str, bytes]) -> tuple[dict[str, cst.Module], dict[str, cst.Module]]:
    """The files that the series touches, without and with it."""
    after: dict[str, cst.Module] = {}
    judge(load_series(), pristine, after)
    return {name: cst.parse_module(pristine[name].decode()) for name in after}, after


def patch_of(name: str) -> Patch:
    """One patch of the series."""
    [found] = [patch for patch in load_series() if patch.name == name]
    return found


@pytest.mark.parametrize("name", read_order())
def test_the_named_test_is_there(name: str, root: Path) -> None:
    file, _, test = patch_of(name).proven_by.partition("::")
    tree = ast.parse((root / "tests/patches" / file).read_text(encoding="utf-8"))
    assert test.partition("[")[0] in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("name", [patch.name for patch in load_series() if patch.drop_if])
def test_the_conditions_for_dropping_are_false_before_the_patch_and_true_after(
    name: str, before_and_after: tuple[dict[str, cst.Module], dict[str, cst.Module]]
) -> None:
    before, after = before_and_after
    assert not holds(patch_of(name).drop_if, before)
    assert broken(promised(patch_of(name)), after) == []


@pytest.mark.slow
def test_a_fixed_sample_is_proven_and_an_unknown_name_refused() -> None:
    """`python -m patches prove` without names proves all; these three stand for the trainer, its data and a server."""
    command = [sys.executable, "-m", "patches", "prove"]
    done = subprocess.run([*command, *SAMPLE], capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    assert "3 of 3 patches proven alive" in done.stdout
    assert "serve_timeout" in done.stdout and "without it: " in done.stdout
    wrong = subprocess.run([*command, "serve_tmeout"], capture_output=True, text=True, timeout=300, check=False)
    assert wrong.returncode == 2
    assert "serve_tmeout: no such patch" in wrong.stderr
