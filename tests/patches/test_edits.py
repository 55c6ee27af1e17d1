"""An edit applies, or says why not: four different refusals, each with its own message."""

import libcst as cst
import pytest

from patches.edits import (
    AddParameter,
    After,
    AlreadyThere,
    Ambiguous,
    Applied,
    Before,
    Edit,
    Failure,
    Gone,
    Missing,
    Replace,
    Unchanged,
)

CODE = """
class Model:
    def load(self, path, dtype=None):
        # the weights
        weights = read(path)
        self.to("cuda")
        return weights


def load(path):
    return read(path)
"""
FILE = "llava/x.py"
SCOPE = "Model.load"


def apply(edit: Edit, code: str = CODE) -> str:
    """The code after an edit that must succeed."""
    result = edit.apply(cst.parse_module(code))
    assert isinstance(result, Applied), result
    return result.module.code


def refuse(edit: Edit, code: str = CODE) -> Failure:
    """The refusal of an edit that must fail."""
    result = edit.apply(cst.parse_module(code))
    assert isinstance(result, Failure), result.module.code
    return result


def test_an_expression_is_replaced_in_its_function_only() -> None:
    changed = apply(Replace(FILE, SCOPE, find="read(__x)", put="read_all(__x)"))
    assert changed == CODE.replace("weights = read(path)", "weights = read_all(path)")


def test_comments_above_a_replaced_statement_stay() -> None:
    changed = apply(Replace(FILE, SCOPE, find="weights = __x", put="weights = None\ncheck(weights)"))
    assert "# the weights\n        weights = None\n        check(weights)\n" in changed


def test_statements_go_before_and_after_what_is_found() -> None:
    find = "self.to(__where)"
    assert "a()\n        self.to" in apply(Before(FILE, SCOPE, find, "a()"))
    assert 'self.to("cuda")\n        a()\n' in apply(After(FILE, SCOPE, find, "a()"))


def test_statements_are_removed_and_an_emptied_block_gets_pass() -> None:
    assert "cuda" not in apply(Replace(FILE, SCOPE, find="self.to(__where)", put=""))
    assert "if a:\n    pass\n" in apply(Replace(FILE, "", find="gone()", put=""), "if a:\n    gone()\n")


def test_brackets_that_hold_line_breaks_together_stay() -> None:
    code = "x = (\n    a\n    .b()\n    .c()\n)\n"
    assert cst.parse_module(apply(Replace(FILE, "", find="__x.c()", put="__x.d()"), code))


def test_a_parameter_is_added_after_the_named_one() -> None:
    assert "path, bits=16, dtype=None" in apply(AddParameter(FILE, SCOPE, find="path", put="bits=16"))


def test_no_match_is_refused_with_the_nearest_line() -> None:
    failure = refuse(Replace(FILE, SCOPE, find="weights = open(path)", put="pass"))
    assert isinstance(failure, Missing)
    told = "expected 1 place like `weights = open(path)`, found none; nearest, line 5: `weights = read(path)`"
    assert failure.message == told


def test_two_matches_are_refused_with_both() -> None:
    code = CODE.replace('self.to("cuda")', 'self.to("cuda")\n        self.to("cpu")')
    failure = refuse(Replace(FILE, SCOPE, find="self.to(__where)", put="self.place()"), code)
    assert isinstance(failure, Ambiguous)
    told = 'expected 1 place like `self.to(__where)`, found 2: `self.to("cuda")` (line 6); `self.to("cpu")` (line 7)'
    assert failure.message == told


def test_fewer_matches_than_counted_are_refused() -> None:
    failure = refuse(Replace(FILE, SCOPE, find="read(__x)", put="open_it(__x)", count=2))
    assert isinstance(failure, Ambiguous)
    assert failure.message.startswith("expected 2 places like `read(__x)`, found 1")


def test_an_edit_that_changes_nothing_is_refused() -> None:
    failure = refuse(Replace(FILE, SCOPE, find='"cuda"', put="'cuda'"))
    assert isinstance(failure, Unchanged)
    assert "changes nothing" in failure.message


@pytest.mark.parametrize(
    "edit",
    [
        Replace(FILE, SCOPE, find="load_weights(__x)", put="read(__x)"),
        Replace(FILE, SCOPE, find="path", put="read(path)"),
        Before(FILE, SCOPE, find="self.to(__where)", put="weights = read(path)"),
        AddParameter(FILE, SCOPE, find="path", put="dtype=None"),
    ],
)
def test_what_upstream_already_has_is_refused_as_such(edit: Edit) -> None:
    failure = refuse(edit, CODE.replace("self, path,", "self, place,") if edit.find == "path" else CODE)
    assert isinstance(failure, AlreadyThere)
    assert failure.message.startswith("this edit is there already: ")
    assert "delete" not in failure.message


def test_a_parameter_of_the_name_with_another_default_is_not_the_result() -> None:
    failure = refuse(AddParameter(FILE, SCOPE, find="path", put="dtype='auto'"))
    assert isinstance(failure, Missing)
    assert failure.message == "expected no parameter like `dtype='auto'`, found `dtype=None`"


def test_a_pattern_of_several_lines_shows_every_difference_with_line_numbers() -> None:
    code = CODE.replace("weights = read(path)", "weights = read(path)\n        weights.check()")
    failure = refuse(Replace(FILE, SCOPE, find="weights = read(__x)\nself.to('cpu')\nreturn weights", put="pass"), code)
    assert failure.message.splitlines() == [
        "expected 1 place like `weights = read(__x) ...`, found none; nearest, with every difference:",
        "             5  weights = read(path)",
        "      +      6  weights.check()",
        "      -         self.to('cpu')",
        "      +      7  self.to('cuda')",
        "             8  return weights",
    ]


def test_lines_are_counted_in_the_file_as_it_was_before_any_patch() -> None:
    module = cst.parse_module("import a\n" + CODE)
    failure = Replace(FILE, SCOPE, find="weights = open(path)", put="pass").apply(module, CODE)
    assert isinstance(failure, Missing)
    assert "nearest, line 5: `weights = read(path)`" in failure.message


def test_a_missing_function_is_gone_with_the_nearest_name() -> None:
    failure = refuse(Replace(FILE, "Model.lode", find="a", put="b"))
    assert isinstance(failure, Gone)
    assert failure.message == (
        "expected `lode` (of `Model.lode`), found no such class or function; the nearest name is `load`"
    )


def test_a_function_that_is_there_twice_is_refused() -> None:
    failure = refuse(Replace(FILE, "load", find="read(path)", put="b"), CODE + "\n\ndef load(path):\n    return 1\n")
    assert isinstance(failure, Ambiguous)
    assert "expected one `load`" in failure.message


def test_a_missing_parameter_is_refused_with_the_ones_there() -> None:
    failure = refuse(AddParameter(FILE, SCOPE, find="device", put="bits=16"))
    assert failure.message == "expected a parameter `device`, found (self, path, dtype)"
