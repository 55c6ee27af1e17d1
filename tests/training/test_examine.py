"""A training is examined while it runs: at step 0, on time, on all ranks; best checkpoint, early stop, words, probe."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from data_prep.files import sha256_of
from llava_finetune.report.outcomes import loss_of
from llava_finetune.report.run_folder import read_run
from llava_finetune.training.watch import overfitting
from tests.training.conftest import Flags, assert_same_run, record, rows_of, tensors
from tests.training.forked import at_step, both, die, scripted, told_to_stop, train

EVERY_TWO = "--eval_strategy steps --eval_steps 2 --eval_max_new_tokens 3"


def evaluated(output: Path, key: str = "eval_loss") -> list[int]:
    """The steps at which a number was measured."""
    return [row["step"] for row in rows_of(output) if key in row]


def predictions(output: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (output / f"predictions-{name}.jsonl").read_text().splitlines()]


def checkpoint_steps(output: Path) -> set[int]:
    return {int(path.name.split("-")[1]) for path in output.glob("checkpoint-*")}


def test_answers_of_a_bf16_run_are_generated_under_its_autocast(flags: Flags, data: Path, tmp_path: Path) -> None:
    """The projector is trained in fp32 behind a bf16 tower: outside of autocast their types do not meet."""
    more = f"--max_steps 2 --precision bf16 --save_steps 9 --eval_data_path {data / 'eval.json'} {EVERY_TWO}"
    code, text = train(flags("lora", tmp_path / "run", more), tmp_path / "out")
    assert code == 0, text
    assert evaluated(tmp_path / "run", "eval_exact_match") == [0, 2]


def test_a_run_is_examined_at_step_0_and_on_time_with_a_probe_and_changes_nothing(
    flags: Flags, whole: Any, data: Path, tmp_path: Path
) -> None:
    output = tmp_path / "run"
    more = f"--eval_data_path {data / 'eval.json'} --probe_data_path {data / 'probe.json'} {EVERY_TWO}"
    code, text = train(flags("lora", output, more), tmp_path / "out")
    assert code == 0, text
    assert evaluated(output) == evaluated(output, "probe_exact_match") == [0, 2, 4, 6]
    # Evaluation takes nothing from the training: same losses, same weights, to the bit.
    assert_same_run(whole("lora"), output)
    for name in ("eval-0", "eval-2", "eval-4", "eval-6", "probe-0", "probe-6"):
        scores = json.loads((output / f"scores-{name}.json").read_text())
        assert scores["data_sha256"] == sha256_of(data / f"{name.split('-')[0]}.json") and scores["base_sha256"]
        assert scores["count"] == len(predictions(output, name)) == (6 if name.startswith("eval") else 2)
    assert "eval at step 0: loss" in text and "of 6 questions" in text
    assert "evaluation took" in text and "s of this run" in text
    # Four answers to "what colour?" are equally common: the first, red, is right for two of five. "four" is known.
    assert read_run(output).evaluations["text_prior"].scores["exact_match"] == pytest.approx(3 / 6)
    assert "text-only prior: exact match 50.00%, the commonest answer that training gives to each question" in text
    rows = predictions(output, "eval-6")
    assert {"id", "question", "answer", "reference", "truncated", "num_tokens", "loss"} <= set(rows[0])
    run = read_run(output)
    assert run.evaluations["baseline"].predictions == predictions(output, "eval-0")
    assert run.evaluations["final"].predictions == rows
    page = (output / "report.html").read_text()
    for part in (
        "Before training",
        "Text-only prior",
        "After training",
        "General questions that training does not teach",
        "Forgetting",
    ):
        assert part in page
    assert f"loss {max(loss_of([row]) or 0 for row in rows):.3g}"[:8] in page


def test_the_eval_loss_is_the_mean_of_the_records_whatever_the_batch(flags: Flags, data: Path, tmp_path: Path) -> None:
    found = []
    for size in (1, 4):
        more = f"--eval_data_path {data / 'eval.json'} --max_steps 1 --per_device_eval_batch_size {size} {EVERY_TWO}"
        code, text = train(flags("lora", tmp_path / str(size), more), tmp_path / "out")
        assert code == 0, text
        first = next(row for row in rows_of(tmp_path / str(size)) if "eval_loss" in row)
        found.append((first["eval_loss"], predictions(tmp_path / str(size), "eval-0")))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-5)
    assert [row["answer"] for row in found[0][1]] == [row["answer"] for row in found[1][1]]
    assert [row["loss"] for row in found[0][1]] == pytest.approx([row["loss"] for row in found[1][1]], rel=1e-4)


def test_by_default_each_epoch_is_examined_within_the_limit(flags: Flags, data: Path, tmp_path: Path) -> None:
    output = tmp_path / "run"
    more = f"--eval_data_path {data / 'eval.json'} --eval_limit 3 --eval_max_new_tokens 1 --max_steps 7"
    code, text = train(flags("lora", output, more), tmp_path / "out")
    assert code == 0, text
    assert evaluated(output) == [0, 5, 7]
    kept = [[row["id"] for row in predictions(output, f"eval-{step}")] for step in (0, 5, 7)]
    assert len(kept[0]) == 3 and kept[0] == kept[1] == kept[2]
    cut = sum(row["truncated"] for row in predictions(output, "eval-0"))
    assert cut and f"WARNING: {cut} of 3 answers were cut off at --eval_max_new_tokens 1" in text


def test_held_out_answers_that_do_not_fit_are_an_error_or_counted(flags: Flags, data: Path, tmp_path: Path) -> None:
    # Both fit as text; the 16 positions of a picture push their end out.
    def run(question: str, answer: str) -> tuple[int, str]:
        records = [record(f"e-{n}", f"<image>\n{q}", a, image="0.png") for n, (q, a) in
                   enumerate([("what?", "red"), (question, answer)])]  # fmt: skip
        (tmp_path / "eval.json").write_text(json.dumps(records))
        more = f"--eval_data_path {tmp_path / 'eval.json'} {EVERY_TWO} --model_max_length 120 --max_steps 1"
        return train(flags("lora", tmp_path / answer[:4], more), tmp_path / "out")

    code, text = run("what is it? " * 6, "red")
    assert code == 1
    assert "1 of 2 records have no answer token within --model_max_length 120 (pictures count), the first: e-1" in text
    code, text = run("what?", "blue and red " * 14)
    assert code == 0, text
    assert text.count("WARNING: 1 records of") == 2, "at step 0 and at the end"
    assert "are longer than --model_max_length and lost their end: the loss is of the rest" in text


@pytest.mark.slow
@pytest.mark.parametrize(("mode", "config"), [("lora", None), ("lora", "zero3"), ("full", "zero3"), ("qlora", "zero2")])
def test_two_ranks_share_the_questions_and_give_the_answers_of_one(
    mode: str, config: str | None, flags: Flags, data: Path, root: Path, tmp_path: Path
) -> None:
    engine = f"--deepspeed {root / 'deepspeed_configs' / config}.json" if config else ""
    found = {}
    for ranks, more in ((1, ""), (2, engine)):
        output = tmp_path / str(ranks)
        words = flags(mode, output, f"--eval_data_path {data / 'odd.json'} {EVERY_TWO} --max_steps 2 {more}")
        code, text = train(words, tmp_path / "out", ranks)
        assert code == 0, text
        first = next(row for row in rows_of(output) if "eval_loss" in row)
        found[ranks] = (first["eval_loss"], predictions(output, "eval-0"))
        assert evaluated(output) == [0, 2]
    assert found[1][0] == pytest.approx(found[2][0], rel=1e-4)
    for key in ("id", "answer", "num_tokens"):
        assert [row[key] for row in found[1][1]] == [row[key] for row in found[2][1]]
    assert [row["loss"] for row in found[1][1]] == pytest.approx([row["loss"] for row in found[2][1]], rel=1e-3)


WORSE = {0: {"loss": 9.0}, 1: {"loss": 3.0}, 2: {"loss": 2.0}, 3: {"loss": 2.5}, 4: {"loss": 2.6}, 5: {"loss": 1.0}}
STOPPED = "--eval_strategy steps --eval_steps 1 --metric_for_best_model loss --early_stopping_patience 2 --save_steps 9"


def test_the_best_checkpoint_is_the_result_and_the_run_stops_early(
    flags: Flags, whole: Any, data: Path, tmp_path: Path
) -> None:
    output = tmp_path / "run"
    more = f"--eval_data_path {data / 'eval.json'} {STOPPED} --save_total_limit 1"
    code, text = train(flags("lora", output, more), tmp_path / "out", wound=scripted(WORSE))
    assert code == 0, text
    assert "step 4: eval_loss has not been better than 2.0000 (step 2) for 2 evaluations; stopping early" in text
    assert "saved adapter of step 2, best by eval_loss" in text
    result = json.loads((output / "result.json").read_text())
    assert (result["step"], result["result_step"]) == (4, 2)
    assert checkpoint_steps(output) == {2, 4}, "the best and the last stay, whatever the limit"
    best, usual = tensors(output), tensors(whole("lora") / "checkpoint-2")
    assert all(torch.equal(best[name], usual[name]) for name in best)


def test_a_run_killed_after_it_stopped_early_does_not_train_on(flags: Flags, data: Path, tmp_path: Path) -> None:
    output = tmp_path / "run"
    more = f"--eval_data_path {data / 'eval.json'} {STOPPED}"

    def dies_before_its_result() -> None:
        import llava_finetune.training.train

        llava_finetune.training.train.finish = lambda *_: die()  # type: ignore[assignment]

    wound = both(scripted(WORSE), dies_before_its_result)
    assert train(flags("lora", output, more), tmp_path / "out", wound=wound)[0] == -9
    code, text = train(flags("lora", output, f"{more} --resume auto"), tmp_path / "out", wound=scripted(WORSE))
    assert code == 0, text
    result = json.loads((output / "result.json").read_text())
    assert (result["step"], result["result_step"]) == (4, 2)
    assert max(row["step"] for row in rows_of(output)) == 4


def test_an_evaluation_that_a_signal_left_out_is_made_up_for(flags: Flags, data: Path, tmp_path: Path) -> None:
    output = tmp_path / "run"
    more = f"--eval_data_path {data / 'eval.json'} {EVERY_TWO}"
    values = {step: {"loss": 1.0} for step in range(7)}
    wound = both(scripted(values), at_step(2, told_to_stop))
    assert train(flags("lora", output, more), tmp_path / "out", wound=wound)[0] == 75
    assert evaluated(output) == [0]
    code, text = train(flags("lora", output, f"{more} --resume auto"), tmp_path / "out", wound=scripted(values))
    assert code == 0, text
    assert evaluated(output) == [0, 2, 4, 6]


def test_an_unknown_metric_is_refused_with_those_there_are(flags: Flags, data: Path, tmp_path: Path) -> None:
    more = f"--eval_data_path {data / 'eval.json'} {EVERY_TWO} --metric_for_best_model eval_cider"
    code, text = train(flags("lora", tmp_path / "run", more), tmp_path / "out")
    assert code == 1
    assert "--metric_for_best_model eval_cider: not among the numbers of an evaluation: eval_" in text


def test_overfitting_is_said_in_words(flags: Flags, data: Path, tmp_path: Path) -> None:
    output = tmp_path / "run"
    more = f"--eval_data_path {data / 'eval.json'} --eval_strategy steps --eval_steps 2 --max_steps 8"
    values = {0: {"loss": 1.0}, 2: {"loss": 1.1}, 4: {"loss": 1.2}, 6: {"loss": 1.5}, 8: {"loss": 2.0}}
    code, text = train(flags("lora", output, more), tmp_path / "out", wound=scripted(values))
    assert code == 0, text
    assert "overfitting: the held-out loss rose from" in text and "while the training loss fell from" in text
    assert any("overfitting" in row.get("warning", "") for row in rows_of(output))


def test_overfitting_needs_a_held_out_loss_that_rises_while_the_training_loss_falls() -> None:
    def rows(held_out: list[float], train: list[float]) -> list[dict[str, float]]:
        out: list[dict[str, float]] = [{"step": 0, "eval_loss": held_out[0]}]
        for step, (own, other) in enumerate(zip(train, held_out[1:], strict=True), start=1):
            out += [{"step": step, "loss": own}, {"step": step, "eval_loss": other}]
        return out

    assert "held-out loss was best at step 1" in str(overfitting(rows([3, 1, 2, 3], [5, 3, 2])))
    assert overfitting(rows([3, 2, 1, 0.5], [5, 3, 2])) is None
    assert overfitting(rows([3, 1, 2, 3], [2, 3, 4])) is None
    assert overfitting(rows([1, 2], [3])) is None


def test_a_hallucination_gauge_is_asked_while_training_and_told_in_the_report(
    flags: Flags, data: Path, tmp_path: Path
) -> None:
    output = tmp_path / "run"
    asked = [
        record(
            f"{n}-{said}", "<image>\nIs it red? Answer with yes or no.", said, image=f"{n}.png", question_type="random"
        )
        for n in range(2)
        for said in ("yes", "no")
    ]
    (tmp_path / "probes.json").write_text(json.dumps(asked))
    gauge = f"--hallucination_data_path {tmp_path / 'probes.json'} --metric_for_best_model hallucination_false_yes"
    words = flags("lora", output, f"--eval_data_path {data / 'eval.json'} {gauge} {EVERY_TWO} --max_steps 2")
    code, text = train(words, tmp_path / "out")
    assert code == 0, text
    assert evaluated(output, "hallucination_false_yes") == [0, 2]
    assert "hallucination at step 2: loss" in text and "  says yes " in text and "  false yes " in text
    run = read_run(output)
    assert [one.label for one in run.gauges] == ["Step 0", "Step 2"]
    assert run.gauges[-1].scores["by_question_type"]["random"]["false_yes_interval"]
    page = (output / "report.html").read_text()
    assert "What is not there" in page and "Asked about what is not there, it says yes" in page
    # A resumed run asks again what came after its checkpoint.
    (output / "scores-hallucination-9.json").write_text("{}")
    from llava_finetune.training.resume import rewind

    rewind(output, 2)
    assert not (output / "scores-hallucination-9.json").exists() and (output / "scores-hallucination-2.json").exists()


def test_what_the_base_knew_is_the_gauge_of_forgetting_and_its_own_words_too(
    flags: Flags, data: Path, tmp_path: Path
) -> None:
    output = tmp_path / "run"
    more = f"--eval_data_path {data / 'eval.json'} --probe_data_path {data / 'probe.json'} {EVERY_TWO} --max_steps 2"
    code, text = train(flags("lora", output, more), tmp_path / "out")
    assert code == 0, text
    assert "probe: the base answers 0 of 2 general questions; perplexity of the base's own answers " in text
    assert "the base answers none of the 2 general questions, so they cannot show what is forgotten" in text
    rows = [row for row in rows_of(output) if "probe_own_perplexity" in row]
    assert [row["step"] for row in rows] == [0, 2] and rows[0]["probe_known"] == 0
    # What was said greedily is likelier to who said it than to who was trained since.
    assert 1 <= rows[0]["probe_own_perplexity"] != rows[1]["probe_own_perplexity"]
    assert "Perplexity" in (output / "report.html").read_text()


def test_the_bases_own_answers_are_no_records_where_they_hold_a_mark_or_nothing() -> None:
    from types import SimpleNamespace

    from llava_finetune.training.forgetting_gauge import as_answered

    question: Any = SimpleNamespace(record={"id": "q", "image": "0.png"}, asked="<image>\nwhat?")
    said = [{"answer": text} for text in ("red", "<image> red", " ")]
    (one,) = as_answered([question] * 3, said)
    assert one["conversations"][1]["value"] == "red"
