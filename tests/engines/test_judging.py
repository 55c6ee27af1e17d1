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
