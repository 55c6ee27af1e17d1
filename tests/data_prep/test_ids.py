"""Ids made unique: the same as by a dict of all of them, in memory that does not grow, whatever the temporary disk."""

import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.records.ids import unique_ids
from tests.data_prep.conftest import needs_proc, printed_and_peak

MANY = """
import hashlib, sys
from data_prep.records.ids import unique_ids
names = (hashlib.md5(str(number).encode()).hexdigest() for number in range(int(sys.argv[1])))
print(sum(1 for _ in unique_ids({"id": name} for name in names)))
"""
LITTLE_DISK = """
import resource
from data_prep.errors import DataError
from data_prep.records.ids import unique_ids
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    for record in unique_ids({"id": f"{number:0100d}"} for number in range(100_000)): pass
except DataError as error:
    print(error)
"""


def ids(names: list[object]) -> list[object]:
    return [record["id"] for record in unique_ids({"id": name} for name in names)]


def test_a_record_without_an_id_stays_as_it_is() -> None:
    assert list(unique_ids([{"a": 1}, {"id": "x"}, {"a": 1}])) == [{"a": 1}, {"id": "x"}, {"a": 1}]


def test_a_second_id_is_numbered_and_a_taken_number_passed_over() -> None:
    assert ids(["a", "a", "a-2", "a", "b", 7, "7"]) == ["a", "a-2", "a-2-2", "a-3", "b", "7", "7-2"]
    assert ids(["a-2", "a", "a"]) == ["a-2", "a", "a-3"]


@given(st.lists(st.text(st.sampled_from("a-2\ud83d\x00'"), max_size=3), max_size=20))
def test_ids_are_unique_and_numbered_as_a_dict_would(names: list[str]) -> None:
    seen: Counter[str] = Counter()
    for base, name in zip(names, ids(list(names)), strict=True):
        expected = base
        while expected in seen:
            seen[base] += 1
            expected = f"{base}-{seen[base]}"
        seen[expected] += 1
        assert name == expected


@needs_proc
def test_memory_does_not_grow_with_the_number_of_ids() -> None:
    few, many = (printed_and_peak(MANY, count) for count in (1000, 200_000))
    assert many[0] == "200000"
    assert many[1] - few[1] < 8e6  # a dict: 28 MB


@pytest.mark.skipif(sys.platform == "win32", reason="the size of files is limited as on Unix")
def test_a_full_temporary_folder_is_told(root: Path) -> None:
    done = subprocess.run([sys.executable, "-c", LITTLE_DISK], cwd=root, capture_output=True, text=True, check=True)
    assert "the list of ids cannot be kept there" in done.stdout
    assert "SQLITE_TMPDIR" in done.stdout
