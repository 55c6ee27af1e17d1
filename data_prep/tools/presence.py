"""What records say of each picture: answers to questions, things in captions, labels of boxes; and what is not there.

album = Album(); album.take(record)
fact = album.pictures["a.jpg"].facts[0]                   # Fact("what colour is it?", "red", ...)
album.absent("a.jpg", fact, "popular", random.Random(0))    # "blue", which many other pictures are and this is not
"""

from __future__ import annotations

import random
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from data_prep.converters.options import SHORT_ANSWER
from data_prep.records.marks import IMAGE_TOKEN
from data_prep.records.usable import usable

SAMPLINGS = ("random", "popular", "adversarial")
"""How an absent answer is drawn: of all, the commonest, those that come together with what is there (POPE's three)."""

LONGEST_ANSWER = 4
"""Words of an answer; what is longer is a description, and the things named in it are asked about."""
MOST_NEIGHBOURS = 400
"""Pictures that share something with one; more are drawn from, so that time grows with the number of pictures only."""
MOST_DRAWN = 100
"""Answers that are drawn before the commonest is taken."""
THINGS = "thing"
ENDS = ".!\u3002\uff01 "
"""Marks that end an answer, the full stop and the exclamation mark of Chinese and Japanese among them."""
WORDS = re.compile(r"[^\W_]+(?:['-][^\W_]+)*")
BOXES = re.compile(r"<box>.*?</box>|[\[(]\s*-?\d[\d.,\s\[\]()-]*[\])]|</?ref>", re.S)
DETERMINERS = {
    "a", "an", "one", "two", "three", "four", "five", "six", "several", "some", "this", "that", "another",
    "each", "every", "the",
}  # fmt: skip
BOUNDARIES = {
    "is", "are", "was", "were", "in", "on", "at", "of", "with", "to", "from", "by", "near", "next", "behind",
    "under", "over", "above", "below", "beside", "inside", "into", "between", "that", "which", "who", "has",
    "have", "and", "while", "for", "as", "it", "they", "there",
}  # fmt: skip
NO_THINGS = {
    "image", "picture", "photo", "photograph", "scene", "background", "foreground", "view", "side", "left",
    "right", "top", "bottom", "front", "back", "middle", "center", "centre", "group", "bunch", "pair", "couple",
    "lot", "set", "piece", "part", "one", "other", "way", "it", "them", "color", "colour", "shape", "it's",
}  # fmt: skip
NUMBERS = {
    "zero": "0", "one": "1", "two": "2", "three": "3", "four": "4", "five": "5", "six": "6", "seven": "7", "eight": "8",
    "nine": "9", "ten": "10",
}  # fmt: skip
DENIED = re.compile(r"\b(?:no|not|without|none|never)\b|n't\b", re.I)
MISSING = re.compile(r"\b(?:no|without|not|nor)\b[^.,;!?\n]*", re.I)
LABEL_KEYS = ("label", "name", "category", "class", "ref")


@dataclass(frozen=True)
class Fact:
    """One thing that is true of a picture. `question` None: it is there; else it answers that question."""

    question: str | None
    answer: str
    kinds: tuple[str, ...]
    where: str


@dataclass
class Scene:
    """All that is said of one picture: its facts, every word of its answers, and what may not be called false of it."""

    facts: list[Fact] = field(default_factory=list)
    words: set[str] = field(default_factory=set)
    accepted: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))


def plain(text: str) -> str:
    """Return the form in which answers are compared: lower case, single spaces, no mark at the end, digits."""
    text = " ".join(text.lower().split()).rstrip(ENDS)
    return NUMBERS.get(text, text)


@lru_cache(maxsize=1 << 16)
def stems(text: str) -> frozenset[str]:
    """Return the words of a text as they are compared: `dogs` is `dog`, `two` is `2`."""
    found = set()
    for word in WORDS.findall(text.lower()):
        word = NUMBERS.get(word, word)
        found.add(word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word)
    return frozenset(found)


