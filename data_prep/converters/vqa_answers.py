"""Choose among the ten answers of a VQA question as the official scorer would.

    most_common_answer(["a pony tail", "ponytail", "ponytail"])     # 'ponytail'

The official scorer (Antol et al., 2015) compares answers without case, articles and punctuation and gives each
min(1, matches / 3), averaged over the annotators left in; `llava_finetune.evaluation.vqa_scorer` is held to it by its
own scores.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import lru_cache


@lru_cache(maxsize=1 << 16)
def scored_form(answer: str) -> str:
    """Return an answer as the official scorer compares it.

    >>> scored_form("The Two dogs!")
    '2 dogs'
    """
    from llava_finetune.evaluation.vqa_scorer import (
        clean,  # pure Python; imported here because run time imports data_prep
    )

    return clean(answer)


def most_common_answer(answers: Sequence[str]) -> str:
    """Return the most common answer, counted as the scorer compares them, so that it scores highest.

    Ties score the same; the form given first wins. Within a form the spelling given most often wins, then the first:
    what is taught is what an annotator wrote.
    """
    return answers[0] if len(answers) == 1 else distinct_answers(answers)[0]


def distinct_answers(answers: Sequence[str]) -> list[str]:
    """Return one spelling of every distinct scored form, most common first, ties in the order given."""
    spellings: dict[str, Counter[str]] = {}
    for answer in answers:
        spellings.setdefault(scored_form(answer), Counter())[answer] += 1
    ranked = sorted(spellings.values(), key=lambda counts: -counts.total())
    return [counts.most_common(1)[0][0] for counts in ranked]
