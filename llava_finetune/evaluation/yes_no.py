"""Does a model say "yes" to what is not there: the shares of yes and of false yes among questions answered yes or no.

As POPE measures it (Li et al. 2023, "Evaluating Object Hallucination in Large Vision-Language Models"), with intervals:
a model that says yes to everything is right on half of a balanced set, and its false-yes rate is 1.

    >>> said("Yes, there is a dog."), said("There is no dog."), said("A dog.")
    ('yes', 'no', None)
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from llava_finetune.evaluation.intervals import PairedTest, mcnemar, wilson

Prediction = Mapping[str, Any]

WORDS = re.compile(r"[a-z']+")
DENIALS = {"no", "not", "cannot"}


def said(answer: str) -> str | None:
    """Return `yes` or `no` as an answer says it, None where it says neither.

    The first word decides; else the first sentence is a no where it denies, as POPE's own reading has it. POPE takes
    all else for a yes; here it is nothing, so that a model that describes the picture is not said to have agreed.
    """
    words = WORDS.findall(re.split(r"[.!?\n]", answer.strip(), maxsplit=1)[0].lower())
    if words and words[0] in ("yes", "no"):
        return words[0]
    if any(word in DENIALS or word.endswith("n't") for word in words):
        return "no"
    return "yes" if "yes" in words else None


def expected(prediction: Prediction) -> str | None:
    """Return `yes` or `no` where the reference is that word alone, else None: it is another kind of question."""
    reference = str(prediction["reference"]).strip().rstrip(".").strip().lower()
    return reference if reference in ("yes", "no") else None


def yes_no_scores(predictions: Sequence[Prediction]) -> dict[str, Any]:
    """Return the scores of the questions whose reference is yes or no; nothing where there is none.

    All between 0 and 1, with Wilson intervals in `NAME_interval`: `yes_share` of all such questions were answered yes
    (`yes_share_expected` should have been), `false_yes` of those whose answer is no, `false_no` of those whose answer
    is yes, `unclear` said neither. A rate without a question to take it from is left out.
    """
    asked = [(expected(one), said(str(one["answer"]))) for one in predictions if expected(one)]
    if not asked:
        return {}
    absent = [answer for wanted, answer in asked if wanted == "no"]
    present = [answer for wanted, answer in asked if wanted == "yes"]
    answers = [answer for _, answer in asked]
    return {
        "yes_no_count": len(asked),
        "yes_share_expected": len(present) / len(asked),
        **_share("yes_share", answers, "yes"),
        **_share("false_yes", absent, "yes"),
        **_share("false_no", present, "no"),
        **_share("unclear", answers, None),
    }


def compared(first: Sequence[Prediction], second: Sequence[Prediction]) -> PairedTest | None:
    """Return the exact McNemar test of false yes between two sets of answers to the same questions, in their order.

    None where no question has no for an answer. A difference below 0 means fewer false yes in the second.
    """
    pairs = [(a, b) for a, b in zip(first, second, strict=True) if expected(a) == "no"]
    if not pairs:
        return None
    return mcnemar(
        [said(str(a["answer"])) == "yes" for a, _ in pairs], [said(str(b["answer"])) == "yes" for _, b in pairs]
    )


def _share(name: str, answers: Sequence[str | None], counted: str | None) -> dict[str, Any]:
    if not answers:
        return {}
    number = sum(answer == counted for answer in answers)
    return {name: number / len(answers), f"{name}_interval": list(wilson(number, len(answers)))}