def pairs_of(record: Mapping[str, Any]) -> Iterator[tuple[int, str, str]]:
    """Yield (turn, question, answer) of a record, the picture's mark and the prompt for short answers taken out."""
    turns = usable(record).get("conversations") or []
    for place in range(len(turns) - 1):
        asked, told = turns[place], turns[place + 1]
        texts = isinstance(asked["value"], str) and isinstance(told["value"], str)
        if asked["from"] == "human" and told["from"] == "gpt" and texts:
            yield place // 2, asked["value"].replace(IMAGE_TOKEN, "").replace(SHORT_ANSWER, "").strip(), told["value"]


def is_short(answer: str) -> bool:
    """Return whether an answer can be asked about as it stands: a few words in one line, no boxes."""
    return "\n" not in answer.strip() and 0 < len(WORDS.findall(answer)) <= LONGEST_ANSWER and len(answer) <= 60


def kinds_of(record: Mapping[str, Any], turn: int, question: str) -> tuple[str, ...]:
    """Return where other answers to a question are looked for: the same question, its named type, its first words."""
    named = record.get("question_type")
    types = record.get("question_types")
    if isinstance(types, list) and turn < len(types):
        named = types[turn]
    kinds = [f"question {plain(question)}"]
    kinds += [f"type {named}"] if named else []
    return (*kinds, f"opening {' '.join(plain(question).split()[:2])}")


class Vocabulary:
    """The things that captions name: words that stand by themselves after an article somewhere ("a dog on ...")."""

    def __init__(self, given: Sequence[str] = ()) -> None:
        self.given = {plain(word): word for word in given if stems(word)}
        self._given_stems = {word: stems(word) for word in self.given}
        self.counts: Counter[str] = Counter()

    def learn(self, text: str) -> None:
        """Note the words that this description shows to be things."""
        for part in re.split(r"[.,;:!?\n]", text.lower()):
            words = WORDS.findall(part)
            for place, word in enumerate(words[1:], 1):
                after = words[place + 1] if place + 1 < len(words) else ""
                alone = words[place - 1] in DETERMINERS and (not after or (after in BOUNDARIES and after != "and"))
                if alone and word not in NO_THINGS and word not in DETERMINERS and word.isalpha() and len(word) > 2:
                    self.counts[word] += 1

    def named(self, text: str) -> list[str]:
        """Return the things that a description says to be there, in order; those given win over those learned."""
        text = MISSING.sub(" ", text)
        if self.given:
            there = stems(text)
            found = [word for word, own in self._given_stems.items() if own <= there]
            return sorted(found, key=text.lower().find)
        words = [word if self.counts[word] > 1 else word.removesuffix("s") for word in WORDS.findall(text.lower())]
        return [word for word in dict.fromkeys(words) if self.counts[word] > 1]


