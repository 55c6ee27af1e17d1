"""One engine's answers held against the model's own in fp32: the same, within rounding, or different, and by how much.

result = judge(Asked("llama.cpp", "xllamacpp 2026.10", "f16", answers), reference)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from types import MappingProxyType
from typing import Any

from data_prep.records.marks import IMAGE_TOKEN_INDEX
from llava_finetune.convert.parity import PIXEL_TOLERANCE
from llava_finetune.engines.answers import Answer, Question

SAME, TIES, KNOWN_FAULT, DIFFERENT = "same", "same but for ties", "known fault", "different"
NOT_RUN, FAILED = "not run", "failed"

#: Between how likely tokens a choice may flip by rounding alone (difference of log-probabilities), by weights' type:
#: 16-bit logits of 16 to 32 lie 1/8 (bf16) and 1/64 (f16) apart, and several roundings come together.
ALLOWED: Mapping[str, float] = MappingProxyType(
    {
        "float32": 0.01, "f32": 0.01, "float16": 0.1, "f16": 0.1, "bfloat16": 0.5, "bf16": 0.5,
        "q8_0": 0.3, "q6_k": 0.5, "q5_k_m": 0.8, "q4_k_m": 1.0,
    }
)  # fmt: skip


FIRST_TOKENS = 4
"""How many times that much first tokens may be apart: the largest over all questions, and of less likely tokens too."""
NUM_COMPARED = 3
"""How many of our likeliest first tokens are compared: less likely ones differ by more and decide nothing."""


@dataclass(frozen=True)
class Asked:
    """What one engine was and what it answered; `pixels`: the largest difference of pixel values, None if not told."""

    engine: str
    version: str
    dtype: str
    answers: Sequence[Answer]
    pixels: float | None = None
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class Difference:
    """A question answered otherwise: both answers, and by how much fp32 prefers its own where they part."""

    question: str
    expected: str
    answer: str
    gap: float
    is_tie: bool
    explained: bool = False


@dataclass(frozen=True)
class Result:
    """The verdict on one engine."""

    engine: str
    version: str
    dtype: str
    verdict: str
    count: int = 0
    identical: int = 0
    prompt_ids: str = "not told"
    pixels: float | None = None
    first_token: float | None = None
    differences: list[Difference] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def is_fine(self) -> bool:
        """Whether nothing beyond rounding was found."""
        return self.verdict in (SAME, TIES, NOT_RUN)

    def line(self) -> str:
        """One row of the table in the terminal."""
        told = "" if self.first_token is None else f"{self.first_token:.1e}"
        count = f"{self.identical} of {self.count}" if self.count else ""
        return f"{self.engine:<22} {count:<11} {self.prompt_ids:<9} {told:<9} {self.verdict:<18} {self.version}"


HEADER = f"{'engine':<22} {'identical':<11} {'ids':<9} {'1st token':<9} {'verdict':<18} version"


@dataclass(frozen=True)
class Reference:
    """The questions, the model's own answers in fp32, and what it says about two answers that differ."""

    questions: Sequence[Question]
    answers: Sequence[Answer]
    gap: Callable[[Question, Answer, str], float]


def judge(
    asked: Asked,
    reference: Reference,
    explain: Callable[[int, str], bool] | None = None,
    faulty: Sequence[Answer] = (),
) -> Result:
    """Compare prompts, pixel values, first tokens and answers.

    `explain(index, answer)` says whether a known fault of the engine gives that answer; `faulty`: what the model itself
    answers with that fault.
    """
    allowed = ALLOWED.get(asked.dtype, 0.5)
    differences = []
    for index, (own, theirs) in enumerate(zip(reference.answers, asked.answers, strict=True)):
        if own.text != theirs.text:
            question = reference.questions[index]
            gap = reference.gap(question, own, theirs.text)
            is_tie = abs(gap) <= allowed
            explained = bool(explain and not is_tie and explain(index, theirs.text))
            differences.append(Difference(question.name, own.text, theirs.text, gap, is_tie, explained))
    ids = _compare_ids(reference.answers, asked.answers)
    first = first_token_difference(reference.answers, asked.answers)
    limit = FIRST_TOKENS * allowed
    is_far = first is not None and first > limit
    with_fault = first_token_difference(faulty, asked.answers) if faulty else None
    is_faulty = is_far and with_fault is not None and with_fault <= limit
    notes = list(asked.notes)
    if is_far and not is_faulty:
        notes.append(f"first tokens are up to {first:.2g} away, more than {asked.dtype} rounds by: it is another model")
    if asked.pixels is not None and asked.pixels > PIXEL_TOLERANCE:
        notes.append(f"pixel values are up to {asked.pixels:.1e} away from training's: it sees another picture")
    is_other = len(notes) > len(asked.notes) or ids.endswith("differ")
    return Result(
        asked.engine,
        asked.version,
        asked.dtype,
        _verdict(differences, is_other, is_faulty),
        len(asked.answers),
        len(asked.answers) - len(differences),
        ids,
        asked.pixels,
        first,
        differences,
        notes,
    )


def _verdict(differences: Sequence[Difference], is_other: bool, is_faulty: bool) -> str:
    if is_other or not all(each.is_tie or each.explained for each in differences):
        return DIFFERENT
    if is_faulty or any(each.explained for each in differences):
        return KNOWN_FAULT
    return TIES if differences else SAME


def _compare_ids(ours: Sequence[Answer], theirs: Sequence[Answer]) -> str:
    """equal, as many (only their number is told), not told, or in how many questions ids or their number differ.

    A run of picture tokens is one picture among the ids, and counts whole in the number.
    """
    told = [two for two in theirs if two.prompt_ids is not None]
    wrong = sum(
        two.prompt_ids not in (None, one.prompt_ids) or two.num_prompt not in (None, one.num_prompt)
        for one, two in zip(ours, theirs, strict=True)
    )
    if wrong:
        return f"{wrong} differ"
    return "equal" if told else "as many" if any(two.num_prompt is not None for two in theirs) else "not told"


def collapsed(ids: Sequence[int], picture: int) -> list[int]:
    """Ids in which each run of an engine's picture tokens is one -200."""
    out: list[int] = []
    for before, token in zip([None, *ids], ids, strict=False):
        if token != picture:
            out.append(token)
        elif before != picture:
            out.append(IMAGE_TOKEN_INDEX)
    return out


def first_token_difference(ours: Sequence[Answer], theirs: Sequence[Answer]) -> float | None:
    """How far engines are apart in how much less likely the second and third first tokens are than the first.

    The largest difference of log-probabilities over all questions, None where an engine does not tell. Relative to the
    likeliest token, because rows that an export adds to the vocabulary take a little from all.
    """
    gaps = []
    for one, two in zip(ours, theirs, strict=True):
        likely = sorted(one.first, key=one.first.__getitem__, reverse=True)[:NUM_COMPARED]
        if likely and likely[0] in two.first:
            behind, theirs_behind = one.first[likely[0]], two.first[likely[0]]
            gaps += [
                abs((one.first[token] - behind) - (two.first[token] - theirs_behind))
                for token in likely[1:]
                if token in two.first
            ]
    return max(gaps) if gaps else None


def as_json(results: Sequence[Result]) -> list[dict[str, Any]]:
    """Results as certificate.json holds them."""
    return [asdict(result) for result in results]
