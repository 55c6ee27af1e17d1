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
from patches.edits import AlreadyThere, Applied, Edit, Failure, Gone, Result
from patches.elsewhere import moved_to
from patches.imports import add_imports
from patches.proofs import broken, holds, promised, told
from patches.series import Patch


class Status(str, Enum):
    """What became of one patch."""

    APPLIES = "applies"
    REDUNDANT = "redundant"  # upstream has all of it
    UNNEEDED = "not needed"  # what it is for is not in this tree
    DRIFTED = "drifted"  # the place is there, the shape is not
    GONE = "gone"  # the file or the function is not there
    BLOCKED = "blocked"  # it fits, a patch that it needs does not


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


@dataclass
class Memory:
    """What was parsed and what an edit made of it: a second tree that shares files with a first costs little."""

    parsed: dict[bytes, cst.Module | Gone] = field(default_factory=dict, repr=False)
    edited: dict[tuple[int, Edit], tuple[cst.Module, Result]] = field(default_factory=dict, repr=False)

    def parse(self, content: bytes) -> cst.Module | Gone:
        """The file's tree, or why there is none."""
        if content not in self.parsed:
            try:
                self.parsed[content] = cst.parse_module(content.decode("utf-8"))
            except (cst.ParserSyntaxError, UnicodeDecodeError) as error:
                reason = str(error).splitlines()[0]
                self.parsed[content] = Gone(f"expected Python, found a file that does not parse ({reason})")
        return self.parsed[content]

    def apply(self, edit: Edit, module: cst.Module, original: bytes) -> Result:
        """The edit on a tree, done once. The tree is kept, so that its id stays its own."""
        key = (id(module), edit)
        if key not in self.edited:
            self.edited[key] = (module, edit.apply(module, original.decode("utf-8")))
        return self.edited[key][1]


def run(series: Sequence[Patch], pristine: Mapping[str, bytes], count_lines: bool = False) -> Report:
    """Apply the series to the files in memory. `pristine` maps `llava/...` to bytes."""
    trees: dict[str, cst.Module] = {}
    results = judge(series, pristine, trees, count_lines=count_lines)
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
    report.broken += [f"{patch.name}: {line}" for patch in applied for line in broken(promised(patch), trees, pristine)]
    return report


def judge(
    series: Sequence[Patch],
    pristine: Mapping[str, bytes],
    trees: dict[str, cst.Module],
    memory: Memory | None = None,
    count_lines: bool = False,
) -> list[PatchResult]:
    """One result per patch; `trees` receives the patched files. Nothing is written as text, which takes half the time.

    `memory`: shared by the calls of a survey.
    """
    memory = memory or Memory()
    results: list[PatchResult] = []
    lost: set[str] = set()
    for patch in series:
        result = _apply_patch(patch, pristine, trees, memory, lost, count_lines)
        if result.status in (Status.DRIFTED, Status.GONE, Status.BLOCKED):
            lost.add(patch.name)
        results.append(result)
    add_imports([result.patch for result in results if result.status is Status.APPLIES], trees)
    return results


def notice(names: Iterable[str]) -> str:
    """The line that Apache-2.0, section 4(b) asks for."""
    return (
        f"# This file was changed by llava-finetune (patches: {', '.join(names)}); "
        f"the original is haotian-liu/LLaVA {UPSTREAM_VERSION}, Apache-2.0.\n"
    )


def _apply_patch(
    patch: Patch,
    pristine: Mapping[str, bytes],
    trees: dict[str, cst.Module],
    memory: Memory,
    lost: set[str],
    count_lines: bool,
) -> PatchResult:
    trial = dict(trees)
    failures: list[tuple[Edit, Failure]] = []
    for edit in patch.edits:
        result = _apply_edit(edit, pristine, trial, memory)
        if isinstance(result, Applied):
            trial[edit.file] = result.module
        else:
            failures.append((edit, result))
    if failures:
        return _refused(patch, failures, pristine, memory)
    missing = [need for need in patch.needs if need in lost]
    if missing:
        return PatchResult(patch, Status.BLOCKED, (f"it fits, but needs {', '.join(missing)}, which does not",))
    lines = 0
    if count_lines:
        texts = ((trees[name].code if name in trees else pristine[name].decode("utf-8"), name) for name in patch.files)
        lines = sum(_changed(before, trial[name].code) for before, name in texts)
    trees.update(trial)
    return PatchResult(patch, Status.APPLIES, (), lines)


def _apply_edit(edit: Edit, pristine: Mapping[str, bytes], trees: dict[str, cst.Module], memory: Memory) -> Result:
    if edit.file not in pristine:
        return Gone(f"expected this file, found none{moved_to(edit, pristine)}")
    if edit.file not in trees:
        parsed = memory.parse(pristine[edit.file])
        if isinstance(parsed, Gone):
            return parsed
        trees[edit.file] = parsed
    result = memory.apply(edit, trees[edit.file], pristine[edit.file])
    return Gone(result.message + moved_to(edit, pristine)) if isinstance(result, Gone) else result


def _refused(
    patch: Patch, failures: Sequence[tuple[Edit, Failure]], pristine: Mapping[str, bytes], memory: Memory
) -> PatchResult:
    """The status of a patch that does not apply: only what is proven of the whole patch may say that it can go."""
    there = [failure for _, failure in failures if isinstance(failure, AlreadyThere)]
    messages = [f"{edit.file}, {edit.within or 'module level'}: {failure.message}" for edit, failure in failures]
    originals = {proof.file: memory.parse(pristine.get(proof.file, b"")) for proof in (*patch.proofs, *patch.drop_if)}
    modules = {name: module for name, module in originals.items() if isinstance(module, cst.Module)}
    if len(there) == len(patch.edits):
        open_proofs = broken(patch.proofs, modules)
        if not open_proofs:
            total = f"all {len(there)} edits are" if len(there) > 1 else "it is"
            return PatchResult(patch, Status.REDUNDANT, (*messages, f"{total} there already: delete this patch"))
        return PatchResult(patch, Status.DRIFTED, (*messages, *open_proofs))
    if holds(patch.drop_if, modules):
        return PatchResult(patch, Status.UNNEEDED, (*messages, f"not needed in this tree: {told(patch.drop_if)}"))
    if there:
        fit = len(patch.edits) - len(failures)
        rest = f"{len(there)} of {len(patch.edits)} edits are there already, {fit} still apply"
        messages.append(f"{rest}: keep the patch, and take out what is there")
    gone = any(isinstance(failure, Gone) for _, failure in failures)
    return PatchResult(patch, Status.GONE if gone else Status.DRIFTED, tuple(messages))


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
