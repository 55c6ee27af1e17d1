"""The edits a patch is made of: each is bound to one file and one function, and says how many places it expects.

    Replace("llava/utils.py", "build_logger", find="open(__name)", put="open(__name, encoding='utf-8')")

An edit never guesses. Its result is Applied, or one of Missing, Ambiguous, Unchanged, AlreadyThere and Gone, each with
its own message. `within` is a dotted path of classes and functions; "" is the module outside of them.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import libcst as cst

from patches import pattern
from patches.pattern import Match, Path


@dataclass(frozen=True)
class Applied:
    """The edit took place; `module` is the new tree."""

    module: cst.Module
    places: int


@dataclass(frozen=True)
class Failure:
    """Why an edit did not take place. `message` is complete: expected, found, nearest."""

    message: str


class Missing(Failure):
    """No place has the shape."""


class Ambiguous(Failure):
    """More or fewer places than expected."""


class Unchanged(Failure):
    """The edit would leave the code as it is."""


class AlreadyThere(Failure):
    """Upstream has the result already."""


class Gone(Failure):
    """The file or the function does not exist."""


Result = Applied | Failure


@dataclass(frozen=True)
class Edit:
    """One counted rewrite. Subclasses say how `put` relates to what was found."""

    file: str
    within: str
    find: str
    put: str
    count: int = 1

    def build(self, template: list[Any], match: Match, found: list[Any]) -> list[Any]:
        """The nodes that take the found ones' place."""
        return pattern.fill(template, match.holes)

    def apply(self, module: cst.Module) -> Result:
        """The edit on one parsed file."""
        scope = find_scope(module, self.within)
        if isinstance(scope, Failure):
            return scope
        shape, template = self._parse()
        node = pattern.node_at(module, scope)
        into = bool(self.within)
        matches = pattern.find(shape, node, into)
        if self._is_done(shape, template, matches, node, into):
            return AlreadyThere(f"upstream already has `{first_line(self.put)}`: delete this patch")
        if not matches:
            return Missing(
                f"expected {places(self.count)} like `{first_line(self.find)}`, found none{nearest(self.find, node)}"
            )
        if len(matches) != self.count:
            lines = "; ".join(f"`{first_line(_code(node, match))}`" for match in matches[:4])
            return Ambiguous(
                f"expected {places(self.count)} like `{first_line(self.find)}`, found {len(matches)}: {lines}"
            )
        return self._rewrite(module, scope, matches, template)

    def _parse(self) -> tuple[Any, list[Any]]:
        expression, replacement = pattern.parse_expression(self.find), pattern.parse_expression(self.put)
        if expression is not None and replacement is not None:
            return expression, [replacement]
        return pattern.parse_statements(self.find), pattern.parse_statements(self.put)

    def _is_done(self, shape: Any, template: list[Any], matches: list[Match], node: cst.CSTNode, into: bool) -> bool:
        """True when the result is there and nothing outside of it has the shape."""
        if not template or isinstance(template[0], (cst.Name, cst.Attribute, cst.SimpleString, cst.Integer)):
            return False
        is_expression = isinstance(template[0], cst.BaseExpression)
        if matches and not pattern.find(shape, template[0] if is_expression else cst.Module(body=template)):
            return False  # a result that does not hold the shape cannot be around a match
        done = pattern.find(template[0] if is_expression else template, node, into)
        return bool(done) and all(any(_inside(match, other) for other in done) for match in matches)

    def _rewrite(self, module: cst.Module, scope: Path, matches: list[Match], template: list[Any]) -> Result:
        changed = False
        for match in reversed(matches):
            path = (*scope, *match.path)
            found = _nodes(module, path, match.length)
            new = keep_brackets(found, keep_comments(found, self.build(template, match, found)))
            if not new and _block_length(module, path) == match.length:
                new = pattern.parse_statements("pass")
            changed = changed or not pattern.same(found, new)
            module = pattern.replace_at(module, path, match.length, new)
        if not changed:
            return Unchanged(f"`{first_line(self.put)}` in place of `{first_line(self.find)}` changes nothing")
        return Applied(module, len(matches))


class Replace(Edit):
    """`put` takes the place of what `find` matches; an empty `put` removes the statements."""


class _Statements(Edit):
    def _parse(self) -> tuple[Any, list[Any]]:
        return pattern.parse_statements(self.find), pattern.parse_statements(self.put)

    def _is_done(self, shape: Any, template: list[Any], matches: list[Match], node: cst.CSTNode, into: bool) -> bool:
        return bool(pattern.find(template, node, into))


class Before(_Statements):
    """`put` goes before the statements that `find` matches."""

    def build(self, template: list[Any], match: Match, found: list[Any]) -> list[Any]:
        return [*pattern.fill(template, match.holes), *found]


class After(_Statements):
    """`put` goes after the statements that `find` matches."""

    def build(self, template: list[Any], match: Match, found: list[Any]) -> list[Any]:
        return [*found, *pattern.fill(template, match.holes)]


