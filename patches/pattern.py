"""Patterns over LibCST trees: code with holes, matched by shape, never by text.

White space, comments, quotes, brackets around an expression and trailing commas do not count. In a pattern
`__x` is any expression, `*__x` any run of call arguments, a line `__x` any run of statements, and `...` as the body of
a compound statement any body (and any else). The same hole twice must hold the same code.

    find("torch.load(*__args)", scope)  ->  [Match(path, length=1, holes={"__args": [Arg, Arg]})]
"""

from __future__ import annotations

import ast
import functools
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import libcst as cst

Holes = dict[str, Any]
Step = tuple[str, int | None]
Path = tuple[Step, ...]

_LAYOUT = frozenset(
    [
        "leading_lines",
        "trailing_whitespace",
        "lines_after_decorators",
        "lpar",
        "rpar",
        "comma",
        "semicolon",
        "header",
        "footer",
        "indent",
        "equal",
        "dot",
        "lbrace",
        "rbrace",
        "lbracket",
        "rbracket",
        "first_colon",
        "second_colon",
        "start",
        "end",
        "default_indent",
        "default_newline",
        "encoding",
        "has_trailing_newline",
        "colon",
        "arrow",
    ]
)


HOLDERS = (cst.BaseCompoundStatement, cst.IndentedBlock, cst.Else, cst.Finally, cst.ExceptHandler)


@dataclass(frozen=True)
class Match:
    """Where a pattern was found: the path of the node, or of the first of `length` statements in a block."""

    path: Path
    length: int
    holes: Mapping[str, Any]


def parse_expression(code: str) -> cst.BaseExpression | None:
    """The code as one expression, or None when it is not one."""
    try:
        return cst.parse_expression(textwrap.dedent(code).strip())
    except cst.ParserSyntaxError:
        return None


def parse_statements(code: str) -> list[cst.BaseStatement]:
    """The code as statements. Raises libcst.ParserSyntaxError."""
    return list(cst.parse_module(textwrap.dedent(code).strip("\n") + "\n").body)


def is_hole(name: str) -> bool:
    """True for `__x`; dunder names such as `__init__` are ordinary names."""
    return name.startswith("__") and not name.endswith("__") and len(name) > 2


@functools.cache
def _is_node(kind: type) -> bool:
    """Whether values of a type are nodes. LibCST's types are abstract ones, whose isinstance() is slow."""
    return issubclass(kind, cst.CSTNode)


def _expression_hole(node: Any) -> str | None:
    return node.value if isinstance(node, cst.Name) and is_hole(node.value) else None


def sequence_hole(node: Any) -> str | None:
    if isinstance(node, cst.Arg) and node.star == "*":
        return _expression_hole(node.value)
    if isinstance(node, cst.SimpleStatementLine) and len(node.body) == 1 and isinstance(node.body[0], cst.Expr):
        return _expression_hole(node.body[0].value)
    return None


def _is_ellipsis(body: Any) -> bool:
    if isinstance(body, cst.SimpleStatementSuite):
        statements: Sequence[Any] = body.body
    elif isinstance(body, cst.IndentedBlock) and len(body.body) == 1:
        line = body.body[0]
        statements = line.body if isinstance(line, cst.SimpleStatementLine) else ()
    else:
        return False
    return (
        len(statements) == 1 and isinstance(statements[0], cst.Expr) and isinstance(statements[0].value, cst.Ellipsis)
    )


@functools.cache
def significant_fields(kind: type[cst.CSTNode]) -> tuple[str, ...]:
    """The names of a node type's fields that carry meaning."""
    names = (field.name for field in fields(kind))
    return tuple(name for name in names if name not in _LAYOUT and not name.startswith("whitespace"))


def _bind(holes: Holes, name: str, value: Any) -> bool:
    if name in holes:
        return same(holes[name], value)
    holes[name] = value
    return True


def same(left: Any, right: Any) -> bool:
    """True when two nodes, or lists of nodes, are the same code apart from layout."""
    return _match(left, right, {}, holes_allowed=False)


def _match(pattern: Any, node: Any, holes: Holes, holes_allowed: bool = True) -> bool:
    if isinstance(pattern, (list, tuple)) and isinstance(node, (list, tuple)):
        return _match_run(list(pattern), list(node), holes, holes_allowed) == len(node)
    if holes_allowed and (name := _expression_hole(pattern)) and isinstance(node, cst.BaseExpression):
        return _bind(holes, name, node)
    if type(pattern) is not type(node):
        return False
    if not _is_node(pattern.__class__):
        return bool(pattern == node)
    if isinstance(pattern, cst.SimpleString) and isinstance(node, cst.SimpleString):
        return bool(ast.literal_eval(pattern.value) == ast.literal_eval(node.value))
    open_body = holes_allowed and hasattr(pattern, "body") and _is_ellipsis(pattern.body)
    for field in significant_fields(pattern.__class__):
        if open_body and field in ("body", "orelse", "finalbody", "handlers"):
            continue
        if not _match(getattr(pattern, field), getattr(node, field), holes, holes_allowed):
            return False
    return True


