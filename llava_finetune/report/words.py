"""The summary in words: what was measured, how sure it is, and what it does and does not show.

Each sentence is made from numbers of the run folder alone; a number that is not there makes no sentence, and `missing`
says which parts of a report are absent and how to get them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llava_finetune.evaluation.forgetting import kept_of
from llava_finetune.report.hallucination import hallucination_sentence
from llava_finetune.report.numbers import duration, interval, percent, plural, points, short
from llava_finetune.report.outcomes import GAINED, LOST, Outcome, current, paired
from llava_finetune.report.run_folder import Evaluation, Run, is_broken, is_number

TYPE_NAMES = {"yes_no": "Yes/no", "number": "Number", "open": "Open"}
# With a hyphen that does not break the line.
HELD_OUT = "held\u2011out picture"
# Eval loss above its minimum by more than this, with the training loss still falling, is called overfitting.
OVERFIT_RISE = 0.02
# Below this many questions an interval is so wide that the words say so.
FEW_QUESTIONS = 50


def headline(run: Run) -> str:
    """Return the one sentence that the report stands for."""
    now = current(run)
    if now is None:
        if run.rows:
            return f"Training is at step {run.last_step:,}; nothing has been evaluated yet."
        return "This run has logged nothing yet."
    about = _about(now.scores)
    measured = run.points("eval_exact_match")
    if now.name == "baseline" and measured and measured[-1][0] > 0:
        step, share = measured[-1]
        return (
            f"At step {step:,.0f} exact match on held-out data is {percent(share)}; "
            f"it was {percent(now.scores['exact_match'])} before training."
        )
    confidence = (
        f"(95{chr(160)}% interval {interval(now.scores['interval'])}{chr(160)}%)" if _bounds(now.scores) else ""
    )
    if now.name == "baseline":
        return f"Before training, exact match is {percent(now.scores['exact_match'])} {confidence} {about}."
    when = "" if now.name == "final" else f" at {now.label.lower()}"
    before = run.evaluations.get("baseline")
    if before is None:
        return f"Exact match{when} is {percent(now.scores['exact_match'])} {confidence} {about}."
    first, last = before.scores["exact_match"], now.scores["exact_match"]
    verb = "rose" if last > first else "fell" if last < first else "stayed"
    return f"Exact match {verb} from {percent(first)} to {percent(last)}{when} {confidence} {about}."


def sentences(run: Run, results: list[Outcome]) -> list[str]:
    """Return the further sentences of the summary, the most telling first."""
    made = [
        _looking(run),
        doubt(run),
        *_by_type(run),
        _changed(results),
        hallucination_sentence(run),
        _pairs(run),
        _kept(run) or _probe(run),
        overfitting(run),
        *_warnings(run),
        _truncated(run),
        _not_finite(run),
        _effort(run),
    ]
    return [sentence for sentence in made if sentence]


def missing(run: Run) -> list[str]:
    """Return what is not in the run folder and what would put it there."""
    absent = []
    if not run.rows:
        absent.append("no training log (log.jsonl): training writes it")
    if "baseline" not in run.evaluations:
        absent.append("no score before training (scores-baseline.json): train with --eval_data_path to measure it")
    if "final" not in run.evaluations:
        when = "evaluate writes it" if run.is_finished else "it is written when training ends"
        absent.append(f"no score after training (scores-final.json): {when}")
    if "text_prior" not in run.evaluations:
        absent.append("no text-only prior (scores-text_prior.json): how far guessing from the question alone gets")
    if "blind" not in run.evaluations:
        absent.append("no blind score (scores-blind.json): evaluate with --blind to see what the picture adds")
    if not run.manifest:
        absent.append("no manifest (run.json): what was run, on what data, with which versions")
    now = current(run)
    if now is not None and not now.predictions:
        absent.append(f"no predictions of '{now.label}' (predictions-{now.name}.jsonl): no gallery, no paired test")
    return [*absent, *run.problems]


def overfitting(run: Run) -> str:
    """Return a warning when the loss on held-out data rises while the training loss falls, else an empty text."""
    held_out, train = run.points("eval_loss"), run.points("loss")
    if len(held_out) < 3 or len(train) < 4:
        return ""
    best_step, best = min(held_out, key=lambda point: point[1])
    last_step, last = held_out[-1]
    until = [loss for step, loss in train if step <= best_step][-5:]
    after = [loss for step, loss in train if step > best_step][-5:]
    if last <= best * (1 + OVERFIT_RISE) or not until or not after:
        return ""
    if sum(after) / len(after) >= sum(until) / len(until):
        return ""
    return (
        f"Overfitting: since step {best_step:,.0f} the loss on held-out data has risen from {short(best)} to "
        f"{short(last)} (step {last_step:,.0f}) while the training loss fell; fewer epochs, more data or a lower rank "
        "may do better."
    )


def _about(scores: Mapping[str, Any]) -> str:
    text = f"on {plural(int(scores.get('count', 0)), 'question')}"
    num_images = scores.get("num_images")
    return f"{text} about {plural(num_images, HELD_OUT)}" if num_images else text


def _looking(run: Run) -> str:
    now = current(run)
    if now is None or now.name == "baseline":
        return ""
    parts = []
    if "text_prior" in run.evaluations:
        parts.append(f"the text-only prior reaches {percent(run.evaluations['text_prior'].scores['exact_match'])}")
    if "blind" in run.evaluations:
        parts.append(f"the same model blind {percent(run.evaluations['blind'].scores['exact_match'])}")
    if "shuffled" in run.evaluations:
        parts.append(f"with exchanged pictures {percent(run.evaluations['shuffled'].scores['exact_match'])}")
    if not parts:
        return ""
    text = ", ".join(parts)
    owed = now.scores["exact_match"] - max(one.scores["exact_match"] for one in _controls(run))
    gain = f": {points(owed).removeprefix('+')} come from looking at the picture" if owed > 0 else ""
    return f"{text[0].upper()}{text[1:]}{gain}."


def doubt(run: Run) -> str:
    """That nothing shows the model to use the picture, where its score cannot be told apart from a control's."""
    now = current(run)
    if now is None or now.name == "baseline" or not _bounds(now.scores):
        return ""
    close = [
        one.label.lower()
        for one in _controls(run)
        if _bounds(one.scores) and now.scores["interval"][0] <= one.scores["interval"][1] and not beats(now, one)
    ]
    if not close:
        return ""
    text = f"The score cannot be told apart from: {', '.join(close)}."
    number = int(now.scores.get("count", 0))
    if number < FEW_QUESTIONS:
        return f"{text} {plural(number, 'question')} are too few to be sure; take more held-out pictures."
    return f"{text} On these questions nothing shows that the model uses the picture."