@dataclass(frozen=True)
class AddParameter(Edit):
    """`put` (one parameter with its default) is added to the function `within`, after the parameter named `find`."""

    def apply(self, module: cst.Module) -> Result:
        scope = find_scope(module, self.within)
        if isinstance(scope, Failure):
            return scope
        function = pattern.node_at(module, scope)
        parameters = function.params.params
        names = [parameter.name.value for parameter in parameters]
        new = cst.parse_statement(f"def f({self.put}): ...").params.params[0]  # type: ignore[union-attr]
        if new.name.value in names:
            return AlreadyThere(f"upstream's {self.within} already takes `{new.name.value}`: delete this patch")
        if self.find not in names:
            return Missing(f"expected a parameter `{self.find}`, found ({', '.join(names)})")
        at = names.index(self.find) + 1
        params = function.params.with_changes(params=[*parameters[:at], new, *parameters[at:]])
        changed = pattern.replace_at(module, (*scope, ("params", None)), 1, [params])
        return Applied(changed, 1)


def find_scope(module: cst.Module, within: str) -> Path | Failure:
    """The path of the class or function named by dots, "" being the module itself."""
    path: Path = ()
    for name in within.split(".") if within else ():
        named = list(_definitions(pattern.node_at(module, path), path))
        hits = [step for step, found in named if found == name]
        if not hits:
            close = difflib.get_close_matches(name, [found for _, found in named], 1)
            hint = f"; the nearest name is `{close[0]}`" if close else ""
            return Gone(f"expected `{name}` (of `{within}`), found no such class or function{hint}")
        if len(hits) > 1:
            return Ambiguous(f"expected one `{name}` (of `{within}`), found {len(hits)}")
        path = hits[0]
    return path


def _definitions(node: Any, path: Path) -> Iterator[tuple[Path, str]]:
    """The classes and functions right below a node, also those inside if, try and with, as paths and names."""
    for field in ("body", "orelse", "handlers", "finalbody"):
        value = getattr(node, field, None)
        items: list[tuple[pattern.Step, Any]] = [((field, None), value)] if isinstance(value, cst.CSTNode) else []
        if isinstance(value, (list, tuple)):
            items = [((field, index), item) for index, item in enumerate(value)]
        for step, item in items:
            if isinstance(item, (cst.FunctionDef, cst.ClassDef)):
                yield (*path, step), item.name.value
            elif isinstance(item, pattern.HOLDERS):
                yield from _definitions(item, (*path, step))


def _inside(match: Match, other: Match) -> bool:
    """True when `match` lies in the region of `other`."""
    depth = len(other.path)
    if len(match.path) < depth or match.path[: depth - 1] != other.path[: depth - 1]:
        return False
    if not depth:
        return True
    (field, index), (other_field, other_index) = match.path[depth - 1], other.path[-1]
    if field != other_field or index is None or other_index is None:
        return (field, index) == (other_field, other_index)
    return other_index <= index < other_index + other.length


def _nodes(module: cst.Module, path: Path, length: int) -> list[Any]:
    index = path[-1][1]
    if index is None or length == 1:
        return [pattern.node_at(module, path)]
    block = pattern.node_at(module, path[:-1])
    return list(getattr(block, path[-1][0])[index : index + length])


def _block_length(module: cst.Module, path: Path) -> int:
    return len(pattern.node_at(module, path[:-1]).body)


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


def places(count: int) -> str:
    """`1 place`, `2 places`."""
    return f"{count} place{'' if count == 1 else 's'}"


def first_line(code: str) -> str:
    """The first line of code, for a message; comments do not count."""
    lines = code_lines(code)
    return (lines[0] if lines else "") + (" ..." if len(lines) > 1 else "")


def code_lines(code: str) -> list[str]:
    """The stripped lines of code without its comments."""
    return [line.strip() for line in code.strip().splitlines() if not line.strip().startswith("#")]


def source_of(node: cst.CSTNode) -> str:
    """The code of one node, for a message."""
    return node.code.strip() if isinstance(node, cst.Module) else cst.Module(body=[]).code_for_node(node).strip()


def _code(scope: cst.CSTNode, match: Match) -> str:
    return source_of(pattern.node_at(scope, match.path))


def nearest(wanted: str, scope: cst.CSTNode) -> str:
    """The line of `scope` that looks most like the first wanted one that it lacks, ready to append to a message."""
    there = {line for line in code_lines(source_of(scope)) if line}
    lines = code_lines(wanted)
    plain = {line.replace('"', "'") for line in there}
    lacking = [line for line in lines if not _is_open(line) and line.replace('"', "'") not in plain]
    lost = (lacking or lines)[0]
    best = difflib.get_close_matches(lost, sorted(there), n=1, cutoff=0.0)
    named = "" if lost == lines[0] else f"not there word for word: `{lost}`; "
    return f"; {named}nearest: `{best[0]}`" if best else ""


def _is_open(line: str) -> bool:
    """True for a pattern's line with a hole in it, which no line of code equals."""
    return "..." in line or any(map(pattern.is_hole, re.findall(r"\b__\w+", line)))