def _match_run(
    patterns: list[Any], nodes: list[Any], holes: Holes, holes_allowed: bool, exact: bool = True
) -> int | None:
    """How many nodes the patterns take from the front, or None; with `exact`, all of them or None."""
    if not patterns:
        return 0 if not exact or not nodes else None
    name = sequence_hole(patterns[0]) if holes_allowed else None
    if name:
        shortest = len(nodes) if len(patterns) == 1 else 0  # a hole at the end takes the rest of the block
        for taken in range(shortest, len(nodes) + 1):
            trial = dict(holes)
            if not _bind(trial, name, nodes[:taken]):
                continue
            rest = _match_run(patterns[1:], nodes[taken:], trial, holes_allowed, exact)
            if rest is not None:
                holes.update(trial)
                return taken + rest
        return None
    if not nodes:
        return None
    trial = dict(holes)
    if not _match(patterns[0], nodes[0], trial, holes_allowed):
        return None
    rest = _match_run(patterns[1:], nodes[1:], trial, holes_allowed, exact)
    if rest is None:
        return None
    holes.update(trial)
    return 1 + rest


def children(node: cst.CSTNode) -> Iterator[tuple[Step, cst.CSTNode]]:
    """The meaningful children of a node, each with its step."""
    for field in significant_fields(type(node)):
        value = getattr(node, field)
        if _is_node(value.__class__):
            yield (field, None), value
        elif isinstance(value, (list, tuple)):
            for index, item in enumerate(value):
                if _is_node(item.__class__):
                    yield (field, index), item


def walk(node: cst.CSTNode, path: Path = (), into_definitions: bool = True) -> Iterator[tuple[Path, cst.CSTNode]]:
    """`node` and every node below it, outermost first; without `into_definitions`, no classes and functions."""
    waiting = [(path, node)]
    while waiting:
        path, node = waiting.pop()
        yield path, node
        below = [
            ((*path, step), child)
            for step, child in children(node)
            if into_definitions or not isinstance(child, (cst.FunctionDef, cst.ClassDef))
        ]
        waiting += reversed(below)


def blocks(node: cst.CSTNode, path: Path, into_definitions: bool) -> Iterator[tuple[Path, Any]]:
    """The module or the indented blocks in and below a node, without a look into expressions."""
    if isinstance(node, (cst.IndentedBlock, cst.Module)):
        yield path, node
    for field in ("body", "orelse", "handlers", "finalbody"):
        value = getattr(node, field, None)
        single = isinstance(value, cst.CSTNode)
        for index, child in enumerate([value] if single else value or ()):
            if isinstance(child, (cst.FunctionDef, cst.ClassDef)) and not into_definitions:
                continue
            if isinstance(child, HOLDERS):
                yield from blocks(child, (*path, (field, None if single else index)), into_definitions)


def find(
    pattern: cst.BaseExpression | Sequence[cst.BaseStatement], scope: cst.CSTNode, into: bool = True
) -> list[Match]:
    """All places in `scope` that have the pattern's shape; statement runs do not overlap."""
    matches: list[Match] = []
    if not isinstance(pattern, cst.BaseExpression):
        for path, block in blocks(scope, (), into):
            matches += _find_runs(list(pattern), block, path)
        return matches
    kind = None if _expression_hole(pattern) else type(pattern)
    for path, node in _of_kind(scope, kind, into):
        holes: Holes = {}
        if _match(pattern, node, holes):
            matches.append(Match(path, 1, holes))
    return matches


def _of_kind(scope: cst.CSTNode, kind: type[cst.CSTNode] | None, into: bool) -> Iterator[tuple[Path, cst.CSTNode]]:
    """What walk() yields, of one type only: what is in a line is looked up, as most lines stay the same for long."""
    waiting: list[tuple[Path, cst.CSTNode]] = [((), scope)]
    while waiting:
        path, node = waiting.pop()
        if isinstance(node, cst.SimpleStatementLine):
            yield from (((*path, *below), found) for below, found in _in_line(node).get(kind, ()))
            continue
        if kind is None or type(node) is kind:
            yield path, node
        below = [
            ((*path, step), child)
            for step, child in children(node)
            if into or not isinstance(child, (cst.FunctionDef, cst.ClassDef))
        ]
        waiting += reversed(below)


@functools.lru_cache(maxsize=16_384)
def _in_line(line: cst.SimpleStatementLine) -> dict[type[cst.CSTNode] | None, list[tuple[Path, cst.CSTNode]]]:
    """The nodes in and below one line by type, and all of them under None."""
    found: dict[type[cst.CSTNode] | None, list[tuple[Path, cst.CSTNode]]] = {None: list(walk(line))}
    for path, node in found[None]:
        found.setdefault(type(node), []).append((path, node))
    return found


def _find_runs(pattern: list[Any], block: cst.IndentedBlock | cst.Module, path: Path) -> Iterator[Match]:
    start = 0
    body = list(block.body)
    while start < len(body):
        holes: Holes = {}
        length = _match_run(pattern, body[start:], holes, holes_allowed=True, exact=False)
        if length:
            yield Match((*path, ("body", start)), length, holes)
        start += length or 1


def node_at(root: cst.CSTNode, path: Path) -> Any:
    """The node that a path leads to."""
    node: Any = root
    for field, index in path:
        node = getattr(node, field) if index is None else getattr(node, field)[index]
    return node
