"""For each edit of each patch: its target renamed, moved, doubled or removed is refused in its own words, never
misapplied and never taken for what upstream has already.
"""

from collections.abc import Iterator
from typing import Any

import libcst as cst
import pytest

from patches import pattern
from patches.edits import AddParameter, Ambiguous, Applied, Edit, Failure, Gone, Missing, find_scope, first_line
from patches.filling import replace_at
from patches.series import Patch, load_series, read_order

Mutant = tuple[str, cst.Module, tuple[type[Failure], ...]]


@pytest.fixture(scope="module")
def states(pristine: dict[str, bytes]) -> dict[str, list[tuple[Edit, cst.Module]]]:
    """For each patch its edits, each with the file as the edit meets it."""
    trees: dict[str, cst.Module] = {}
    met: dict[str, list[tuple[Edit, cst.Module]]] = {}
    for patch in load_series():
        met[patch.name] = list(_advance(patch, trees, pristine))
    return met


def _advance(
    patch: Patch, trees: dict[str, cst.Module], pristine: dict[str, bytes]
) -> Iterator[tuple[Edit, cst.Module]]:
    for edit in patch.edits:
        module = trees.get(edit.file) or cst.parse_module(pristine[edit.file].decode())
        yield edit, module
        result = edit.apply(module)
        assert isinstance(result, Applied)
        trees[edit.file] = result.module


def mutants(edit: Edit, module: cst.Module) -> Iterator[Mutant]:
    """The four mutations of the edit's target, each with the refusals that fit."""
    yield from _scope_mutants(edit, module)
    if isinstance(edit, AddParameter):
        return
    scope = find_scope(module, edit.within)
    assert not isinstance(scope, Failure)
    shape, _ = edit._parse()
    matches = pattern.find(shape, pattern.node_at(module, scope), bool(edit.within))
    path, length = (*scope, *matches[-1].path), matches[-1].length
    found = _run(module, path, length)
    is_statement = isinstance(found[0], cst.BaseStatement)
    # The sole match removed is missing; one of several is a wrong count.
    fewer: tuple[type[Failure], ...] = (Missing,) if edit.count == 1 else (Ambiguous,)
    blank: Any = cst.parse_statement("pass") if is_statement else cst.Name("removed")
    yield "removed", replace_at(module, path, length, [blank]), fewer
    yield "renamed", replace_at(module, path, length, _renamed(found, edit.find, matches[-1])), fewer
    statement, run = _statement(module, path, length)
    if statement == scope:
        return  # the function's own head: the mutations of the function are those of its target
    yield "doubled", replace_at(module, statement, len(run), [*run, *run]), (Ambiguous,)
    yield "moved", _moved(module, statement, run), (*fewer, Missing)


def _moved(module: cst.Module, path: pattern.Path, run: list[Any]) -> cst.Module:
    """The module with the run of statements at `path` in a function of its own at the end."""
    elsewhere = cst.parse_module("def elsewhere():\n    pass\n").body[0]
    moved = replace_at(elsewhere, (("body", None), ("body", 0)), 1, run)
    without = replace_at(module, path, len(run), [cst.parse_statement("pass")])
    return without.with_changes(body=[*without.body, moved])  # type: ignore[no-any-return]


def _scope_mutants(edit: Edit, module: cst.Module) -> Iterator[Mutant]:
    if not edit.within:
        return
    path = find_scope(module, edit.within)
    assert not isinstance(path, Failure)
    node = pattern.node_at(module, path)
    renamed = node.with_changes(name=cst.Name("another_name"))
    yield "function renamed", replace_at(module, path, 1, [renamed]), (Gone,)
    yield "function doubled", replace_at(module, path, 1, [node, node]), (Ambiguous,)
    yield "function moved", _moved(module, path, [node]), (Gone,)
    if isinstance(edit, AddParameter):
        kept = [each for each in node.params.params if each.name.value != edit.find]
        changed = node.with_changes(params=node.params.with_changes(params=kept))
        yield "parameter removed", replace_at(module, path, 1, [changed]), (Missing,)
        moved = changed.params.with_changes(kwonly_params=[cst.Param(cst.Name(edit.find))], star_arg=cst.ParamStar())
        changed = changed.with_changes(params=moved)
        yield "parameter moved", replace_at(module, path, 1, [changed]), (Missing,)


