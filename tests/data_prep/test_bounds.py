"""Hostile and clumsy sources end in one message, in bounds, with nothing left behind; a row opens nothing of others."""

import contextlib
import json
import re
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from data_prep.__main__ import main
from data_prep.errors import DataError
from data_prep.hf.arrow_batches import num_rows
from data_prep.hf.pictures import PictureStore
from data_prep.hf.rows import _count
from data_prep.records.output import Reason
from data_prep.records.record import read_records
from tests.data_prep.conftest import needs_proc, printed_and_peak
from tests.data_prep.test_tables import HEADER, ROWS, rewrite, table, write_excel

EXCEL = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"


def left(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.endswith((".part", ".tmp"))]


def okvqa(question: dict[str, Any] | str, subtype: str = "train2014", *more: str) -> int:
    whole = {"question_id": 1, "question": "What?", "image_id": 0}
    text = question if isinstance(question, str) else json.dumps({**whole, **question})
    Path("q.json").write_text(f'{{"data_subtype": {json.dumps(subtype)}, "questions": [{text}]}}')
    Path("a.json").write_text(json.dumps({"annotations": [{"question_id": 1, "answers": [{"answer": "a"}]}]}))
    words = [
        "okvqa",
        "--questions",
        "q.json",
        "--annotations",
        "a.json",
        "--image-folder",
        "coco",
        "--output",
        "r.json",
    ]
    return main([*words, "--check", "none", *more])


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("null", "null"), ("Infinity", "inf"), ("NaN", "nan"), ("{}", "an object"), ("[1]", "a list"),
        ("true", "true or false"), ("1.5", "1.5"),
    ],
)  # fmt: skip
def test_an_image_id_that_names_no_picture_is_refused_by_entry(
    sources: Path, capsys: pytest.CaptureFixture[str], value: str, shown: str
) -> None:
    assert okvqa(f'{{"question_id": 1, "question": "What?", "image_id": {value}}}') == 1
    told = f'error: q.json: questions, entry 1: "image_id" is a whole number or a text, found {shown}'
    assert capsys.readouterr().err.startswith(told)
    assert not left(sources)


def test_an_image_id_may_be_a_whole_float_or_a_name(sources: Path) -> None:
    (sources / "coco/f441f.png").write_bytes((sources / "photos/0.jpg").read_bytes())
    for value, name in (
        (2.0, "COCO_train2014_000000000002.jpg"),
        ("f441f", "f441f.png"),
        ("2", "COCO_train2014_000000000002.jpg"),
    ):
        assert okvqa({"image_id": value}) == 0
        assert read_records("r.json")[0]["image"] == name


@pytest.mark.parametrize("subtype", ["{0.__class__}", "{", "}", "{:012d}", "{x}"])
def test_what_a_file_says_of_itself_is_no_pattern(sources: Path, subtype: str) -> None:
    (sources / f"coco/COCO_{subtype}_000000000000.jpg").write_bytes((sources / "photos/0.jpg").read_bytes())
    assert okvqa({}, subtype) == 0
    assert read_records("r.json")[0]["image"] == f"COCO_{subtype}_000000000000.jpg"


@pytest.mark.parametrize("pattern", ["{0.nothing}", "{1}", "{x}", "{", "{:q}", "{0[x]}"])
def test_a_pattern_that_does_not_fit_is_wrong_use(
    sources: Path, capsys: pytest.CaptureFixture[str], pattern: str
) -> None:
    assert okvqa({}, "train2014", "--image-name", pattern) == 2
    assert f"error: --image-name {pattern!r}: write {{}} where the picture's number goes" in capsys.readouterr().err


@pytest.mark.parametrize("question", ['"x" * 5', "9" * 5000, '{"question_id": ' + "9" * 5000 + "}"])
def test_numbers_without_end_and_broken_questions_are_one_message(
    sources: Path, capsys: pytest.CaptureFixture[str], question: str
) -> None:
    assert okvqa(question) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: q.json: ") and error.count("\n") == 1
    assert "Traceback" not in error


@pytest.mark.parametrize(
    "words", [["--limit", "-1"], ["--sample", "-5"], ["--limit", "0"], ["--limit", "-1", "--sample", "-5"]]
)
def test_numbers_of_rows_begin_at_one(sources: Path, capsys: pytest.CaptureFixture[str], words: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["hf", "messages.parquet", "--output", "r.json", *words])
    assert ended.value.code == 2
    assert "a whole number from 1" in capsys.readouterr().err


def entities() -> None:
    write_excel([HEADER, *ROWS])
    lol = "".join(f'<!ENTITY a{n} "{f"&a{n - 1};" * 10 if n else "ha"}">' for n in range(9))
    rewrite(rb"<worksheet", f"<!DOCTYPE x [{lol}]><worksheet".encode())


