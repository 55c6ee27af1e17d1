"""The certificate: every engine's verdict on the same questions, as a table, as certificate.json, in words.

certificate = certify(EngineTask(...), ["merged", "llama.cpp"], judge)
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from data_prep.last_resort import write_details
from llava_finetune.convert.gguf.notes import note_on_padding
from llava_finetune.engines.adapters import ASK, EngineTask
from llava_finetune.engines.class_token import class_token_last
from llava_finetune.engines.judging import (
    ALLOWED,
    FAILED,
    HEADER,
    NOT_RUN,
    Asked,
    Reference,
    Result,
    as_json,
    first_token_difference,
    judge,
)
from llava_finetune.engines.reference import TorchModel
from llava_finetune.environments import note_on_version
from llava_finetune.errors import UserError

NAME = "certificate.json"
UNKNOWN_ORDER = "whether it puts CLIP's class token first or last cannot be told"
RESIZED_FIRST = "llama.cpp resizes them first and pads then, and training pads first"


@dataclass(frozen=True)
class Certificate:
    """All verdicts; `model` as it was named, `records` the file, `reference` what judged."""

    model: str
    records: str
    reference: str
    results: list[Result]
    made: str

    @property
    def is_fine(self) -> bool:
        """Whether no engine differs beyond rounding."""
        return all(result.is_fine for result in self.results)

    def as_json(self) -> dict[str, Any]:
        """What certificate.json holds."""
        return {
            "model": self.model,
            "records": self.records,
            "reference": self.reference,
            "made": self.made,
            "fine": self.is_fine,
            "engines": as_json(self.results),
        }

    def lines(self) -> list[str]:
        """The table, then the first difference of each engine and what is to be said of it."""
        out = [HEADER, *(result.line() for result in self.results)]
        for result in self.results:
            out += [f"{result.engine}: {note}" for note in result.notes]
            if result.differences:
                out.append(f"{result.engine}: {_first_difference(result)}")
        all_of = "every" if self.is_fine else "not every"
        return [*out, f"{all_of} engine that was asked answers as the model does"]


def _first_difference(result: Result) -> str:
    first = result.differences[0]
    ties = sum(each.is_tie for each in result.differences)
    near = f"fp32 prefers its own by {first.gap:.2g}" + (", which rounding alone may flip" if first.is_tie else "")
    return (
        f"first of {len(result.differences)} differences ({ties} within rounding): question {first.question}: "
        f"{first.expected!r} became {first.answer!r}; {near}"
    )


def certify(
    task: EngineTask,
    engines: Sequence[str],
    judge_model: TorchModel,
    named: str,
    records: str,
    say: Callable[[str], None],
) -> Certificate:
    """Ask the judge (fp32) first, then each engine. One that cannot be started or asked is a row that failed."""
    say(f"asking the model itself in fp32, {len(task.questions)} questions")
    answers = [judge_model.answer(question, task.max_new_tokens) for question in task.questions]
    reference = Reference(task.questions, answers, judge_model.gap)
    results = []
    for engine in engines:
        say(f"asking {engine}")
        start = time.monotonic()
        try:
            asked = ASK[engine](task)
        except (UserError, LookupError, TypeError, ValueError, OSError, RuntimeError) as error:
            results.append(Result(engine, "", "", FAILED, notes=[f"failed: {_what_failed(error, engine)}"]))
            say(f"{engine}: failed after {time.monotonic() - start:.0f} s; the others are asked all the same")
            continue
        if note := note_on_version(engine, asked.version):
            asked = _noted(asked, note)
        if engine == "llama.cpp":
            result = _judge_llama_cpp(asked, reference, judge_model, task.max_new_tokens)
        else:
            result = judge(asked, reference)
        results.append(result)
        say(f"{engine}: {result.identical} of {result.count} identical, {time.monotonic() - start:.0f} s")
    made = time.strftime("%Y-%m-%d %H:%M:%S%z")
    return Certificate(named, records, f"torch {torch.__version__}, float32, one question at a time", results, made)


def _what_failed(error: Exception, engine: str) -> str:
    """The error's own words; one that is none of ours is of an odd answer or of our adapter: its details are kept."""
    if isinstance(error, UserError):
        return str(error)
    what = f"{type(error).__name__}: {error}; its answer is odd, or a fault of ours"
    try:
        return f"{what}; the details are in {write_details(error, ['certify', '--engines', engine])}"
    except OSError:
        return what


def not_run(engine: str, why: str) -> Result:
    """The row of an engine that is not at hand."""
    return Result(engine, "", "", NOT_RUN, notes=[f"not run: {why}"])


def _judge_llama_cpp(asked: Asked, reference: Reference, model: TorchModel, max_new_tokens: int) -> Result:
    """Find out where the engine puts CLIP's class token, and whether that explains what it answers otherwise."""
    with class_token_last(model.loaded.model):
        last = [model.answer(question, 1) for question in reference.questions]
    right = first_token_difference(reference.answers, asked.answers)
    fault = first_token_difference(last, asked.answers)
    if right is None or fault is None or right == fault:
        why = "no question with a picture was answered with how likely its tokens are"
        return judge(_noted(asked, f"{UNKNOWN_ORDER}: {why}"), reference)
    apart = f"first tokens are up to {right:.1g} away from the model with it first, {fault:.1g} with it last"
    allowed = ALLOWED.get(asked.dtype, 0.5)
    if min(right, fault) > allowed:
        processor, config = model.loaded.image_processor, model.loaded.model.config
        why = note_on_padding(config.image_aspect_ratio, processor.image_mean) or RESIZED_FIRST
        return judge(
            _noted(
                asked,
                f"{UNKNOWN_ORDER}: {apart}, and {asked.dtype} rounds by {allowed} at most. The likely reason where "
                f"pictures are not square: {why}. Certify again with records of square pictures",
            ),
            reference,
        )
    if right < fault:
        return judge(_noted(asked, f"class token first, as CLIP has it: {apart}"), reference)

    def explains(index: int, answer: str) -> bool:
        question = reference.questions[index]
        with class_token_last(model.loaded.model):
            own = model.answer(question, max_new_tokens)
            return own.text == answer or abs(model.gap(question, own, answer)) < allowed

    note = f"this engine ({asked.version}) puts CLIP's class token last (llama.cpp's issue 25814): {apart}"
    result = judge(_noted(asked, note), reference, explains, last)
    changed = sum(each.explained for each in result.differences)
    result.notes.append(
        f"it changed {changed} of {result.count} answers beyond rounding. No file can mend it: use another engine, or "
        "wait for a mended llama.cpp and certify again"
    )
    return result


def _noted(asked: Asked, note: str) -> Asked:
    return replace(asked, notes=(*asked.notes, note))