def _run(module: cst.Module, path: pattern.Path, length: int) -> list[Any]:
    if path[-1][1] is None or length == 1:
        return [pattern.node_at(module, path)]
    return list(pattern.node_at(module, path[:-1]).body[path[-1][1] : path[-1][1] + length])


def _statement(module: cst.Module, path: pattern.Path, length: int) -> tuple[pattern.Path, list[Any]]:
    """The innermost statement that holds a match, or the run of statements that is the match."""
    for end in range(len(path), 0, -1):
        node = pattern.node_at(module, path[:end])
        if isinstance(node, cst.BaseStatement) and path[end - 1][1] is not None:
            return path[:end], _run(module, path, length) if end == len(path) else [node]
    raise AssertionError("a match outside of any statement")


class _Rename(cst.CSTTransformer):
    """Changes the first name or string that the pattern itself spells out."""

    def __init__(self, spelled: set[str]) -> None:
        super().__init__()
        self.spelled = spelled
        self.done = False

    def leave_Name(self, original_node: cst.Name, updated_node: cst.Name) -> cst.Name:
        if self.done or original_node.value not in self.spelled:
            return updated_node
        self.done = True
        return updated_node.with_changes(value=f"{updated_node.value}_renamed")

    def leave_SimpleString(self, original_node: cst.SimpleString, updated_node: cst.SimpleString) -> cst.SimpleString:
        if self.done or str(original_node.evaluated_value) not in self.spelled:
            return updated_node
        self.done = True
        return updated_node.with_changes(value='"renamed"')


def _words(roots: list[Any]) -> set[str]:
    """Names and strings in some nodes."""
    words = set()
    for root in roots:
        for _, node in pattern.walk(root):
            if isinstance(node, cst.Name) and not pattern.is_hole(node.value):
                words.add(node.value)
            if isinstance(node, cst.SimpleString):
                words.add(str(node.evaluated_value))
    return words


def _renamed(found: list[Any], find: str, match: pattern.Match) -> list[Any]:
    code = pattern.parse_expression(find)
    held = [node for value in match.holes.values() for node in (value if isinstance(value, list) else [value])]
    spelled = _words([code] if code else pattern.parse_statements(find)) - _words(held)
    rename = _Rename(spelled)
    new = [node.visit(rename) for node in found]
    assert rename.done
    return new


def said(edit: Edit, mutation: str) -> tuple[str, ...]:
    """What the refusal of a mutation has to say."""
    name = edit.within.split(".")[-1]
    if mutation == "function doubled":
        return (f"expected one `{name}`", "found 2")
    if mutation.startswith("function"):
        return (f"expected `{name}`", "no such class or function")
    if isinstance(edit, AddParameter):
        return (f"expected a parameter `{edit.find}`, found (",)
    expected = f"expected {edit.count} place{'s' * (edit.count > 1)} like `{first_line(edit.find)}`, found "
    return (expected + ("none" if edit.count == 1 and mutation != "doubled" else ""),)


@pytest.mark.parametrize("name", read_order())
def test_a_mutated_target_is_refused(name: str, states: dict[str, list[tuple[Edit, cst.Module]]]) -> None:
    for edit, module in states[name]:
        seen = set()
        for mutation, mutated, expected in mutants(edit, module):
            result = edit.apply(mutated)
            met = f"{edit.file}, {edit.within}, `{edit.find}`, {mutation}: "
            assert isinstance(result, expected), met + type(result).__name__
            assert all(words in result.message for words in said(edit, mutation)), met + result.message
            seen.add(mutation.removeprefix("function ").removeprefix("parameter "))
        assert seen >= {"removed", "moved"} | (set() if isinstance(edit, AddParameter) else {"renamed", "doubled"})
