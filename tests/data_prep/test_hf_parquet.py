"""Parquet footers cut to a few groups: pyarrow reads the same rows, in memory that does not grow; lies are told."""

from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from data_prep.__main__ import main
from data_prep.errors import DataError
from data_prep.hf import command as hf
from data_prep.hf import parallel
from data_prep.hf.footer import groups_of
from data_prep.hf.parallel import most_processes
from data_prep.hf.parquet import rows_by_group
from tests.data_prep.conftest import needs_proc, printed_and_peak
from tests.data_prep.hub import COMMIT, Hub

READING = """
import sys
from pathlib import Path
from data_prep.hf.footer import groups_of
from data_prep.hf.parquet import rows_by_group
print(sum(1 for rows in rows_by_group(groups_of(Path(sys.argv[1]))) for row in rows))
"""
FETCHING = """
import sys
from data_prep.hf.parquet import rows_at
print(sum(1 for row in rows_at(sys.argv[1:])))
"""


def rows_of(count: int) -> list[dict[str, Any]]:
    """Rows with lists, structs, nulls, bytes that are no text, numbers below zero, truth values, and many columns."""
    wide = {f"column {number}": number for number in range(20)}
    return [
        {
            "messages": [{"role": "user", "content": [{"text": f"What is {number}?", "index": None}]}],
            "images": [{"bytes": b"\xff\xd8\xff" + number.to_bytes(8, "big"), "path": None}] * (number % 3),
            "score": -number / 3 if number % 5 else None,
            "right": number % 2 == 0,
            **wide,
        }
        for number in range(count)
    ]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"compression": "zstd", "data_page_version": "2.0"},
        {"write_page_index": True, "use_content_defined_chunking": True},
        {"use_dictionary": False, "write_statistics": False, "compression": "none"},
        {"store_schema": False, "write_page_checksum": True, "version": "1.0"},
        {"sorting_columns": [pyarrow.parquet.SortingColumn(3)]},
    ],
    ids=["usual", "pages of version 2", "page index", "no statistics", "no arrow schema", "sorted"],
)
@pytest.mark.parametrize("size", [100, 7, 2, 1])
def test_pyarrow_reads_the_same_rows_through_the_cut_footers(
    options: dict[str, Any], size: int, tmp_path: Path
) -> None:
    rows = rows_of(60)
    file = tmp_path / "r.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), file, row_group_size=size, **options)
    groups = groups_of(file, 1000)
    whole = pyarrow.parquet.read_metadata(file)
    assert [group.num_rows for group in groups] == [
        whole.row_group(number).num_rows for number in range(whole.num_row_groups)
    ]
    assert [group.first for group in groups] == list(range(1000, 1060, size))
    assert [list(some) for some in rows_by_group(groups)] == [rows[n : n + size] for n in range(0, 60, size)]
    odd = groups[1::2]
    assert [row for some in rows_by_group(odd) for row in some] == [
        row for number, row in enumerate(rows) if number // size % 2
    ]


def test_a_file_without_rows_has_no_groups_or_empty_ones(tmp_path: Path) -> None:
    file = tmp_path / "r.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"a": pyarrow.array([], "int64")}), file)
    assert [row for rows in rows_by_group(groups_of(file)) for row in rows] == []


@needs_proc
def test_memory_does_not_grow_with_the_number_of_groups(tmp_path: Path) -> None:
    def peak(count: int) -> int:
        file = tmp_path / f"{count}.parquet"
        table = pyarrow.Table.from_pylist(rows_of(100)[1:2])
        with pyarrow.parquet.ParquetWriter(file, table.schema) as writer:
            for _ in range(count):
                writer.write_table(table)
        printed, memory = printed_and_peak(READING, file)
        assert printed == str(count)
        return memory

    assert peak(1500) - peak(30) < 10e6  # pyarrow's own footer: 40 MB


