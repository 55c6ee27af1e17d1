"""The imports of what patched code calls: one statement at the head of a function, shared by the patches in it.

Each patch declares its own (series.Import), so that any other one can be left out and every name still resolves.
"""

from __future__ import annotations

from collections.abc import Sequence

import libcst as cst

from patches import pattern
from patches.edits import Failure, find_scope
from patches.filling import replace_at
from patches.series import Patch

SEAMS = "llava_finetune.upstream"


def add_imports(applied: Sequence[Patch], trees: dict[str, cst.Module]) -> None:
    """Put `from llava_finetune.upstream import ...` into each place that an applied patch imports for."""
    wanted: dict[tuple[str, str], set[str]] = {}
    for patch in applied:
        for each in patch.imports:
            wanted.setdefault((each.file, each.within), set()).update(each.names)
    for (file, within), names in wanted.items():
        trees[file] = _with_import(trees[file], within, sorted(names))


def _with_import(module: cst.Module, within: str, names: Sequence[str]) -> cst.Module:
    scope = find_scope(module, within)
    if isinstance(scope, Failure):
        raise ValueError(f"an import for {within}: {scope.message}")
    statement = cst.parse_statement(f"from {SEAMS} import {', '.join(names)}")
    path = (*scope, ("body", None)) if within else scope
    block = pattern.node_at(module, path)
    at = _after_head(block.body)
    changed = block.with_changes(body=[*block.body[:at], statement, *block.body[at:]])
    return changed if not path else replace_at(module, path, 1, [changed])  # type: ignore[no-any-return]


def _after_head(body: Sequence[cst.BaseStatement]) -> int:
    """Behind a docstring and imports from __future__."""
    at = 0
    while at < len(body) and _is_head(body[at]):
        at += 1
    return at


def _is_head(statement: cst.BaseStatement) -> bool:
    if not isinstance(statement, cst.SimpleStatementLine):
        return False
    first = statement.body[0]
    if isinstance(first, cst.ImportFrom):
        return isinstance(first.module, cst.Name) and first.module.value == "__future__"
    return isinstance(first, cst.Expr) and isinstance(first.value, (cst.SimpleString, cst.ConcatenatedString))
