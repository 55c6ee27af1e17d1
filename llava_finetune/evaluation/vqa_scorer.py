"""The official VQA accuracy: ten references a question, leave one out, min(matches / 3, 1).

Leaderboards and papers compare by the public scorer (GT-Vision-Lab/VQA, `vqaEval.py`), quirks included, so this module
gives what it gives on any input: same answer clean-up, same averaging, same rounding. It is written from the procedure,
shares no code with it, and is held to it by scores that the original gave to 10,000 answer sets (`tests/evaluation`).

    >>> question_accuracy("two dogs.", ["2 dogs"] * 2 + ["dogs"] * 8)
    0.6
"""

from __future__ import annotations

import re
from collections.abc import Sequence

NUM_MATCHES_FOR_FULL_SCORE = 3
ARTICLES = frozenset({"a", "an", "the"})
# "none" counts as a number, as in the original.
NUMBER_WORDS = {
    "none": "0", "zero": "0", "one": "1", "two": "2", "three": "3", "four": "4", "five": "5", "six": "6",
    "seven": "7", "eight": "8", "nine": "9", "ten": "10",
}  # fmt: skip
PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
COMMA_BETWEEN_DIGITS = re.compile(r"\d,\d")
PERIOD_BEFORE_NON_DIGIT = re.compile(r"\.(?!\d)")
# The original passes re.UNICODE where `count` is expected: only so many periods go.
NUM_PERIODS_REMOVED = int(re.UNICODE)

# The published table, "without:with" apostrophe. Entries that can never apply are left out: words arrive in lower case,
# so "Im" and its kin do not match, and "let's" stands for itself. "somebody'd" loses its apostrophe there too.
CONTRACTION_PAIRS = """
    aint:ain't arent:aren't cant:can't couldve:could've couldnt:couldn't couldn'tve:couldn't've
    couldnt've:couldn't've didnt:didn't doesnt:doesn't dont:don't hadnt:hadn't hadnt've:hadn't've hadn'tve:hadn't've
    hasnt:hasn't havent:haven't hed:he'd hed've:he'd've he'dve:he'd've hes:he's howd:how'd howll:how'll hows:how's
    isnt:isn't itd:it'd itd've:it'd've it'dve:it'd've itll:it'll maam:ma'am mightnt:mightn't mightnt've:mightn't've
    mightn'tve:mightn't've mightve:might've mustnt:mustn't mustve:must've neednt:needn't notve:not've oclock:o'clock
    oughtnt:oughtn't ow's'at:'ow's'at 'ows'at:'ow's'at 'ow'sat:'ow's'at shant:shan't shed've:she'd've she'dve:she'd've
    shouldve:should've shouldnt:shouldn't shouldnt've:shouldn't've shouldn'tve:shouldn't've somebody'd:somebodyd
    somebodyd've:somebody'd've somebody'dve:somebody'd've somebodyll:somebody'll somebodys:somebody's
    someoned:someone'd someoned've:someone'd've someone'dve:someone'd've someonell:someone'll someones:someone's
    somethingd:something'd somethingd've:something'd've something'dve:something'd've somethingll:something'll
    thats:that's thered:there'd thered've:there'd've there'dve:there'd've therere:there're theres:there's theyd:they'd
    theyd've:they'd've they'dve:they'd've theyll:they'll theyre:they're theyve:they've twas:'twas wasnt:wasn't
    wed've:we'd've we'dve:we'd've weve:we've werent:weren't whatll:what'll whatre:what're whats:what's whatve:what've
    whens:when's whered:where'd wheres:where's whereve:where've whod:who'd whod've:who'd've who'dve:who'd've
    wholl:who'll whos:who's whove:who've whyll:why'll whyre:why're whys:why's wont:won't wouldve:would've
    wouldnt:wouldn't wouldnt've:wouldn't've wouldn'tve:wouldn't've yall:y'all yall'll:y'all'll y'allll:y'all'll
    yall'd've:y'all'd've y'alld've:y'all'd've y'all'dve:y'all'd've youd:you'd youd've:you'd've you'dve:you'd've
    youll:you'll youre:you're youve:you've
"""
CONTRACTIONS = dict(pair.split(":") for pair in CONTRACTION_PAIRS.split())


def clean(answer: str) -> str:
    """Return the answer as the official scorer compares it: no marks, no articles, digits for number words.

    A mark goes without trace when it stands beside a space anywhere in the answer, or when the answer has a comma
    between digits; otherwise it becomes a space. A period goes unless a digit follows it.
    """
    digits_grouped = COMMA_BETWEEN_DIGITS.search(answer) is not None
    marks = {
        ord(mark): "" if digits_grouped or f"{mark} " in answer or f" {mark}" in answer else " " for mark in PUNCTUATION
    }
    text = PERIOD_BEFORE_NON_DIGIT.sub("", answer.translate(marks), count=NUM_PERIODS_REMOVED)
    words = (NUMBER_WORDS.get(word, word) for word in text.lower().split())
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in ARTICLES)


def question_accuracy(answer: str, references: Sequence[str]) -> float:
    """Return the accuracy (0 to 1) of one answer against its references (ten in VQA, OK-VQA, VizWiz and TextVQA).

    References that are all the same are compared as they stand, upper and lower case told apart: the original cleans
    answers only where its annotators disagree. Raises ValueError without references.
    """
    if not references:
        raise ValueError("VQA accuracy needs at least one reference answer; this question has none")
    answer = _one_line(answer)
    references = [_one_line(reference) for reference in references]
    if len(set(references)) > 1:
        answer = clean(answer)
        references = [clean(reference) for reference in references]
    matches = [reference == answer for reference in references]
    num_matches = sum(matches)
    left_out = [min(1.0, (num_matches - match) / NUM_MATCHES_FOR_FULL_SCORE) for match in matches]
    return sum(left_out) / len(left_out)


def official_percent(accuracies: Sequence[float]) -> float:
    """Return the mean of per-question accuracies as the scorer prints it: percent, two decimals."""
    return round(100 * float(sum(accuracies)) / len(accuracies), 2)


def _one_line(text: str) -> str:
    return text.replace("\n", " ").replace("\t", " ").strip()
