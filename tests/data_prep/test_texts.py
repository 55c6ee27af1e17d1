"""Text is text: what a cell means is taught as a person reads it, and what is no text is refused by what it is."""

import datetime
import json
from decimal import Decimal
from typing import Any

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.converters.choices import choices_in, letters_of, with_choices
from data_prep.converters.labels import label_names, with_names
from data_prep.converters.texts import NoText, listed, text_of, texts_of


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (3.0, "3"), (3, "3"), (0, "0"), (-0.5, "-0.5"), (float("nan"), ""), (None, ""), (True, "true"),
        (1e21, "1000000000000000000000"), (float(numpy.float32(0.12)), "0.12"), (0.1 + 0.2, "0.30000000000000004"),
        (Decimal("2.50"), "2.5"), (Decimal("7.00"), "7"), (Decimal("NaN"), ""),
        (datetime.date(2024, 5, 1), "2024-05-01"),
        (datetime.datetime(2024, 5, 1), "2024-05-01"), (datetime.datetime(2024, 5, 1, 7, 3), "2024-05-01 07:03:00"),
        ([0.12, 0.5, 3.0], "[0.12, 0.5, 3]"), ([[1, 2], [3, 4]], "[[1, 2], [3, 4]]"), (" as it is ", " as it is "),
    ],
)  # fmt: skip
def test_a_value_is_the_text_that_a_person_sees(value: object, text: str) -> None:
    assert text_of(value) == text


@pytest.mark.parametrize(
    ("value", "what"),
    [
        ({"de": "Was?", "en": "What?"}, "an object with the keys de, en"),
        ({}, "an empty object"),
        (["a", "b"], "a list of 2 \\(a text first\\)"),
        (b"raw", "bytes"),
        (float("inf"), "infinity"),
        ([1.0, float("nan")], "a list of numbers with NaN in it"),
        (object(), "object"),
    ],
)
def test_what_is_no_text_is_refused_by_what_it_is(value: object, what: str) -> None:
    with pytest.raises(NoText, match=f"^{what}$"):
        text_of(value)


@pytest.mark.parametrize(
    ("cell", "texts"),
    [
        ('["red", "red", "blue"]', ["red", "red", "blue"]),
        ("['red', 'red', 'blue']", ["red", "red", "blue"]),
        ("['red' 'red'\n 'blue']", ["red", "red", "blue"]),
        ("['red', nan, None]", ["red"]),
        ("""['it\\'s', "two"]""", ["it's", "two"]),
        ("[0.12, 0.34, 0.56, 0.78]", ["[0.12, 0.34, 0.56, 0.78]"]),
        ("[0.12 0.34]", ["[0.12 0.34]"]),
        ('[{"bbox_2d": [3, 284, 210, 371], "label": "van"}]', ['[{"bbox_2d": [3, 284, 210, 371], "label": "van"}]']),
        ('[{"answer": "cat", "answer_confidence": "yes"}]', ["cat"]),
        ('{"bbox": [1, 2]}', ['{"bbox": [1, 2]}']),
        ("[unanswerable]", ["[unanswerable]"]),
        ("[see note] a cat [1]", ["[see note] a cat [1]"]),
        ("[]", []),
        ("", []),
        (["red", None, 3], ["red", "3"]),
        ([{"answer": "cat"}, {"answer": None}], ["cat"]),
        ([3, 284, 210, 371], ["[3, 284, 210, 371]"]),
        ([True, False], ["true", "false"]),
    ],
)
def test_a_cell_holds_one_answer_or_those_of_several_people(cell: object, texts: list[str]) -> None:
    assert texts_of(cell) == texts


WORDS = st.text(st.characters(codec="utf-8", exclude_categories=("Cs", "Cc")), min_size=1).filter(str.strip)


@settings(max_examples=100, deadline=None)
@given(st.lists(WORDS, min_size=1, max_size=5))
def test_a_list_of_texts_comes_back_however_it_is_written(texts: list[str]) -> None:
    for cell in (texts, json.dumps(texts), json.dumps(texts, ensure_ascii=False), repr(texts)):
        assert texts_of(cell) == texts


NUMBERS = st.recursive(
    st.one_of(st.integers(-(10**9), 10**9), st.floats(allow_nan=False, allow_infinity=False, width=32)),
    lambda inside: st.lists(inside, min_size=1, max_size=4),
)


