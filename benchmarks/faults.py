"""Small faults that can be put into a module, one at a time: another comparison, a branch turned, a line left out.

tree, words = changed(source, 7)        # the module with fault 7, and `if a < b:  ->  if a <= b:`

Texts of messages (f-strings, what is raised), annotations, imports and docstrings are left alone.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator

SHOWN = 70
SWAPS: dict[type[ast.AST], type[ast.AST]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.And: ast.Or, ast.Or: ast.And,
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult,
}  # fmt: skip
Apply = Callable[[], None]


def faults(tree: ast.Module) -> Iterator[tuple[ast.stmt, Apply]]:
    """Every fault that can be put into a module: the statement that holds it, and what puts it there."""
    for node in ast.walk(tree):
        for name in ("body", "orelse", "finalbody"):
            block = getattr(node, name, None)
            if not isinstance(block, list):
                continue
            for place, statement in enumerate(block):
                if _is_left_alone(statement):
                    continue
                if isinstance(statement, ast.Raise | ast.Expr | ast.AugAssign | ast.Continue | ast.Break):
                    yield statement, _setter(block, place, ast.copy_location(ast.Pass(), statement))
                for inner in _own_nodes(statement):
                    yield from ((statement, apply) for apply in _faults_of(inner))


def _is_left_alone(statement: ast.stmt) -> bool:
    if isinstance(statement, ast.Import | ast.ImportFrom | ast.Pass):
        return True
    is_text = isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
    return is_text or (isinstance(statement, ast.If) and "TYPE_CHECKING" in ast.dump(statement.test))


def _own_nodes(statement: ast.stmt) -> Iterator[ast.AST]:
    """The nodes of a statement without those of statements in it, messages (f-strings, raise) and annotations."""
    if isinstance(statement, ast.Raise | ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return
    if isinstance(statement, ast.If | ast.While | ast.Return | ast.Assert):
        yield statement
    waiting: list[ast.AST] = [
        value for name, value in _children(statement) if not isinstance(value, ast.stmt) and name != "annotation"
    ]
    while waiting:
        node = waiting.pop(0)
        if isinstance(node, ast.JoinedStr | ast.stmt):
            continue
        yield node
        waiting += [value for name, value in _children(node) if name != "annotation"]


def _children(node: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    for name, value in ast.iter_fields(node):
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST):
                yield name, child


def _faults_of(node: ast.AST) -> Iterator[Apply]:
    if isinstance(node, ast.Compare):
        for place, operator in enumerate(node.ops):
            if other := SWAPS.get(type(operator)):
                yield _setter(node.ops, place, other())
    elif isinstance(node, ast.BoolOp | ast.BinOp):
        if other := SWAPS.get(type(node.op)):
            yield _setter(node, "op", other())
    elif isinstance(node, ast.If | ast.While | ast.IfExp):
        yield _setter(node, "test", ast.UnaryOp(ast.Not(), node.test))
    elif isinstance(node, ast.comprehension):
        for place, test in enumerate(node.ifs):
            yield _setter(node.ifs, place, ast.UnaryOp(ast.Not(), test))
    elif isinstance(node, ast.Return) and node.value is not None and not isinstance(node.value, ast.Constant):
        yield _setter(node, "value", ast.Constant(None))
    elif isinstance(node, ast.Constant) and type(node.value) in (bool, int, float):
        value = node.value
        yield _setter(node, "value", not value if isinstance(value, bool) else value * 10 if value % 1 else value + 1)


def _setter(target: list[object] | ast.AST | list[ast.stmt], place: int | str, value: ast.AST | object) -> Apply:
    def apply() -> None:
        if isinstance(place, int):
            target[place] = value  # type: ignore[index]
        else:
            setattr(target, place, value)

    return apply


def changed(source: str, number: int) -> tuple[ast.Module, str]:
    """The module with one fault, and what it changes in words."""
    tree = ast.parse(source)
    statement, apply = next(pair for place, pair in enumerate(faults(tree)) if place == number)
    before = ast.unparse(statement)
    apply()
    after = ast.unparse(statement)
    ast.fix_missing_locations(tree)
    return tree, _difference(before, after)


def _difference(before: str, after: str) -> str:
    """The line that changed, before and after, without what is far from the change; one line where it is left out."""
    if before == after:
        return f"left out: {before.splitlines()[0][:SHOWN]}"
    pairs = zip(before.splitlines(), after.splitlines(), strict=False)
    one, other = next(pair for pair in pairs if pair[0] != pair[1])
    same = next(place for place in range(len(one) + 1) if one[: place + 1] != other[: place + 1])
    start = max(0, same - SHOWN // 3)
    return f"{one[start : start + SHOWN].strip()}  ->  {other[start : start + SHOWN].strip()}"