def strings() -> None:
    write_excel([HEADER, *ROWS])
    rewrite(rb"<t>", b"<t>" + b" " * (20 << 20))


def far() -> None:
    write_excel([HEADER, *ROWS])
    rewrite(rb'<row r="3"', b'<row r="1000000000"')


def kinds() -> None:
    write_excel([HEADER, *ROWS])
    rewrite(rb'<c r="A3" t="inlineStr">.*?</c>', b'<c r="A3" t="s"><v>999999</v></c>')


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (entities, "sheet1.xml defines XML entities, which Excel never does"),
        (
            strings,
            r"sheet1.xml unpacks to 20 MB, more than the 16 MB allowed; .* raise --max-unpacked",
        ),
        (far, r"row 1048577: a sheet ends at row 1,048,576; save it again, or as CSV UTF-8"),
        (kinds, r"a damaged sheet after row 2 \("),
    ],
)
def test_an_excel_file_that_would_grow_or_is_damaged_is_one_message(
    sources: Path, capsys: pytest.CaptureFixture[str], make: Any, told: str
) -> None:
    make()
    table("t.xlsx", "--max-unpacked", "16", code=1)
    assert re.search(f"^error: t.xlsx: .*{told}", capsys.readouterr().err)
    assert not left(sources)
    if make is strings:
        table("t.xlsx", "--max-unpacked", "64", "--allow-drops", "1")


def test_many_columns_take_linear_time(sources: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = ",".join(f"c{n}" for n in range(200_000))
    Path("t.csv").write_text(f"image,{names},c7\n")
    table("t.csv", code=1)
    assert 'the column "c7" stands twice' in capsys.readouterr().err
    Path("t.csv").write_text(f"imaeg,{names}\n0.jpg\n")
    table("t.csv", code=1)
    error = capsys.readouterr().err
    assert "there are imaeg, c0, c1" in error
    assert "name them: --image-column imaeg --question-column COLUMN" in error
    assert "and 199,971 more" in error
    assert len(error) < 1000


def parquet(rows: list[dict[str, Any]], **more: Any) -> str:
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), "b.parquet", **more)
    return "b.parquet"


@pytest.mark.parametrize("command", ["hf", "table"])
@pytest.mark.parametrize(
    "more", [{"compression": "zstd"}, {"compression": "snappy"}, {"use_dictionary": False, "compression": "zstd"}]
)
def test_a_parquet_page_that_would_grow_is_refused_by_its_column(
    sources: Path, capsys: pytest.CaptureFixture[str], command: str, more: dict[str, Any]
) -> None:
    rows = [{"image": "photos/0.jpg", "question": "What?", "answer": text} for text in ("a", "b" * (20 << 20), "c")]
    words = [command, parquet(rows, **more), "--image-folder", ".", "--output", "r.json", "--check", "none"]
    assert main([*words, "--max-unpacked", "16"]) == 1
    told = r"^error: b.parquet: column answer: a page of 20 MB, more than the 16 MB allowed; .* raise --max-unpacked"
    assert re.search(told, capsys.readouterr().err)
    assert not left(sources) and not Path("r.json").exists()
    assert main([*words, "--max-unpacked", "64"]) == 0


@pytest.mark.parametrize("kind", ["stream", "file"])
@pytest.mark.parametrize("compression", [None, "zstd", "lz4"])
def test_a_batch_of_arrow_is_refused_by_what_it_would_become_before_it_is_read(
    sources: Path, kind: str, compression: str | None
) -> None:
    rows = {"answer": ["a", "b" * (20 << 20), "c", "d"], "type": pyarrow.array(["x", "y"] * 2).dictionary_encode()}
    table_ = pyarrow.table(rows)
    options = pyarrow.ipc.IpcWriteOptions(compression=compression)
    new = pyarrow.ipc.new_stream if kind == "stream" else pyarrow.ipc.new_file
    with pyarrow.OSFile("b.arrow", "wb") as stream, new(stream, table_.schema, options=options) as writer:
        writer.write_table(table_, max_chunksize=2)
    assert num_rows(Path("b.arrow"), 64 << 20) == 4
    if compression is None:
        assert num_rows(Path("b.arrow"), 1) == 4, "the file is as large as what it holds"
        return
    told = r"^b\.arrow: batch \d becomes 20 MB, more than the 16 MB allowed; where it is meant, raise --max-unpacked"
    with pytest.raises(DataError, match=told):
        num_rows(Path("b.arrow"), 16 << 20)


def test_a_batch_of_arrow_that_is_described_wrongly_is_told(sources: Path) -> None:
    with pyarrow.ipc.new_stream("b.arrow", pyarrow.schema({"a": pyarrow.int8()})) as writer:
        writer.write_table(pyarrow.table({"a": pyarrow.array([1, 2], pyarrow.int8())}))
    raw = Path("b.arrow").read_bytes()
    for place in range(0, len(raw), 4):  # every number of it, in turn
        Path("b.arrow").write_bytes(raw[:place] + b"\xff\xff\xff\x7f" + raw[place + 4 :])
        with contextlib.suppress(DataError):
            _count(Path("b.arrow"), 1 << 20)


