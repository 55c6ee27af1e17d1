"""A JSON list read piece by piece: the same elements, and the same errors, as when it is read whole."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from data_prep.errors import DataError
from data_prep.records import json_list
from data_prep.records.json_list import elements

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=30),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("lists") / "r.json"


def read(file: Path, raw: bytes, chunk: int) -> Any:
    """The places of the elements, or the message."""
    file.write_bytes(raw)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_list, "CHUNK", chunk)
        try:
            return list(elements(file))
        except DataError as error:
            return str(error)


@given(
    st.lists(VALUES, max_size=6),
    st.sampled_from([None, 0, 2]),
    st.booleans(),
    st.booleans(),
    st.sampled_from(["", "\n", " \r\n\t"]),
    st.integers(1, 40),
)
@example([{"a": "é" * 40}, 123456789012345678901234567890, -1.5e-30, True], None, False, True, "\n", 3)
def test_elements_are_found_wherever_the_pieces_end(
    file: Path, values: list[Any], indent: int | None, escaped: bool, marked: bool, space: str, chunk: int
) -> None:
    text = space + json.dumps(values, indent=indent, ensure_ascii=escaped) + space
    raw = (b"\xef\xbb\xbf" if marked else b"") + text.encode("utf-8", "backslashreplace")
    found = read(file, raw, chunk)
    assert [json.loads(raw[start : start + size]) for start, size, _ in found] == json.loads(raw)
    assert [line for _, _, line in found] == [1 + raw.count(b"\n", 0, start) for start, _, _ in found]
    assert found == read(file, raw, 1 << 20)


@settings(max_examples=300)
@given(st.data(), st.lists(VALUES, min_size=1, max_size=4), st.integers(1, 40))
def test_damage_is_told_at_the_same_line_and_column(
    file: Path, data: st.DataObject, values: list[Any], chunk: int
) -> None:
    raw = bytearray(
        json.dumps(values, indent=data.draw(st.sampled_from([None, 1])), ensure_ascii=False).encode(
            "utf-8", "backslashreplace"
        )
    )
    place = data.draw(st.integers(0, len(raw) - 1))
    raw[place : place + data.draw(st.integers(0, 3))] = data.draw(
        st.sampled_from([b"", b",", b"]", b"\\", b'"', b"\xe9", b"\n"])
    )
    whole = read(file, bytes(raw), 1 << 20)
    assert read(file, bytes(raw), chunk) == whole
    if (
        isinstance(whole, str)
        and ": broken JSON" in whole
        and not any(own in whole for own in ("expected a comma", "a comma before", "text after"))
    ):
        with pytest.raises(json.JSONDecodeError) as told:
            json.loads(raw)
        assert f": line {told.value.lineno}, column {told.value.colno}: " in whole


@pytest.mark.parametrize("chunk", [5, 1 << 20])
@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"", "line 1, column 1: broken JSON (expecting value)"),
        (b'[{"a": 1},\n {"a": tru}]', "line 2, column 8: broken JSON (expecting value)"),
        (b'[{"a": 1}\n\n {"a": 2}]', "line 3, column 2: broken JSON (expected a comma or ])"),
        (b'[{"a": 1},\n {"a": "b', "line 2, column 8: broken JSON (unterminated string starting at)"),
        (b'[{"a": 1}]\n x', "line 2, column 2: broken JSON (text after the closing ])"),
        (b'[{"a": 1}', "line 1, column 10: broken JSON (expected a comma or ])"),
        (b"[" * 100_000, "line 1, column 2: broken JSON (nested too deeply)"),
        (b'[\n"\xe9"]', "line 2: byte 0xe9 is not UTF-8"),
        (b'[\n"\xc3', "line 2: byte 0xc3 is not UTF-8"),
        (b"3", "expected a list of records, found a number"),
    ],
    ids=range(10),
)
def test_what_is_no_list_is_told(raw: bytes, words: str, chunk: int, file: Path) -> None:
    assert words in read(file, raw, chunk)
