"""Objects in a picture as questions: where each kind is, and what is in each box.

turns_of([("dog", "[0.1, 0.2, 0.5, 0.9]")], ASKED)
# [("Where is the dog?", "[0.1, 0.2, 0.5, 0.9]"), ("What is in this box? [0.1, 0.2, 0.5, 0.9]", "dog")]
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

ARTICLE = re.compile(r"^(?:the|a|an)\s+", re.IGNORECASE)


class Asked(NamedTuple):
    """What is asked: kinds of questions, and from how many boxes of one name on its place is not asked for."""

    where: bool = True
    what: bool = True
    most: int = 10
    where_question: str = "Where is the {}?"
    what_question: str = "What is in this box? {}"


def name_of(label: str) -> str:
    """Return a label as a person would say it: `traffic_light` is `traffic light`, without an article.

    >>> name_of("the traffic_light ")
    'traffic light'
    """
    return ARTICLE.sub("", " ".join(label.replace("_", " ").split()))


def turns_of(objects: Sequence[tuple[str, str]], asked: Asked) -> list[tuple[str, str]]:
    """Return (question, answer) pairs for the (name, box text) objects of one picture, each name asked for once."""
    turns: list[tuple[str, str]] = []
    if asked.where:
        by_name: dict[str, list[str]] = {}
        for name, text in objects:
            by_name.setdefault(name, []).append(text)
        turns += [
            (asked.where_question.replace("{}", name), ", ".join(texts))
            for name, texts in by_name.items()
            if len(texts) <= asked.most
        ]
    if asked.what:
        named: dict[str, list[str]] = {}
        for name, text in objects:
            named.setdefault(text, []).append(name)
        turns += [
            (asked.what_question.replace("{}", text), " and ".join(dict.fromkeys(names)))
            for text, names in named.items()
        ]
    return turns