@pytest.mark.parametrize("command", ["hf", "table"])
def test_lists_without_end_are_refused(sources: Path, capsys: pytest.CaptureFixture[str], command: str) -> None:
    values = pyarrow.array([0] * 5_000_000, pyarrow.int8())
    lists = pyarrow.ListArray.from_arrays(pyarrow.array([0, 5_000_000], pyarrow.int32()), values)
    columns = {"image": ["photos/0.jpg"], "question": ["What?"], "answer": lists}
    pyarrow.parquet.write_table(pyarrow.table(columns), "b.parquet", compression="zstd")
    assert Path("b.parquet").stat().st_size < 10_000
    words = [command, "b.parquet", "--image-folder", ".", "--output", "r.json", "--max-unpacked", "16"]
    assert main(words) == 1
    assert re.search(r"column answer\S*: 5,000,00\d values in a row group, more than", capsys.readouterr().err)


READ = """
import sys
from pathlib import Path
from data_prep.hf.footer import groups_of
from data_prep.hf.parquet import rows_by_group
groups = rows_by_group(groups_of(Path(sys.argv[1])), 1 << 30)
print(sum(len(row["answer"]) for rows in groups for row in rows))
"""


@needs_proc
def test_a_text_that_many_rows_share_is_held_for_few_of_them(sources: Path) -> None:
    long = "b" * (24 << 20)
    table_ = pyarrow.table({"answer": pyarrow.array([long] * 40).dictionary_encode().cast(pyarrow.string())})
    pyarrow.parquet.write_table(table_, "b.parquet", compression="zstd", dictionary_pagesize_limit=1 << 30)
    assert Path("b.parquet").stat().st_size < 1 << 20
    printed, peak = printed_and_peak(READ, sources / "b.parquet")
    assert int(printed) == 40 * len(long)
    assert peak < 600e6  # 32 rows at a time: 1.6 GB


def shared_text(kind: str) -> str:
    """A file of kilobytes whose rows share one long text, or each have a packed one: 40 MB."""
    count, size = (640, 1 << 16) if kind == "arrow" else (40, 1 << 20)
    texts = pyarrow.array(["b" * size] * count)
    once = texts.dictionary_encode()
    answers = once if kind in ("arrow", "kept shared") else texts
    columns = {"image": ["photos/0.jpg"] * count, "question": ["What?"] * count, "answer": answers}
    table_ = pyarrow.table(columns)
    if kind == "arrow":
        with pyarrow.ipc.new_stream("b.arrow", table_.schema) as writer:
            writer.write_table(table_)
        return "b.arrow"
    shared = {"use_dictionary": kind != "packed", "dictionary_pagesize_limit": 1 << 30}
    shared |= {"row_group_size": 8} if kind == "packed" else {}
    pyarrow.parquet.write_table(table_, "b.parquet", compression="zstd", **shared)
    return "b.parquet"


@pytest.mark.parametrize(
    ("command", "kind"),
    [("table", "shared"), ("hf", "shared"), ("hf", "packed"), ("table", "packed"), ("hf", "kept shared"),
     ("table", "kept shared"), ("hf", "arrow")],
)  # fmt: skip
def test_rows_that_become_more_than_their_file_could_hold_are_refused(
    sources: Path, capsys: pytest.CaptureFixture[str], command: str, kind: str
) -> None:
    file = shared_text(kind)
    words = [command, file, "--image-folder", ".", "--output", "r.json", "--check", "none"]
    assert main([*words, "--max-unpacked", "16"]) == 1
    told = rf"^error: {file}: [\d,]+ bytes of a file become more than the \d+ MB allowed; .* raise --max-unpacked"
    assert re.search(told, capsys.readouterr().err)
    assert not left(sources) and not Path("r.json").exists()
    assert main([*words, "--max-unpacked", "64"]) == 0