@settings(max_examples=100, deadline=None)
@given(st.lists(NUMBERS, min_size=1, max_size=4))
def test_numbers_are_one_answer_that_reads_back_as_the_same_numbers(numbers: list[Any]) -> None:
    (text,) = texts_of(numbers)
    assert numpy.array_equal(_flat(json.loads(text)), _flat(numbers))
    assert texts_of(text) == [text], "as written, it stays as written"


def _flat(value: Any) -> numpy.ndarray:
    flat: list[float] = []
    for one in value:
        flat += [float(part) for part in _flat(one)] if isinstance(one, list) else [one]
    return numpy.array(flat, dtype="float32")


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text()),
    lambda inside: st.one_of(st.lists(inside, max_size=4), st.dictionaries(st.text(), inside, max_size=4)),
    max_leaves=12,
)


@settings(max_examples=200, deadline=None)
@given(st.one_of(JSON, st.text().map(lambda text: f"[{text}]")))
def test_whatever_a_cell_holds_there_are_texts_or_a_reason(value: Any) -> None:
    try:
        found = texts_of(value)
    except NoText as error:
        assert str(error)
    else:
        assert all(isinstance(text, str) and text.strip() for text in found)
    if isinstance(value, str):
        assert listed(value) == value or isinstance(listed(value), list)


@pytest.mark.parametrize(
    ("cell", "choices"),
    [
        (["feather", "brick"], ["feather", "brick"]),
        ("['feather', 'brick']", ["feather", "brick"]),
        ("A. feather\nB. brick", ["feather", "brick"]),
        ("(A) feather; (B) brick", ["feather", "brick"]),
        ("feather|brick", ["feather", "brick"]),
        ({"label": ["A", "B"], "text": ["feather", "brick"]}, ["feather", "brick"]),
        ({"A": "feather", "B": "brick"}, ["feather", "brick"]),
        ([1, 2.0], ["1", "2"]),
        (None, []),
    ],
)
def test_choices_are_read_however_they_are_written(cell: object, choices: list[str]) -> None:
    assert choices_in({"options": cell}, ("options",)) == choices


@pytest.mark.parametrize(
    ("answer", "letter"),
    [
        (1, "B"),
        (1.0, "B"),
        ("B", "B"),
        ("b.", "B"),
        ("(B)", "B"),
        ("brick", "B"),
        ("0", "A"),
        ([0, 1], "A, B"),
        ("", ""),
    ],
)
def test_the_letter_of_the_answer_is_found(answer: object, letter: str) -> None:
    assert letters_of(answer, ["feather", "brick"]) == letter


@pytest.mark.parametrize("answer", [2, "C", "stone", -1])
def test_an_answer_that_is_no_choice_is_refused(answer: object) -> None:
    with pytest.raises(NoText, match="is none of the 2 choices"):
        letters_of(answer, ["feather", "brick"])


def test_an_answer_that_may_mean_two_choices_is_refused() -> None:
    with pytest.raises(NoText, match="'1' may mean choice A or B"):
        letters_of(1, ["1", "2"])
    assert letters_of("1", ["1", "2"]) == "A"
    assert with_choices("How many?", ["1", "2"]) == "How many?\nA. 1\nB. 2"


def test_class_labels_become_their_names_class_0_too() -> None:
    features = {"label": {"names": ["knight", "rook"], "_type": "ClassLabel"}}
    many = {"kinds": {"feature": features["label"], "_type": "List"}, "old": [features["label"]]}
    metadata = {
        b"huggingface": json.dumps({"info": {"features": {**features, **many, "n": {"_type": "Value"}}}}).encode()
    }
    names = label_names(metadata)
    assert names == {column: ["knight", "rook"] for column in ("label", "kinds", "old")}
    assert with_names({"label": 0, "kinds": [1, 0], "n": 0}, names) == {
        "label": "knight",
        "kinds": "rook, knight",
        "n": 0,
    }
    assert with_names({"label": -1}, names) == {"label": None}
    with pytest.raises(NoText, match="class 2 of 2"):
        with_names({"label": 2}, names)


@pytest.mark.parametrize("raw", [b"", b"[", b"[]", b'{"info": 3}', b'{"info": {"features": [1]}}', b"[" * 100_000])
def test_metadata_of_another_form_names_no_class(raw: bytes) -> None:
    assert label_names({b"huggingface": raw}) == {}
