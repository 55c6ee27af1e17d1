"""The learning-rate sweep: what it proposes and how sure it is, the time that it keeps, and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from llava_finetune.errors import UsageError, UserError
from llava_finetune.training.rate_sweep import Tried, main, sweep, verdict

NEEDED = ["--model_name_or_path", "m", "--data_path", "d.json", "--eval_data_path", "e.json"]
LOSSES = {1e-4: 1.0, 2e-4: 0.5, 4e-4: 0.9, 0.5: float("nan")}


def fake(flags: Sequence[str], seconds: float) -> str:
    """A training that ends at once with a loss by its rate, a little other for each of 40 records."""
    given = dict(zip(flags[::2], flags[1::2], strict=True))
    rate, output = float(given["--learning_rate"]), Path(given["--output_dir"])
    assert given["--max_steps"] == given["--eval_steps"] == "8" and seconds > 0
    if rate not in LOSSES:
        return "step 3: the loss is nan"
    output.mkdir(parents=True)
    rows = [{"id": str(n), "turn": turn, "loss": LOSSES[rate] + 0.01 * (n % 7)} for n in range(40) for turn in (0, 1)]
    (output / "predictions-eval-8.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return ""


def test_the_best_rate_is_proposed_and_failed_ones_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    rates = ["--rates", "1e-4", "0.5", "2e-4", "4e-4", "1"]
    assert main(["--steps", "8", *rates, "--", *NEEDED], fake) == 0
    text = capsys.readouterr().out
    assert "--learning_rate 0.0002: it is better than every other that was tried by more than luck" in text
    assert "1: step 3: the loss is nan" in text
    assert "0.5: the held-out loss of 40 of 40 records is not finite" in text
    assert "0.0001   loss 1.0288 (" in text and "against the best (+0.5000 to +0.5000)" in text


def test_of_rates_that_cannot_be_told_apart_the_smallest_is_proposed() -> None:
    noise = [0.3 * (-1) ** n for n in range(40)]
    tried = [Tried(2e-4, [1.0] * 40, 1), Tried(1e-4, [1.001 + n for n in noise], 1), Tried(8e-4, [3.0] * 40, 1)]
    lines = verdict(tried, 8)
    assert any(line.startswith("--learning_rate 0.0001: 0.0002 cannot be told apart from it on 40") for line in lines)
    edge = verdict([Tried(2e-4, [1.0] * 9, 1), Tried(4e-4, [0.5] * 9, 1)], 8)
    assert any("it is the largest that was tried" in line for line in edge)
    few = verdict([Tried(2e-4, [1.0, 1.1, 1.2], 1), Tried(4e-4, [0.5, 0.6, 0.8], 1)], 8)
    assert any("0.0004 cannot be told apart" in line for line in few)


def test_a_rate_that_does_not_fit_into_the_time_is_said(tmp_path: Path) -> None:
    tried, problems = sweep([1e-4, 2e-4], NEEDED, 8, 1e-9, tmp_path, fake)
    assert tried == [] and problems[0].startswith("0.0001: not tried")
    with pytest.raises(UserError, match=r"0 of 2 rates .*; give more --minutes, or fewer --steps"):
        main(["--steps", "8", "--minutes", "1e-9", "--rates", "1e-4", "2e-4", "--", *NEEDED], fake)


def test_what_a_rate_leaves_is_gone_before_the_next_and_no_time_helps_against_nan(tmp_path: Path) -> None:
    sweep([0.5, 1e-4], NEEDED, 8, 60, tmp_path, fake)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(UserError, match=r"0 of 2 rates .*; why is said above; give other --rates"):
        main(["--steps", "8", "--rates", "0.5", "3", "--", *NEEDED], fake)


def test_what_cannot_be_swept_is_refused() -> None:
    with pytest.raises(UsageError, match="in it --eval_data_path"):
        main(["--", *NEEDED[:4]], fake)
    with pytest.raises(UserError, match="1 of 2 rates ended"):
        main(["--steps", "8", "--rates", "1e-4", "3", "--", *NEEDED], fake)


@pytest.mark.parametrize(
    "rates",
    [["1e-4", "0"], ["1e-4", "nan"], ["1e-4", "-1"], ["1e-4", "2000"], ["1e-4", "x"], ["1e-4"], ["1e-4", "0.0001"]],
)
def test_a_bad_rate_is_refused_before_anything_is_trained(rates: list[str]) -> None:
    def never(flags: Sequence[str], seconds: float) -> str:
        raise AssertionError(f"trained with {flags}")

    with pytest.raises((SystemExit, UsageError)):
        main(["--steps", "8", "--rates", *rates, "--", *NEEDED], never)