class Album:
    """Pictures by name with what is said of them, and for each kind of question which answers there are."""

    def __init__(self, things: Sequence[str] = ()) -> None:
        self.vocabulary = Vocabulary(things)
        self.pictures: dict[str, Scene] = defaultdict(Scene)
        self.spelled: dict[str, str] = {}  # one spelling for all: another would tell what is there from what is not
        self.holders: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
        self._common: dict[str, list[str]] = {}
        self._sorted: dict[tuple[str, str], list[str]] = {}

    def hear(self, picture: str, question: str, answer: str, accepted: Sequence[str]) -> None:
        """Note the words of a turn: what is spoken of may be there, so that nobody says that it is not.

        Of a question answered yes or no only where it says that something is there.
        """
        texts = [answer, *accepted, question]
        if plain(answer) in ("yes", "no") and (plain(answer) == "yes") == bool(DENIED.search(question)):
            return
        self.pictures[picture].words |= stems(" ".join(texts))

    def take(self, picture: str, fact: Fact, accepted: Sequence[str] = ()) -> bool:
        """Add a fact of a picture; False when it was known. `accepted` answers are true too, and are not asked."""
        scene, answer = self.pictures[picture], plain(fact.answer)
        is_new = not any(plain(one.answer) == answer and one.question == fact.question for one in scene.facts)
        scene.words |= stems(fact.answer)
        for kind in fact.kinds:
            scene.accepted[kind] |= {answer, *map(plain, accepted)}
            self.holders[kind][answer].add(picture)
        self.spelled.setdefault(answer, fact.answer.strip().rstrip(ENDS))
        if is_new:
            scene.facts.append(fact)
        return is_new

    def absent(self, picture: str, fact: Fact, sampling: str, draw: random.Random, used: set[str]) -> str | None:
        """Return an answer of other pictures that is false of this one, drawn as `sampling` says; None without one.

        An answer all of whose words are spoken of ("dog" where a hot dog is) or which says more than a right one does
        ("brown dog" where a dog is) is not taken: it might be true. `used` are those asked about this picture before.
        """
        scene = self.pictures[picture]
        for kind in fact.kinds:
            right = [stems(one) for one in scene.accepted[kind]]
            first = None
            for one in self._candidates(kind, picture, fact, sampling, draw):
                if _is_false(stems(one), scene.words, right):
                    first = first or one
                    if one not in used:
                        return self.spelled[one]
            if first is not None:
                return self.spelled[first]
        return None

    def _candidates(self, kind: str, picture: str, fact: Fact, sampling: str, draw: random.Random) -> Iterator[str]:
        """Yield the answers to a kind of question, the first to be taken first; few of them are looked at."""
        if kind not in self._common or len(self._common[kind]) != len(self.holders[kind]):
            known = self.holders[kind]
            self._common[kind] = sorted(known, key=lambda one: (-len(known[one]), one))
        common = self._common[kind]
        if sampling == "random":
            for _ in range(min(len(common), MOST_DRAWN)):
                yield draw.choice(common)
        if sampling == "adversarial":
            together = Counter(
                answer
                for other in self._neighbours(picture, fact, draw)
                for answer in self.pictures[other].accepted.get(kind, ())
                if answer in self.holders[kind] and other in self.holders[kind][answer]
            )
            held = self.holders[kind]
            yield from sorted(together, key=lambda one: (-together[one], -len(held[one]), one))
        yield from common

    def _neighbours(self, picture: str, fact: Fact, draw: random.Random) -> set[str]:
        """Other pictures that share another fact with this one, of each fact a sample."""
        found: set[str] = set()
        for other in self.pictures[picture].facts:
            if other != fact:
                held = self._holders_in_order(other.kinds[0], plain(other.answer))
                found.update(held if len(held) <= MOST_NEIGHBOURS else draw.sample(held, MOST_NEIGHBOURS))
        found.discard(picture)
        return found if len(found) <= MOST_NEIGHBOURS else set(draw.sample(sorted(found), MOST_NEIGHBOURS))

    def _holders_in_order(self, kind: str, answer: str) -> list[str]:
        held = self.holders[kind][answer]
        if len(self._sorted.get((kind, answer), ())) != len(held):
            self._sorted[kind, answer] = sorted(held)
        return self._sorted[kind, answer]


def _is_false(words: frozenset[str], heard: set[str], right: Sequence[frozenset[str]]) -> bool:
    return not words <= heard and not any(one <= words for one in right)


def labels_of(record: Mapping[str, Any]) -> list[str]:
    """Return the labels of a record's boxes, from `objects` or `boxes`: objects with a label each, or lists of them."""
    found: list[str] = []
    for key in ("objects", "boxes"):
        value = record.get(key)
        rows = [value] if isinstance(value, dict) else value if isinstance(value, list) else []
        for row in rows:
            label = next((row[name] for name in LABEL_KEYS if name in row), None) if isinstance(row, dict) else None
            found += [one for one in (label if isinstance(label, list) else [label]) if isinstance(one, str)]
    return [one for one in dict.fromkeys(found) if one.strip()]
