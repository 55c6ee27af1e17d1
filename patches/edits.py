"""The edits a patch is made of: each is bound to one file and one function, and says how many places it expects.

    Replace("llava/utils.py", "build_logger", find="open(__name)", put="open(__name, encoding='utf-8')")

An edit never guesses. Its result is Applied, or one of Missing, Ambiguous, Unchanged, AlreadyThere and Gone, each with
its own message. `within` is a dotted path of classes and functions; "" is the module outside of them.
"""

from __future__ import annotations

import difflib
import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import libcst as cst

from patches import pattern
from patches.filling import fill, keep_brackets, keep_comments, replace_at
from patches.nearest import Text, shorten
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
    """The result is there as often as the edit would make it. Whether the patch can go is the engine's to say."""


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
        return fill(template, match.holes)

    def apply(self, module: cst.Module, original: str | None = None) -> Result:
        """The edit on one parsed file. `original`: its text before any patch, whose line numbers a refusal tells."""
        scope = find_scope(module, self.within)
        if isinstance(scope, Failure):
            return scope
        shape, template = self._parse()
        node = pattern.node_at(module, scope)
        into = bool(self.within)
        matches = pattern.find(shape, node, into)
        done = self._done(shape, template, matches, node, into)
        text = Text(code_of(module), original or code_of(module)) if done or len(matches) != self.count else None
        if done and text:
            where = text.place(_code(node, done[0]), self.within)
            return AlreadyThere(f"this edit is there already: `{first_line(self.put)}`{where and f' ({where})'}")
        if not matches and text:
            near = text.nearest(self.find, self.within)
            return Missing(f"expected {places(self.count)} like `{first_line(self.find)}`, found none{near}")
        if len(matches) != self.count and text:
            met = [_code(node, match) for match in matches[:4]]
            lines = [text.place(code, self.within, met[:index].count(code)) for index, code in enumerate(met)]
            shown = "; ".join(f"`{first_line(shorten(code))}` ({line})" for code, line in zip(met, lines, strict=True))
            return Ambiguous(
                f"expected {places(self.count)} like `{first_line(self.find)}`, found {len(matches)}: {shown}"
            )
        return self._rewrite(module, scope, matches, template)

    def _parse(self) -> tuple[Any, list[Any]]:
        return _expressions(self.find, self.put) or _statements(self.find, self.put)

    def _done(
        self, shape: Any, template: list[Any], matches: list[Match], node: cst.CSTNode, into: bool
    ) -> list[Match]:
        """Where the result is, if it is there as often as the edit makes it and nothing outside of it has the shape."""
        if not template or isinstance(template[0], (cst.Name, cst.Attribute, cst.SimpleString, cst.Integer)):
            return []
        is_expression = isinstance(template[0], cst.BaseExpression)
        if matches and not pattern.find(shape, template[0] if is_expression else cst.Module(body=template)):
            return []  # a result that does not hold the shape cannot be around a match
        done = pattern.find(template[0] if is_expression else template, node, into)
        if len(done) < self.count or not all(any(_inside(match, other) for other in done) for match in matches):
            return []
        return done

    def _rewrite(self, module: cst.Module, scope: Path, matches: list[Match], template: list[Any]) -> Result:
        changed = False
        for match in reversed(matches):
            path = (*scope, *match.path)
            found = _nodes(module, path, match.length)
            new = keep_brackets(found, keep_comments(found, self.build(template, match, found)))
            if not new and _block_length(module, path) == match.length:
                new = pattern.parse_statements("pass")
            changed = changed or not pattern.same(found, new)
            module = replace_at(module, path, match.length, new)
        if not changed:
            return Unchanged(f"`{first_line(self.put)}` in place of `{first_line(self.find)}` changes nothing")
        return Applied(module, len(matches))


class Replace(Edit):
    """`put` takes the place of what `find` matches; an empty `put` removes the statements."""


class _Statements(Edit):
    def _parse(self) -> tuple[Any, list[Any]]:
        return _statements(self.find, self.put)

    def _done(
        self, shape: Any, template: list[Any], matches: list[Match], node: cst.CSTNode, into: bool
    ) -> list[Match]:
        done = pattern.find(template, node, into)
        return done if len(done) >= self.count else []


class Before(_Statements):
    """`put` goes before the statements that `find` matches."""

    def build(self, template: list[Any], match: Match, found: list[Any]) -> list[Any]:
        return [*fill(template, match.holes), *found]


class After(_Statements):
    """`put` goes after the statements that `find` matches."""

    def build(self, template: list[Any], match: Match, found: list[Any]) -> list[Any]:
        return [*found, *fill(template, match.holes)]


@dataclass(frozen=True)
class AddParameter(Edit):
    """`put` (one parameter with its default) is added to the function `within`, after the parameter named `find`."""

    def apply(self, module: cst.Module, original: str | None = None) -> Result:
        scope = find_scope(module, self.within)
        if isinstance(scope, Failure):
            return scope
        function = pattern.node_at(module, scope)
        parameters = function.params.params
        names = [parameter.name.value for parameter in parameters]
        new = cst.parse_statement(f"def f({self.put}): ...").params.params[0]  # type: ignore[union-attr]
        if new.name.value in names:
            taken = parameters[names.index(new.name.value)]
            if taken.default is not None and new.default is not None and pattern.same(taken.default, new.default):
                return AlreadyThere(f"this edit is there already: {self.within} takes `{self.put}`")
            return Missing(f"expected no parameter like `{self.put}`, found `{shorten(source_of(taken)).rstrip(' ,')}`")
        if self.find not in names:
            return Missing(f"expected a parameter `{self.find}`, found ({', '.join(names)})")
        at = names.index(self.find) + 1
        params = function.params.with_changes(params=[*parameters[:at], new, *parameters[at:]])
        changed = replace_at(module, (*scope, ("params", None)), 1, [params])
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


@functools.lru_cache(maxsize=32)
def code_of(module: cst.Module) -> str:
    """The text of a tree, which is slow to write."""
    return module.code


def _code(scope: cst.CSTNode, match: Match) -> str:
    return source_of(pattern.node_at(scope, match.path))


@functools.lru_cache(maxsize=1024)
def _expressions(find: str, put: str) -> tuple[Any, list[Any]] | None:
    expression, replacement = pattern.parse_expression(find), pattern.parse_expression(put)
    return None if expression is None or replacement is None else (expression, [replacement])


@functools.lru_cache(maxsize=1024)
def _statements(find: str, put: str) -> tuple[Any, list[Any]]:
    return pattern.parse_statements(find), pattern.parse_statements(put)
