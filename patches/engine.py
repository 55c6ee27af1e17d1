"""The series applied in memory: pristine bytes in, patched bytes and one result per patch out.

A pure function of (pristine, series): same input, same bytes. All failures are collected; a patch of which one edit
fails changes nothing, and the following patches are still tried.

    report = run(load_series(), pristine)  ->  report.files["llava/model/builder.py"]
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum

import libcst as cst

from patches import UPSTREAM_VERSION, pattern
from patches.edits import AlreadyThere, Edit, Failure, Gone, Result, find_scope
from patches.series import Patch


class Status(str, Enum):
    """What became of one patch."""

    APPLIES = "applies"
    REDUNDANT = "redundant"  # upstream has it
    DRIFTED = "drifted"  # the place is there, the shape is not
    GONE = "gone"  # the file or the function is not there


@dataclass(frozen=True)
class PatchResult:
    """One patch's status, its messages (empty when it applies) and its lines added and removed."""

    patch: Patch
    status: Status
    messages: tuple[str, ...] = ()
    lines: int = 0


@dataclass
class Report:
    """The outcome of a series: results in order, the patched bytes of every file, and broken proofs."""

    results: list[PatchResult]
    files: dict[str, bytes]
    broken: list[str] = field(default_factory=list)
    changed_by: dict[str, list[str]] = field(default_factory=dict)

    @property
    def failed(self) -> list[str]:
        """Every reason not to write, one line each."""
        lines = [f"{result.patch.name}: {line}" for result in self.results for line in result.messages]
        return lines + self.broken


def run(series: Sequence[Patch], pristine: Mapping[str, bytes], count_lines: bool = False) -> Report:
    """Apply the series to the files in memory. `pristine` maps `llava/...` to bytes."""
    trees: dict[str, cst.Module] = {}
    results = [_apply_patch(patch, pristine, trees, count_lines) for patch in series]
    applied = [result.patch for result in results if result.status is Status.APPLIES]
    changed_by: dict[str, list[str]] = {}
    for patch in applied:
        for name in patch.files:
            changed_by.setdefault(name, []).append(patch.name)
    report = Report(results, dict(pristine), changed_by=changed_by)
    for name, names in sorted(changed_by.items()):
        code = trees[name].code
        report.files[name] = (notice(names) + code).encode("utf-8")
        report.broken += _prove_parse(name, trees[name], code)
    report.broken += [line for patch in applied for line in _prove_absent(patch, trees)]
    return report


def notice(names: Iterable[str]) -> str:
    """The line that Apache-2.0, section 4(b) asks for."""
    return (
        f"# This file was changed by llava-finetune (patches: {', '.join(names)}); "
        f"the original is haotian-liu/LLaVA {UPSTREAM_VERSION}, Apache-2.0.\n"
    )


def _apply_patch(
    patch: Patch, pristine: Mapping[str, bytes], trees: dict[str, cst.Module], count_lines: bool
) -> PatchResult:
    trial = dict(trees)
    failures: list[tuple[Edit, Failure]] = []
    for edit in patch.edits:
        result = _apply_edit(edit, pristine, trial)
        if isinstance(result, Failure):
            failures.append((edit, result))
        else:
            trial[edit.file] = result.module
    if failures:
        messages = tuple(
            f"{edit.file}, {edit.within or 'module level'}: {failure.message}" for edit, failure in failures
        )
        return PatchResult(patch, _status(patch, [failure for _, failure in failures]), messages)
    lines = 0
    if count_lines:
        texts = ((trees[name].code if name in trees else pristine[name].decode("utf-8"), name) for name in patch.files)
        lines = sum(_changed(before, trial[name].code) for before, name in texts)
    trees.update(trial)
    return PatchResult(patch, Status.APPLIES, (), lines)


def _apply_edit(edit: Edit, pristine: Mapping[str, bytes], trees: dict[str, cst.Module]) -> Result:
    if edit.file not in trees:
        if edit.file not in pristine:
            return Gone("expected this file, found none")
        try:
            trees[edit.file] = cst.parse_module(pristine[edit.file].decode("utf-8"))
        except (cst.ParserSyntaxError, UnicodeDecodeError) as error:
            return Gone(f"expected Python, found a file that does not parse ({str(error).splitlines()[0]})")
    return edit.apply(trees[edit.file])


def _status(patch: Patch, failures: Sequence[Failure]) -> Status:
    if all(isinstance(failure, AlreadyThere) for failure in failures) and len(failures) == len(patch.edits):
        return Status.REDUNDANT
    if any(isinstance(failure, Gone) for failure in failures):
        return Status.GONE
    return Status.DRIFTED


def _changed(before: str, after: str) -> int:
    lines = difflib.unified_diff(before.splitlines(), after.splitlines(), n=0, lineterm="")
    return sum(1 for line in lines if line[:1] in "+-" and line[:3] not in ("+++", "---"))


def _prove_parse(name: str, tree: cst.Module, code: str) -> list[str]:
    """The written `code` must mean the tree that was built: a missing bracket would not."""
    try:
        if pattern.same(tree, cst.parse_module(code)):
            return []
        return [f"{name}: the patched text does not read as it was built; a template lacks brackets around a hole"]
    except cst.ParserSyntaxError as error:
        return [f"{name}: the patched text does not parse: {str(error).splitlines()[0]}"]


def _prove_absent(patch: Patch, trees: Mapping[str, cst.Module]) -> list[str]:
    lines = []
    for proof in patch.proofs:
        tree = trees[proof.file]
        scope = find_scope(tree, proof.within)
        shape = pattern.parse_expression(proof.find)
        if isinstance(scope, Failure) or shape is None:
            lines.append(f"{patch.name}: the proof about {proof.file}, {proof.within} cannot be checked")
        elif pattern.find(shape, pattern.node_at(tree, scope)):
            lines.append(f"{patch.name}: {proof.file}, {proof.within}: `{proof.find}` is still there")
    return lines
