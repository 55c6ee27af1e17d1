"""Partial credit for longer answers: token F1, ROUGE-L (rouge-score) and BLEU (sacrebleu).

Exact match says nothing about a caption that is nearly right. Where a question has several references the best one
counts (BLEU takes them all, as it is defined).

    >>> token_f1("a red bird", ["the red bird"])
    0.6666666666666666
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from llava_finetune.evaluation.intervals import NUM_RESAMPLES


def token_f1(answer: str, references: Sequence[str]) -> float:
    """Return the best harmonic mean of token precision and recall over the references (SQuAD's F1, lower case)."""
    return max((_f1(answer.lower().split(), reference.lower().split()) for reference in references), default=0.0)


def rouge_l(answers: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
    """Return one ROUGE-L F measure (0 to 1) per answer, the best over its references (Lin 2004), no stemming."""
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(["rougeL"])
    return [
        max((float(scorer.score(reference, answer)["rougeL"].fmeasure) for reference in choices), default=0.0)
        for answer, choices in zip(answers, references, strict=True)
    ]


def bleu(answers: Sequence[str], references: Sequence[Sequence[str]]) -> tuple[float, tuple[float, float]]:
    """Return corpus BLEU (0 to 1) of all answers with its bootstrap 95 % interval (Post 2018, sacrebleu's defaults)."""
    from sacrebleu.metrics.bleu import BLEU

    most = max(len(choices) for choices in references)
    streams: list[list[Any]] = [
        [choices[i] if i < len(choices) else None for choices in references] for i in range(most)
    ]
    result = BLEU().corpus_score(list(answers), streams, n_bootstrap=NUM_RESAMPLES // 4)
    score = min(1.0, result.score / 100)  # equal texts give 100.00000000000004
    # sacrebleu shows them in texts only; a release that renames them must fail here, not give an interval of width 0.
    middle, half = min(1.0, float(result._mean) / 100), float(result._ci) / 100
    return score, (max(0.0, middle - half), min(1.0, middle + half))


def _f1(answer: list[str], reference: list[str]) -> float:
    if not answer or not reference:
        return float(answer == reference)
    shared = sum((Counter(answer) & Counter(reference)).values())
    if shared == 0:
        return 0.0
    precision, recall = shared / len(answer), shared / len(reference)
    return 2 * precision * recall / (precision + recall)