def test_a_text_that_all_rows_of_a_sheet_share_is_counted_for_each(
    sources: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_excel([HEADER, *ROWS])
    texts = "".join(f"<si><t>{text}</t></si>" for text in [*HEADER, "0.jpg", "What?", "b" * 30_000])
    kind = "application/vnd.openxmlformats-officedocument.spreadsheetml.sharedStrings+xml"
    named = f'<Override PartName="/xl/sharedStrings.xml" ContentType="{kind}"/></Types>'
    rewrite(rb"</Types>", named.encode(), "[Content_Types].xml")
    with zipfile.ZipFile("t.xlsx", "a", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("xl/sharedStrings.xml", f'<sst xmlns="{EXCEL}">{texts}</sst>')
    rows = [(0, 1, 2), *[(3, 4, 5)] * 1_000]
    cells = "".join("<row>" + "".join(f'<c t="s"><v>{cell}</v></c>' for cell in row) + "</row>" for row in rows)
    rewrite(rb"(?s)<sheetData>.*</sheetData>", f"<sheetData>{cells}</sheetData>".encode())
    table("t.xlsx", "--max-unpacked", "16", code=1)
    told = "bytes of a file become more than the 16 MB allowed; .* raise --max-unpacked"
    assert re.search(told, capsys.readouterr().err)
    assert not left(sources)


def test_a_footer_that_says_less_than_the_pages_hold_is_not_believed(sources: Path) -> None:
    from data_prep.converters.unpacking import batch_size
    from data_prep.errors import DataError

    file = parquet([{"answer": "b" * (20 << 20)}], compression="zstd")

    class Lying:
        """A column's own numbers, but for its size."""

        def __init__(self, column: Any) -> None:
            self._column = column

        total_uncompressed_size = 5

        def __getattr__(self, name: str) -> Any:
            return getattr(self._column, name)

    metadata = pyarrow.parquet.read_metadata(file)
    group = metadata.row_group(0)

    class Groups:
        """A row group whose columns say less."""

        num_columns, num_rows = 1, 1

        def row_group(self, _: int) -> Any:
            return self

        def column(self, number: int) -> Any:
            return Lying(group.column(number))

    with Path(file).open("rb") as stream, pytest.raises(DataError, match="a page of 20 MB, more than the 16 MB"):
        batch_size(Groups(), [0], stream, Path(file), 16 << 20)


def test_a_folder_with_a_loading_script_is_refused(sources: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("set").mkdir()
    Path("set/set.py").write_text("import pathlib; pathlib.Path('ran').touch()")
    assert main(["hf", "set", "--output", "r.json"]) == 1
    assert "set: a loading script (set.py), which is not run, and no data" in capsys.readouterr().err
    assert not Path("ran").exists()


@pytest.fixture
def server(sources: Path) -> Iterator[tuple[str, list[str]]]:
    """A server on this machine that would give a picture to whoever asks, and what it was asked for."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()
            self.wfile.write((sources / "photos/0.jpg").read_bytes())

        do_HEAD = do_GET

    served = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=served.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{served.server_address[1]}", asked
    served.shutdown()
    served.server_close()


def test_a_row_opens_nothing_beyond_its_data_set(
    sources: Path, server: tuple[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    address, asked = server
    Path("set").mkdir()
    monkeypatch.chdir("set")
    with zipfile.ZipFile("own.zip", "w") as packed:
        packed.write("../photos/1.jpg", "1.jpg")
    Path("out.jpg").symlink_to("../photos/0.jpg")
    Path("own.jpg").write_bytes(Path("../photos/1.jpg").read_bytes())
    strange = [
        f"{address}/x.png", f"{address}/x.png::own.zip", f"zip://1.jpg::{address}/own.zip", f"simplecache::{address}/x",
        f"filecache::{address}/x.png", f"zip://1.jpg::{address}::own.zip", "file:///etc/hostname", "file://../photos/0.jpg",
        "zip://1.jpg::/etc/own.zip", "s3://bucket/x.png", "hf://datasets/a/b@main/../../x", "out.jpg",
        "/etc/hostname", f"{Path.cwd()}/../photos/0.jpg", "\0", "a\0.jpg", "\ud800.jpg", "x" * 5000, "own.jpg/x", "",
        ".", "..", "//", "://", "../photos/0.jpg",
    ]  # fmt: skip
    source = "c.parquet"
    for cell in strange:
        for shape in (cell, {"bytes": None, "path": cell}, {"url": cell}):
            picture = PictureStore(Path("images"), source).picture(shape)
            assert picture.problem is not None, cell
    assert PictureStore(Path("images"), source).picture("zip://1.jpg::own.zip").problem in {None, Reason.IMAGE_OUTSIDE}
    rows = [{"image": name, "question": "What?", "answer": "a"} for name in ("own.jpg", *strange) if name.isprintable()]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), source)
    parts = [{"type": "image_url", "image_url": {"url": f"{address}/y.png"}}, {"type": "text", "text": "What?"}]
    talk = [{"role": "user", "content": parts}, {"role": "assistant", "content": "a"}]
    Path("m.json").write_text(json.dumps([{"messages": talk}, {"messages": talk, "images": ["own.jpg"]}]))
    for name in (source, "m.json"):
        words = ["hf", name, "--output", "r.json", "--allow-drops", "1", "--check", "none"]
        assert main(words) == 0
        assert len(read_records("r.json")) == 1
    assert asked == []
    assert not any(path.is_file() for path in Path("..").rglob("hostname"))
