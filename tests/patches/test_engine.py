"""A series is all or nothing, reports every failure at once, and proves what it claims."""

import re
from typing import Any

import libcst as cst
import pytest

from patches import pattern
from patches.edits import Edit, Replace
from patches.engine import Report, Status, run
from patches.series import Absent, Import, Kind, Patch, load_series, read_order

PRISTINE = {"llava/a.py": b"import os\n\n\ndef f(x):\n    return os.path.join(x, 'a')\n", "llava/b.py": b"y = 1\n"}


def patch(name: str, *edits: Edit, proofs: tuple[Absent, ...] = (), **more: Any) -> Patch:
    """A patch with the words that do not matter here."""
    return Patch(Kind.MEND, "test", "why", "outside", "upstream drops it", edits, proofs=proofs, name=name, **more)


GOOD = patch("good", Replace("llava/b.py", "", find="y = 1", put="y = 2"))
DRIFTED = patch(
    "drifted",
    Replace("llava/a.py", "f", find="os.path.join(x, 'a')", put="join(x)"),
    Replace("llava/a.py", "f", find="os.path.split(x)", put="split(x)"),
)
GONE = patch("gone", Replace("llava/c.py", "", find="z = 1", put="z = 2"))
REDUNDANT = patch("redundant", Replace("llava/a.py", "f", find="os.join(x)", put="os.path.join(x, 'a')"))


def run_all(*patches: Patch) -> Report:
    """The series on the two files above."""
    return run(patches, PRISTINE)


def test_all_failures_are_reported_at_once_and_the_rest_still_applies() -> None:
    report = run_all(DRIFTED, GONE, REDUNDANT, GOOD)
    assert [result.status for result in report.results] == [
        Status.DRIFTED,
        Status.GONE,
        Status.REDUNDANT,
        Status.APPLIES,
    ]
    assert len(report.failed) == 4
    assert report.failed[0].startswith("drifted: llava/a.py, f: expected 1 place like `os.path.split(x)`, found none")
    assert report.failed[1] == "gone: llava/c.py, module level: expected this file, found none"
    assert report.failed[2] == "redundant: llava/a.py, f: this edit is there already: `os.path.join(x, 'a')` (line 5)"
    assert report.failed[3] == "redundant: it is there already: delete this patch"


def test_a_patch_of_which_one_edit_fails_changes_nothing() -> None:
    assert run_all(DRIFTED).files == PRISTINE


def test_a_changed_file_says_so_and_an_unchanged_one_keeps_its_bytes() -> None:
    report = run_all(GOOD)
    first = report.files["llava/b.py"].decode().splitlines()[0]
    assert first.startswith("# This file was changed by llava-finetune (patches: good)")
    assert "Apache-2.0" in first
    assert report.files["llava/a.py"] == PRISTINE["llava/a.py"]


def test_a_broken_proof_is_a_failure() -> None:
    report = run_all(patch("p", *GOOD.edits, proofs=(Absent("llava/b.py", "", "2"),)))
    assert report.failed == ["p: llava/b.py, module level: `2` is still there (a line that a patch wrote)"]


def test_a_patch_whose_need_does_not_fit_is_blocked() -> None:
    report = run_all(DRIFTED, patch("late", *GOOD.edits, needs=("drifted",)))
    assert report.results[1].status is Status.BLOCKED
    assert report.failed[-1] == "late: it fits, but needs drifted, which does not"
    assert report.files == PRISTINE


PARTS = (
    Replace("llava/a.py", "f", find="os.join(x)", put="os.path.join(x, 'a')"),
    Replace("llava/b.py", "", find="y = 1", put="y = 2"),
)


def test_a_patch_of_which_upstream_has_a_part_is_kept() -> None:
    report = run_all(patch("half", *PARTS))
    assert report.results[0].status is Status.DRIFTED
    assert "1 of 2 edits are there already, 1 still apply: keep the patch" in report.failed[-1]
    assert not any("delete" in line for line in report.failed)


def test_what_looks_like_the_result_fewer_times_than_it_would_be_made_is_not_the_result() -> None:
    twice = Replace("llava/a.py", "f", find="os.join(x)", put="os.path.join(x, 'a')", count=2)
    report = run_all(patch("twice", twice))
    assert report.results[0].status is Status.DRIFTED
    assert "expected 2 places like `os.join(x)`, found none; nearest, line 5: `return os.path.join" in report.failed[0]