def beats(now: Evaluation, control: Evaluation) -> bool:
    """Whether the paired test over the same questions tells them apart, which overlapping intervals may hide."""
    test = paired(control, now)
    return test is not None and test.p_value < 0.05 and now.scores["exact_match"] > control.scores["exact_match"]


def _by_type(run: Run) -> list[str]:
    now = current(run)
    groups = now.scores.get("by_type", {}) if now else {}
    if len(groups) < 2:
        return []
    parts = [f"{TYPE_NAMES.get(name, name).lower()} {percent(group['exact_match'])}" for name, group in groups.items()]
    return [f"By type of question: {', '.join(parts)}."]


def _changed(results: list[Outcome]) -> str:
    if not any(one.before for one in results):
        return ""
    gained = sum(one.kind == GAINED for one in results)
    lost = sum(one.kind == LOST for one in results)
    return f"{plural(gained, 'answer')} changed from wrong to right, {lost:,} from right to wrong."


def _pairs(run: Run) -> str:
    right, margins, drift = (run.points(name) for name in ("margin_accuracy", "margin", "kl"))
    if not right or not margins:
        return ""
    last = right[-max(1, len(right) // 10) :]
    share = sum(value for _, value in last) / len(last)
    text = f"Of the pairs of answers it set {percent(share)} the right way round in the last {plural(len(last), 'row')}"
    far = f", KL {short(drift[-1][1])} a token from the reference" if drift else ""
    return f"{text} (margin {short(margins[-1][1])}{far})."


def _probe(run: Run) -> str:
    if len(run.probes) < 2:
        return ""
    first, last = run.probes[0], run.probes[-1]
    change = last.scores["exact_match"] - first.scores["exact_match"]
    verb = "forgot nothing measurable" if change >= 0 else "forgot something"
    test = paired(first, last)
    if change < 0 and (test is None or test.p_value >= 0.05):
        verb = "moved within chance"
    return (
        f"On the probe set the model {verb}: {percent(first.scores['exact_match'])} before, "
        f"{percent(last.scores['exact_match'])} {'at ' if last.label.startswith('Step') else ''}{last.label.lower()} "
        f"({plural(int(last.scores['count']), 'question')})."
    )


def _kept(run: Run) -> str:
    if len(run.probes) < 2 or not run.probes[0].predictions or not run.probes[-1].predictions:
        return ""
    text = kept_of(run.probes[0].predictions, run.probes[-1].predictions).in_words()
    return f"{text[0].upper()}{text[1:]}."


def _truncated(run: Run) -> str:
    now = current(run)
    cut = int(now.scores.get("num_truncated") or 0) if now else 0
    if not cut:
        return ""
    return (
        f"{plural(cut, 'answer')} hit the length limit and were cut: raise --max_new_tokens before trusting the score."
    )


def _not_finite(run: Run) -> str:
    broken = [row["step"] for row in run.rows for key in ("loss", "grad_norm") if is_broken(row.get(key))]
    return f"Loss or gradient was not a number at step {broken[0]:,}." if broken else ""


def _warnings(run: Run) -> list[str]:
    """What training itself warned of, without overfitting, which the report judges from all numbers."""
    said = [str(row["warning"]) for row in run.rows if row.get("warning")]
    return [text[0].upper() + text[1:] for text in dict.fromkeys(said) if not text.startswith("overfitting")]


def _effort(run: Run) -> str:
    if not run.rows:
        return ""
    parts = [plural(run.last_step, "step")]
    seconds = run.argument("train_seconds", "train_runtime", "seconds")
    if is_number(seconds):
        parts.append(duration(seconds))
    speed = [value for _, value in run.points("tokens_per_second")]
    if speed:
        parts.append(f"{short(sum(speed) / len(speed))} tokens/s")
    memory = [value for _, value in run.points("memory_gb")]
    if memory:
        parts.append(f"at most {max(memory):.1f} GB")
    return f"Training: {', '.join(parts)}."


def _controls(run: Run) -> list[Evaluation]:
    return [run.evaluations[name] for name in ("text_prior", "blind", "shuffled") if name in run.evaluations]


def _bounds(scores: Mapping[str, Any]) -> bool:
    bounds = scores.get("interval")
    return isinstance(bounds, (list, tuple)) and len(bounds) == 2 and all(is_number(value) for value in bounds)