@needs_proc
@pytest.mark.parametrize(("rows", "requests"), [(100, 20), (1500, 60)], ids=["small groups", "one group"])
def test_a_file_of_the_hub_is_fetched_in_few_requests_and_not_held_whole(
    rows: int, requests: int, tmp_path: Path
) -> None:
    file = tmp_path / "hub/train.parquet"
    file.parent.mkdir()
    table = pyarrow.Table.from_pylist(
        [{"image": bytes([number % 256]) * 100_000, "text": "x"} for number in range(rows)]
    )
    with pyarrow.parquet.ParquetWriter(file, table.schema, compression="none", write_batch_size=32) as writer:
        for _ in range(1500 // rows):
            writer.write_table(table)  # 150 MB in all
    with Hub(tmp_path / "hub", tmp_path / "cache") as hub:
        address = f"hf://datasets/owner/name@{COMMIT}/train.parquet"
        printed, memory = printed_and_peak(FETCHING, address, **hub.environment)
        _, before = printed_and_peak("import datasets, huggingface_hub, pyarrow.parquet")
        assert printed == "1500"
        assert memory - before < 110e6
        assert len(hub.fetched(".parquet")) < requests


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A small whole file."""
    file = tmp_path_factory.mktemp("parquet") / "r.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows_of(4)), file, row_group_size=2)
    return file.read_bytes()


def length_of(raw: bytes) -> int:
    return int.from_bytes(raw[-8:-4], "little")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda raw: b"", "no footer at its end"),
        (lambda raw: b"PAR1", "no footer at its end"),
        (lambda raw: raw[:-4], "no footer at its end"),
        (lambda raw: raw[:-8] + (1 << 30).to_bytes(4, "little") + b"PAR1", "no footer at its end"),
        (lambda raw: raw[:-8] + (0).to_bytes(4, "little") + b"PAR1", "its footer cannot be read"),
        (lambda raw: raw[:-8] + raw[-8:-4] + b"PARE", "encrypted"),
        (lambda raw: footer(b"\x19" * 5000), "its footer cannot be read"),
        (lambda raw: footer(b"\x15" + b"\xff" * 5000), "more than 64 bits"),
        (lambda raw: footer(b"\x19\xf1" + b"\xff" * 8 + b"\x01\x00"), "its footer cannot be read"),
        (lambda raw: footer(b"\x15\x02\x00"), "no row groups"),
        (lambda raw: footer(b"\x1b\x00\x00"), "type 11"),
    ],
    ids=range(11),
)
def test_a_footer_that_lies_is_told(change: Any, words: str, raw: bytes, tmp_path: Path) -> None:
    file = tmp_path / "r.parquet"
    file.write_bytes(change(raw))
    with pytest.raises(DataError, match=words) as told:
        groups_of(file)
    assert str(file) in str(told.value)


def footer(raw: bytes) -> bytes:
    return b"PAR1" + raw + len(raw).to_bytes(4, "little") + b"PAR1"


@settings(max_examples=200)
@given(st.data())
@example(None)
def test_any_damage_of_a_footer_ends_in_groups_or_in_a_message(
    raw: bytes, tmp_path_factory: pytest.TempPathFactory, data: Any
) -> None:
    file = tmp_path_factory.getbasetemp() / "damaged.parquet"
    begin = len(raw) - 8 - length_of(raw)
    changed = bytearray(raw)
    places = data.draw(st.lists(st.tuples(st.integers(begin, len(raw) - 1), st.integers(0, 255)))) if data else []
    for place, byte in places:
        changed[place] = byte
    file.write_bytes(changed)
    try:
        groups = groups_of(file)
    except DataError as error:
        assert places
        assert str(file) in str(error)
    else:
        assert places or sum(group.num_rows for group in groups) == 4


def test_fewer_processes_read_files_of_large_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "num_cores", lambda: 8)
    assert [most_processes(page * 10**6) for page in (1, 6, 15, 50, 300)] == [3, 3, 2, 1, 1]
    monkeypatch.setattr(parallel, "num_cores", lambda: 2)
    assert most_processes(10**6) == 2


def test_this_process_alone_reads_a_file_of_large_pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(hf, "MANY_ROWS", 10)
    monkeypatch.setattr(hf, "in_processes", None)
    rows = [{"image": b"\xff\xd8\xff" + bytes([number]) * 1_500_000, "caption": "x"} for number in range(60)]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), "r.parquet", row_group_size=30, compression="none")
    assert main(["hf", "r.parquet", "--output", "r.json", "--check", "none"]) == 0
    assert len(list(Path("images").rglob("*.jpg"))) == 60
