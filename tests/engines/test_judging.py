"""What counts as the same answer, as rounding, as a known fault, and as different."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from llava_finetune.engines.answers import Answer, Question, Turn
from llava_finetune.engines.certificate import Certificate, not_run
from llava_finetune.engines.judging import Asked, Reference, Result, collapsed, first_token_difference, judge
from llava_finetune.report.engines import engines_markdown

QUESTIONS = [Question(f"r{number}/0", (Turn("user", "Is it red?"),)) for number in range(3)]
OWN = [Answer("yes", None, {7: -0.1, 8: -2.0}, [1, -200, 5]) for _ in QUESTIONS]


def judged(
    texts: list[str], gap: float, dtype: str = "bfloat16", explain: Callable[[int, str], bool] | None = None
) -> Result:
    answers = [Answer(text, None, {7: -0.15, 8: -2.0}, [1, -200, 5]) for text in texts]
    return judge(Asked("engine", "1.0", dtype, answers), Reference(QUESTIONS, OWN, lambda *_: gap), explain)


def test_the_same_answers_are_the_same() -> None:
    result = judged(["yes", "yes", "yes"], 9.0)
    assert (result.verdict, result.identical, result.count, result.prompt_ids) == ("same", 3, 3, "equal")
    assert result.first_token == pytest.approx(0.05)


@pytest.mark.parametrize(
    ("gap", "dtype", "verdict"),
    [
        (0.3, "bfloat16", "same but for ties"),
        (0.3, "float32", "different"),
        (0.3, "f16", "different"),
        (0.7, "bfloat16", "different"),
    ],
)
def test_a_near_tie_is_rounding_as_far_as_the_dtype_rounds(gap: float, dtype: str, verdict: str) -> None:
    result = judged(["yes", "no", "yes"], gap, dtype)
    assert result.verdict == verdict
    assert result.is_fine == (verdict != "different")
    (difference,) = result.differences
    assert (difference.question, difference.expected, difference.answer) == ("r1/0", "yes", "no")


def test_what_a_known_fault_explains_is_told_apart_and_is_not_fine() -> None:
    result = judged(["yes", "no", "yes"], 5.0, explain=lambda index, answer: (index, answer) == (1, "no"))
    assert (result.verdict, result.is_fine) == ("known fault", False)
    assert judged(["no", "no", "yes"], 5.0, explain=lambda index, _: index == 1).verdict == "different"


def test_other_prompt_ids_are_different_whatever_the_answers() -> None:
    answers = [Answer("yes", None, {}, [1, -200, 5]), Answer("yes", None, {}, [1, -200, 6]), Answer("yes")]
    result = judge(Asked("engine", "1.0", "f16", answers), Reference(QUESTIONS, OWN, lambda *_: 0.0))
    assert (result.verdict, result.prompt_ids) == ("different", "1 differ")


def answered(num_prompt: int | None = 580, first: float = -2.0) -> list[Answer]:
    return [Answer("yes", num_prompt, {7: -0.1, 8: first}) for _ in QUESTIONS]


@pytest.mark.parametrize(
    ("theirs", "pixels", "verdict", "ids", "note"),
    [
        (answered(), 9e-6, "same", "as many", None),
        (answered(None), None, "same", "not told", None),
        (answered(579), None, "different", "3 differ", None),
        (answered(), 2e-5, "different", "as many", "pixel values are up to 2.0e-05 away"),
        (answered(), float("inf"), "different", "as many", "pixel values are up to inf away"),
        (answered(first=-2.3), None, "same", "as many", None),
        (answered(first=-2.5), None, "different", "as many", "first tokens are up to 0.5 away, more than f16 rounds"),
    ],
)
def test_another_prompt_picture_or_first_token_is_different_though_every_answer_is_the_same(
    theirs: list[Answer], pixels: float | None, verdict: str, ids: str, note: str | None
) -> None:
    reference = Reference(QUESTIONS, answered(), lambda *_: 0.0)
    result = judge(Asked("engine", "1.0", "f16", theirs, pixels), reference)
    assert (result.verdict, result.prompt_ids, result.identical) == (verdict, ids, 3)
    assert [text.startswith(note or "") for text in result.notes] == [True] * (note is not None)


def test_first_tokens_of_a_known_fault_are_told_apart_from_those_of_another_model() -> None:
    reference = Reference(QUESTIONS, answered(), lambda *_: 0.0)
    for first, verdict in ((-2.1, "same"), (-3.1, "known fault"), (-5.0, "different")):
        asked = Asked("engine", "1.0", "f16", answered(first=first))
        assert judge(asked, reference, faulty=answered(first=-3.0)).verdict == verdict


def test_an_engines_run_of_picture_tokens_is_one_picture() -> None:
    assert collapsed([1, 9, 9, 9, 4, 9, 9], 9) == [1, -200, 4, -200]


def test_unlikely_first_tokens_and_a_vocabulary_of_more_rows_do_not_count() -> None:
    ours = [Answer("", None, {1: -0.1, 3: -3.0, 4: -3.0, 2: -9.0})]
    assert first_token_difference(ours, [Answer("", None, {1: -0.2, 3: -3.0, 2: -19.0})]) == pytest.approx(0.1)
    assert first_token_difference(ours, [Answer("", None, {1: -0.3, 3: -3.2, 4: -3.2})]) == pytest.approx(0)
    assert first_token_difference(ours, [Answer("")]) is None


def test_the_table_names_engine_count_and_first_difference() -> None:
    results = [judged(["yes", "no", "yes"], 5.0), not_run("vllm", "not installed")]
    certificate = Certificate("runs/mine", "test.json", "torch", results, "today")
    lines = certificate.lines()
    assert lines[1].split()[:4] == ["engine", "2", "of", "3"]
    assert "question r1/0: 'yes' became 'no'; fp32 prefers its own by 5" in "\n".join(lines)
    assert "vllm: not run: not installed" in lines
    assert lines[-1] == "not every engine that was asked answers as the model does"
    card = engines_markdown(certificate.as_json())
    assert "| engine | 1.0 | bfloat16 | 2 of 3 | equal | 5.0e-02 away | different |" in card
    assert engines_markdown({}) == ""
