"""Patterns match by shape; layout does not count, meaning does."""

import libcst as cst
import pytest

from patches import pattern
from patches.filling import fill, replace_at


def places(code: str, wanted: str) -> int:
    """How often the pattern is in the code."""
    shape = pattern.parse_expression(wanted) or pattern.parse_statements(wanted)
    return len(pattern.find(shape, cst.parse_module(code)))


@pytest.mark.parametrize(
    ("code", "wanted", "count"),
    [
        ("x = load( 'a' ,\n  map = 1, )\n", 'load("a", map=1)', 1),
        ("x = (load('a', map=1))\n", 'load("a", map=1)', 1),
        ("x = load('b', map=1)\n", 'load("a", map=1)', 0),
        ("x = load('a', map=2)\n", 'load("a", map=1)', 0),
        ("x = load('a', 1)\n", 'load("a", map=1)', 0),
        ("x = load(*a)\n", "load(a)", 0),
        ("x = load('a', m=1, n=2)\n", 'load("a", *__rest)', 1),
        ("x = load('a')\n", 'load("a", *__rest)', 1),
        ("x = f(a, b, c)\n", "f(*__rest, c)", 1),
        ("x = a + a\n", "__x + __x", 1),
        ("x = a + b\n", "__x + __x", 0),
        ("x = a.b.c\n", "a.b", 1),
        ("if a:  # why\n    b\n    c\n", "if a:\n    __body", 1),
        ("if a:\n    b\nelse:\n    c\n", "if a:\n    __body", 0),
        ("if a:\n    b\nelif d:\n    c\n", "if a: ...", 1),
        ("def f(x):\n    a = 1\n    b = 2\n    c = 3\n", "a = 1\nb = 2", 1),
        ("def f(x):\n    a = 1\n    b = 2\n    c = 3\n", "a = 1\nc = 3", 0),
        ("def f(x):\n    a = 1\n    b = 2\n    c = 3\n", "a = 1\n__between\nc = 3", 1),
        ("@d\ndef f(x):\n    a\n", "def f(x): ...", 0),
        ("a = 1\na = 1\n", "a = 1", 2),
        ("x = '''a'''\n", "'a'", 1),
        ("x = __init__\n", "__other__", 0),
    ],
)
def test_a_pattern_is_found_as_often_as_its_shape_occurs(code: str, wanted: str, count: int) -> None:
    assert places(code, wanted) == count


def test_holes_keep_what_they_matched_in_the_template() -> None:
    shape = pattern.parse_expression("old(*__args, last=__x)")
    module = cst.parse_module("y = old(1, k=[2], last=a.b)\n")
    [match] = pattern.find(shape, module)
    [new] = fill([pattern.parse_expression("new(__x, *__args)")], match.holes)
    assert replace_at(module, match.path, 1, [new]).code == "y = new(a.b, 1, k=[2])\n"


def test_a_hole_that_the_pattern_lacks_is_named() -> None:
    with pytest.raises(KeyError, match="__args is not in the pattern"):
        fill([pattern.parse_expression("f(*__args)")], {})


def test_module_level_patterns_do_not_look_into_functions() -> None:
    module = cst.parse_module("import a\ndef f():\n    import a\n")
    assert len(pattern.find(pattern.parse_statements("import a"), module, into=False)) == 1
