"""Answer sets that probe the VQA scorer's clean-up: contractions, articles, marks, number words, unicode.

sets = make_answer_sets(10_000)                  # [(answer, references)], always the same
"""

from __future__ import annotations

import random

from llava_finetune.evaluation.vqa_scorer import CONTRACTIONS

AnswerSet = tuple[str, list[str]]

PHRASES = [
    "yes", "no", "none", "zero", "one", "two dogs", "ten", "10", "the red bus", "a", "an apple", "the", "1,000",
    "1,000 people", "3.5", ".5", "5.", "a.m.", "10:30 a.m.", "u.s.a.", "dont know", "don't know", "isnt", "Im here",
    "I'm here", "lets go", "let's go", "shes", "couldnt've", "couldn'tve", "somebody'd", "yall'd've", "ow's'at",
    "oclock", "o'clock", "twas", "weve", "black/white", "black / white", "black-white", "t-shirt", "t- shirt",
    "[none]", "{x}", "(maybe)", "50%", "$5", "a+b", "a = b", "under_score", "back\\slash", "`tick`", "what?", "no!",
    "yes; no", "e@mail", "<b>", "\"quoted\"", "a,b", "a, b", "red,white , blue", "1,2", "1,2-3/4", "x-1,2", "...",
    "wait...", "." * 40, "x." * 40, "", " ", "\t", "two\nlines", "tab\there", "\nyes\n", "no\u00a0break", "\u2019tis",
    "caf\u00e9", "cafe\u0301", "\u0130stanbul", "stra\u00dfe", "\u0663,\u0664", "\u0663.\u0664", "\uff11\uff0c\uff10",
    "\u4e8c", "\U0001f415 dog", "na\u00efve", "YES", "No", "Two", "The Dog", "A", "NONE", "one one", "a the an",
    "the two the", "who's", "whos", "wheres", "ten thousand", "eleven", "-", "--", "- 1", "-1", "1-", "\x0bvt",
    "soft\u00adhyphen", "\u2028line", "zero.", "two.5", "2.", "2. ", ". 2", "a .b", "twenty two", "mightn'tve",
    "notve", "ain't", "aint", "cant", "can't",
]  # fmt: skip
# Words only: what stands for them is the scorer's to say. The last five are in its table and can never apply.
SHORTENED = [*CONTRACTIONS, "Id've", "I'dve", "Im", "Ive", "she's"]
MARKS = ";/[]\"{}()=+\\_-><@`,?!.'"


def make_answer_sets(count: int, seed: int = 20150503) -> list[AnswerSet]:
    """Return `count` answer sets, the same for the same seed: an answer and its references."""
    pick = random.Random(seed)
    sets = []
    for number in range(count):
        num_references = 10 if number % 10 else pick.randrange(1, 14)
        pool = [_phrase(pick) for _ in range(pick.randrange(1, 8))]
        references = [pick.choice(pool) for _ in range(num_references)]
        if number % 7:
            references = [_perturbed(text, pick) for text in references]
        sets.append((_perturbed(pick.choice(pool), pick), references))
    return sets


def _phrase(pick: random.Random) -> str:
    if pick.randrange(4):
        return pick.choice(PHRASES)
    word = pick.choice(SHORTENED)
    return pick.choice([word, CONTRACTIONS.get(word, word), f"{word} two dogs"])


def _perturbed(phrase: str, pick: random.Random) -> str:
    """Return the phrase changed in one small way that the clean-up may or may not undo."""
    place = pick.randrange(len(phrase) + 1)
    change = pick.randrange(10)
    if change == 0:
        return phrase.upper() if pick.randrange(2) else phrase.title()
    if change == 1:
        return phrase[:place] + pick.choice(MARKS) + phrase[place:]
    if change == 2:
        return phrase[:place] + pick.choice([" ", "\n", "\t", "\u00a0"]) + phrase[place:]
    if change == 3:
        return pick.choice(["a ", "an ", "the ", "The "]) + phrase
    if change == 4:
        return phrase.replace("'", "")
    if change == 5:
        return phrase + pick.choice([".", "!", "?", ",", " .", ". "])
    if change == 6:
        return phrase.replace(" ", pick.choice(["-", "_", ",", ", ", "/"]))
    return phrase
