"""Where a pattern that was not found comes nearest to the code, for a message: line numbers and every difference.

Both sides are read with `ast` and written again, one statement a line: layout, quotes and comments do not count, as
they do not count for the patterns.

    Text(code, original).nearest("weights = open(path)", "Model.load")  ->  "; nearest, line 5: `weights = read(path)`"
"""

from __future__ import annotations

import ast
import difflib
import functools
import re
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from patches.pattern import is_hole

LONGEST = 160
#: What the alignment of a pattern pays: a line of the pattern that is lost, a line of the code between two that match.
LOST, BETWEEN = 1.0, 0.4
BODIES = ("body", "handlers", "orelse", "finalbody", "cases")


@dataclass(frozen=True)
class Line:
    """One statement, or the head of a compound one, as `ast` writes it. `number`: its line in the text, from 1."""

    number: int
    depth: int
    code: str

    @functools.cached_property
    def words(self) -> frozenset[str]:
        """Its names, numbers and strings' words, without holes."""
        return frozenset(word for word in re.findall(r"\w+", self.code) if not is_hole(word))


@dataclass(frozen=True)
class Text:
    """A file as a patch meets it. `original`: the file before any patch, whose line numbers are told."""

    code: str
    original: str

    def nearest(self, wanted: str, within: str) -> str:
        """The place most like `wanted`, ready to append to a message; "" where there is no code."""
        pattern, there = flatten(wanted), self.scope(within)
        if not pattern or not there:
            return ""
        pairs = align(pattern, there)
        if len(pattern) > 1:
            return "; nearest, with every difference:\n" + "\n".join(self._shown(pairs))
        line = (pairs[0][1] if pairs else None) or most_like(pattern[0], there)
        return f"; nearest, {self.number(line)}: `{shorten(line.code)}`"

    def place(self, code: str, within: str, earlier: int = 0) -> str:
        """Where in `within` one match's `code` stands, after `earlier` ones of the same text: `line 5`, or ""."""
        found = flatten(code)
        if not found:
            return ""
        lines = [line for line in self.scope(within) for _ in range(line.code.count(found[0].code))]
        return self.number(lines[min(earlier, len(lines) - 1)]) if lines else ""

    def scope(self, within: str) -> list[Line]:
        """The lines of a class or function named by dots, or of the whole file."""
        return _scope(self.code, within)

    def number(self, line: Line) -> str:
        """`line 57`, counted in the original, or what stands for a line that a patch wrote."""
        number = _numbers(self.code, self.original).get(line.number)
        return f"line {number}" if number else "a line that a patch wrote"

    def _shown(self, pairs: Sequence[tuple[Line | None, Line | None]]) -> Iterator[str]:
        numbers = _numbers(self.code, self.original)
        depth = min((there.depth for _, there in pairs if there), default=0)
        held = None
        for wanted, there in pairs:
            lost = wanted is not None and (there is None or not fits(wanted, there))
            if wanted is not None and lost:
                yield f"      -         {'    ' * wanted.depth}{wanted.code}"
            if there is not None and not (wanted is not None and wanted is held):
                sign = "+" if wanted is None or lost else " "
                indent = "    " * (there.depth - depth)
                yield f"      {sign} {numbers.get(there.number, 'patch'):>6}  {indent}{shorten(there.code)}"
            held = wanted


def shorten(code: str) -> str:
    """Code for a message: at most 160 characters."""
    return code if len(code) <= LONGEST else f"{code[:LONGEST]} ..."


@functools.lru_cache(maxsize=512)
def _scope(code: str, within: str) -> list[Line]:
    nodes: list[ast.AST] = [_parse(code)]
    for name in within.split(".") if within else ():
        nodes = [
            child
            for node in nodes
            for child in ast.walk(node)
            if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)) and child.name == name
        ]
    return [line for node in nodes for line in _lines(node, -1)]


@functools.lru_cache(maxsize=64)
def _parse(code: str) -> ast.Module:
    try:
        return ast.parse(code)
    except SyntaxError:
        return ast.Module(body=[], type_ignores=[])


@functools.lru_cache(maxsize=128)
def _numbers(code: str, original: str) -> dict[int, int]:
    """Line numbers of the code to those of the original, for the lines that are the same."""
    matcher = difflib.SequenceMatcher(None, code.splitlines(), original.splitlines(), autojunk=False)
    blocks = matcher.get_matching_blocks()
    return {block.a + offset + 1: block.b + offset + 1 for block in blocks for offset in range(block.size)}


def flatten(code: str) -> list[Line]:
    """The statements of a pattern, one a line."""
    return list(_lines(_parse(textwrap.dedent(code).strip("\n")), -1))