def test_a_result_that_leaves_the_cause_is_not_the_result() -> None:
    report = run_all(patch("left", REDUNDANT.edits[0], proofs=(Absent("llava/a.py", "", "os.path"),)))
    assert report.results[0].status is Status.DRIFTED
    assert report.failed[-1] == "left: llava/a.py, module level: `os.path` is still there (line 5)"


def test_a_tree_without_the_cause_does_not_need_the_patch() -> None:
    gone = Replace("llava/a.py", "f", find="os.path.split(x)", put="split(x)")
    for condition, status in (("__x.split(*__any)", Status.UNNEEDED), ("os.path", Status.DRIFTED)):
        report = run_all(patch("idle", gone, drop_if=(Absent("llava/a.py", "f", condition),)))
        assert report.results[0].status is status
    report = run_all(patch("idle", gone, drop_if=(Absent("llava/a.py", "g", "__x.split(*__any)"),)))
    assert report.results[0].status is Status.DRIFTED, "a function that is not there proves nothing"


def test_the_imports_of_the_patches_of_one_function_are_one_statement() -> None:
    body = 'def f(x):\n    """Doc."""\n    return g(x)\n'
    edits = {
        name: Replace("llava/a.py", "f", find=find, put=find.replace("(", "_(")) for name, find in (("p", "g(x)"),)
    }
    series = [
        patch("p", edits["p"], imports=(Import("llava/a.py", "f", ("weights",)),)),
        patch(
            "q", Replace("llava/a.py", "f", find="g_(x)", put="h(x)"), imports=(Import("llava/a.py", "f", ("guards",)),)
        ),
    ]
    text = run(series, {"llava/a.py": body.encode()}).files["llava/a.py"].decode()
    assert '    """Doc."""\n    from llava_finetune.upstream import guards, weights\n    return h(x)\n' in text


def test_a_template_without_needed_brackets_is_a_failure() -> None:
    report = run(
        [patch("p", Replace("llava/b.py", "", find="g(__x)", put="__x * 2"))], {"llava/b.py": b"y = g(1 + 1)\n"}
    )
    assert "does not read as it was built" in report.failed[0]


def test_the_same_input_gives_the_same_bytes(pristine: dict[str, bytes]) -> None:
    series = load_series()
    assert run(series, pristine).files == run(series, dict(reversed(pristine.items()))).files


@pytest.fixture(scope="module")
def whole(pristine: dict[str, bytes]) -> Report:
    """The whole series on the pin, with changed lines."""
    return run(load_series(), pristine, count_lines=True)


@pytest.mark.parametrize("name", read_order())
def test_a_patch_is_small_has_one_intention_and_gives_its_reasons(name: str, whole: Report) -> None:
    [result] = [each for each in whole.results if each.patch.name == name]
    assert result.patch.edits
    for text in (result.patch.origin, result.patch.why, result.patch.not_outside, result.patch.drop_when):
        assert len(text) > 8
    assert re.search(r"#\d+|measured|upstream after the pin", result.patch.origin), "no thread and no measurement"
    assert 0 < result.lines <= 40


def test_no_device_and_no_half_precision_is_hard_coded(whole: Report) -> None:
    """Anywhere in the patched tree; `--fp16` of the trainer asks for it."""
    found = []
    for name, content in whole.files.items():
        tree = cst.parse_module(content.decode())
        for shape in ("__x.cuda()", "__x.half()", "torch.float16", "torch.half", "'cuda'", "'float16'"):
            places = pattern.find(cst.parse_expression(shape), tree)
            found += [(name, shape)] * len(places)
    assert found == [("llava/train/train.py", "torch.float16")] * 2


def test_the_whole_series_applies_to_the_pin(whole: Report) -> None:
    assert whole.failed == []


def test_the_stack_patches_stand_alone(pristine: dict[str, bytes]) -> None:
    report = run(load_series([Kind.STACK]), pristine)
    assert report.failed == []
    assert all(name.startswith(("llava/train/", "llava/model/multimodal_encoder/")) for name in report.changed_by)
