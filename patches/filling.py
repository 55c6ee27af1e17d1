"""Code put into trees: captured code into holes, and new nodes in place of matched ones, whose comments stay.

replace_at(tree, match.path, match.length, fill(template, match.holes))
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import libcst as cst

from patches.pattern import Path, is_hole, sequence_hole


def replace_at(root: Any, path: Path, length: int, new: Sequence[Any]) -> Any:
    """A copy of `root` in which the node (or run of statements) at `path` is `new`."""
    if not path:
        return new[0]
    (field, index), rest = path[0], path[1:]
    value = getattr(root, field)
    if rest:
        child = replace_at(value if index is None else value[index], rest, length, new)
        return root.with_changes(**{field: child if index is None else [*value[:index], child, *value[index + 1 :]]})
    if index is None:
        return root.with_changes(**{field: new[0]})
    return root.with_changes(**{field: [*value[:index], *new, *value[index + length :]]})


class _Fill(cst.CSTTransformer):
    """Puts captured code into a template's holes."""

    def __init__(self, holes: Mapping[str, Any]) -> None:
        super().__init__()
        self.holes = holes

    def _captured(self, name: str) -> Any:
        if name not in self.holes:
            raise KeyError(f"the template's hole {name} is not in the pattern")
        return self.holes[name]

    def leave_Arg(self, original_node: cst.Arg, updated_node: cst.Arg) -> Any:
        name = sequence_hole(original_node)
        if name is None:
            return updated_node
        bare = {"comma": cst.MaybeSentinel.DEFAULT, "whitespace_after_arg": cst.SimpleWhitespace("")}
        captured = [argument.with_changes(**bare) for argument in self._captured(name)]
        return cst.FlattenSentinel(captured)

    def leave_SimpleStatementLine(self, original_node: cst.SimpleStatementLine, updated_node: Any) -> Any:
        name = sequence_hole(original_node)
        return updated_node if name is None else cst.FlattenSentinel(self._captured(name))

    def leave_Name(self, original_node: cst.Name, updated_node: cst.Name) -> Any:
        captured = self.holes.get(original_node.value) if is_hole(original_node.value) else None
        return captured.deep_clone() if isinstance(captured, cst.CSTNode) else updated_node


def fill(template: Sequence[Any], holes: Mapping[str, Any]) -> list[Any]:
    """The template's nodes with the captured code in place of the holes. Raises KeyError for an unknown hole."""
    if template and isinstance(template[0], cst.BaseExpression):
        return [template[0].visit(_Fill(holes))]
    module = cst.Module(body=list(template)).visit(_Fill(holes))
    return list(module.body)


def keep_comments(found: Sequence[Any], new: list[Any]) -> list[Any]:
    """Comment lines above the first found statement stay above the first new one."""
    if not new or not hasattr(found[0], "leading_lines") or not hasattr(new[0], "leading_lines"):
        return new
    if any(node is found[0] for node in new):
        if new[0] is found[0]:
            return new
        bare = [node.with_changes(leading_lines=()) if node is found[0] else node for node in new]
        return [bare[0].with_changes(leading_lines=found[0].leading_lines), *bare[1:]]
    return [new[0].with_changes(leading_lines=[*found[0].leading_lines, *new[0].leading_lines]), *new[1:]]


def keep_brackets(found: Sequence[Any], new: list[Any]) -> list[Any]:
    """Brackets around a found expression stay: they may hold its line breaks together."""
    if len(new) != 1 or not isinstance(new[0], cst.BaseExpression) or not found[0].lpar:
        return new
    return [new[0].with_changes(lpar=[*found[0].lpar, *new[0].lpar], rpar=[*new[0].rpar, *found[0].rpar])]