def _lines(node: ast.AST, depth: int) -> Iterator[Line]:
    number = min((each.lineno for each in getattr(node, "decorator_list", ())), default=getattr(node, "lineno", 0))
    if depth >= 0 or not isinstance(node, ast.Module):
        yield from (Line(number, max(depth, 0), code) for code in _head(node))
    for field in BODIES:
        below = getattr(node, field, None)
        if not isinstance(below, list) or not below:
            continue
        if field in ("orelse", "finalbody"):
            word = "else:" if field == "orelse" else "finally:"
            yield Line(below[0].lineno, max(depth, 0), word)
        for child in below:
            yield from _lines(child, depth + 1)


def _head(node: ast.AST) -> list[str]:
    """A statement as `ast` writes it; of a compound one its decorators and its first line."""
    if not any(isinstance(getattr(node, field, None), list) for field in BODIES):
        return [" ".join(ast.unparse(node).split())]
    marker = ast.Expr(ast.Constant(...))
    bare = {field: getattr(node, field) for field in node._fields}
    bare |= {field: [] for field in BODIES if field in bare}
    if isinstance(node, ast.Try):
        return ["try:"]
    if isinstance(node, ast.Match):
        return [f"match {ast.unparse(node.subject)}:"]
    text = ast.unparse(ast.fix_missing_locations(type(node)(**{**bare, "body": [marker]})))
    return text.rsplit("\n", 1)[0].splitlines() or [text]


def fits(wanted: Line, there: Line) -> bool:
    """Whether a line of a pattern, holes and all, is this line of code."""
    return is_hole(wanted.code) or wanted.code in ("...", there.code) or bool(_shape(wanted.code).fullmatch(there.code))


@functools.lru_cache(maxsize=1024)
def _shape(code: str) -> re.Pattern[str]:
    parts = re.split(r"(\*?\b__\w+\b)", code)
    return re.compile("".join(".*" if is_hole(part.lstrip("*")) else re.escape(part) for part in parts))


def most_like(wanted: Line, there: Sequence[Line]) -> Line:
    """The line that shares the most words; of equal ones the one that reads most alike."""
    best = max(_likeness(wanted, line) for line in there)
    close = [line for line in there if _likeness(wanted, line) == best][:20]
    return max(close, key=lambda line: difflib.SequenceMatcher(None, wanted.code, line.code).ratio())


def _likeness(wanted: Line, there: Line) -> float:
    if fits(wanted, there):
        return 1.0
    shared = len(wanted.words & there.words)
    return 1.8 * shared / (len(wanted.words) + len(there.words) or 1)


def align(pattern: Sequence[Line], there: Sequence[Line]) -> list[tuple[Line | None, Line | None]]:
    """The pattern laid over the stretch of code that costs least: pairs, with None where one side lacks a line."""
    wild = [is_hole(line.code) or line.code == "..." for line in pattern]
    columns = len(there) + 1
    costs = [[0.0] * columns]
    for row, line in enumerate(pattern):
        above = costs[-1]
        current: list[float] = []
        for column in range(columns):
            options = [above[column] + (0.0 if wild[row] else LOST)]
            if column:
                options.append(current[-1] + (0.0 if wild[row] else BETWEEN))
                likeness = 1.0 if wild[row] else _likeness(line, there[column - 1])
                options.append(above[column - 1] + 1.5 * (1.0 - likeness))
            current.append(min(options))
        costs.append(current)
    return _trace(pattern, there, costs, wild)


def _trace(
    pattern: Sequence[Line], there: Sequence[Line], costs: Sequence[Sequence[float]], wild: Sequence[bool]
) -> list[tuple[Line | None, Line | None]]:
    """The cheapest way through the table, from its end to the pattern's first line."""
    row, column = len(pattern), min(range(len(there) + 1), key=lambda at: costs[-1][at])
    pairs: list[tuple[Line | None, Line | None]] = []
    while row:
        line, cost, free = pattern[row - 1], costs[row][column], wild[row - 1]
        likeness = (1.0 if free else _likeness(line, there[column - 1])) if column else 0.0
        if column and abs(costs[row - 1][column - 1] + 1.5 * (1.0 - likeness) - cost) < 1e-9:
            pairs.append((line, there[column - 1]))
            row, column = row - 1, column - 1
        elif column and abs(costs[row][column - 1] + (0.0 if free else BETWEEN) - cost) < 1e-9:
            pairs.append((line if free else None, there[column - 1]))
            column -= 1
        else:
            if not free:
                pairs.append((line, None))
            row -= 1
    return pairs[::-1]
