"""Records files and pictures that are wrong are refused by name; right ones come through unchanged."""

import io
import json
import os
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from data_prep.errors import PictureFault
from data_prep.records.output import Converted, Drop, Origin, Reason, write_output
from data_prep.records.record import DataError, PictureError, open_image, read_records, resolve_image, write_records
from data_prep.records.usable import taught
from tests.data_prep.conftest import needs_proc, printed_and_peak

TEXT = st.text(min_size=1, max_size=20)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[{"id": 1},\n {"id": }]', "line 2, column 9: broken JSON"),
        ('[{"id": 1},\n]', "line 2, column 1: broken JSON (a comma before the closing ])"),
        ('[{"id": 1}', "line 1, column 11: broken JSON"),
        ('{"data": [],\n "more": 1}', "expected a list of records, found an object with the keys data, more"),
    ],
)
def test_a_broken_file_is_refused_with_line_and_column(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "r.json"
    path.write_text(text)
    with pytest.raises(DataError) as error:
        read_records(path)
    assert message in str(error.value)
    assert str(path) in str(error.value)


def test_a_list_where_an_object_should_be_names_the_record(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    path.write_text('{"id": 1}\n\n[1]\n')
    records = read_records(path)
    assert records[0] == {"id": 1}
    with pytest.raises(
        DataError, match=rf"^{re.escape(str(path))}: line 3: record 2: expected an object .*found a list"
    ):
        records[1]


def test_text_that_is_not_utf8_names_its_line(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    path.write_bytes('[{"id": "a"},\n{"id": "é"}]'.encode("latin-1"))
    with pytest.raises(DataError, match=rf"^{re.escape(str(path))}: line 2: byte 0xe9 is not UTF-8"):
        read_records(path)


def test_a_bom_is_read_over(tmp_path: Path) -> None:
    for name, text in (("r.json", '[{"id": "é"}, {"id": "b"}]'), ("r.jsonl", '{"id": "é"}\n{"id": "b"}')):
        (tmp_path / name).write_text("\ufeff" + text, encoding="utf-8")
        assert [item["id"] for item in read_records(tmp_path / name)] == ["é", "b"]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.dictionaries(TEXT, TEXT | st.integers() | st.none(), max_size=4), max_size=8), st.booleans())
def test_records_come_back_as_they_were_written(tmp_path_factory: pytest.TempPathFactory, items, lines) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path_factory.mktemp("r") / ("r.jsonl" if lines else "r.json")
    assert write_records(path, items) == len(items)
    assert list(read_records(path)) == items
    if not lines:
        assert json.loads(path.read_text(encoding="utf-8")) == items


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(TEXT, st.booleans()), min_size=1, max_size=12))
def test_rows_in_are_rows_converted_and_rows_dropped_in_order(tmp_path_factory: pytest.TempPathFactory, rows) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path_factory.mktemp("o") / "o.json"
    items = [Converted({"id": name}) if kept else Drop(Reason.NO_ANSWER, name) for name, kept in rows]
    kept = [name for name, good in rows if good]
    if not kept:
        with pytest.raises(DataError, match="no record came out"):
            write_output(path, items, Origin("test"))
        assert not path.exists()
        return
    counts = write_output(path, items, Origin("test"))
    assert counts.rows_in == len(rows) == counts.rows_converted + sum(counts.dropped.values())
    ids = [item["id"] for item in read_records(path)]
    assert len(set(ids)) == len(ids)
    assert all(new == old or new.startswith(f"{old}-") for new, old in zip(ids, kept, strict=True))


def test_an_interrupted_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    write_records(path, [{"id": 1}])

    def stopped():  # type: ignore[no-untyped-def]
        yield {"id": 2}
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_records(path, stopped())
    assert read_records(path)[0] == {"id": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["r.json"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full to stand for a full disk")
def test_a_full_disk_says_that_nothing_was_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Path.open
    monkeypatch.setattr(
        Path, "open", lambda self, *a, **k: real(Path("/dev/full") if "part" in self.name else self, *a, **k)
    )
    with pytest.raises(DataError, match="the disk is full: nothing was written"):
        write_records(tmp_path / "r.json", [{"id": 1}])
    assert list(tmp_path.iterdir()) == []


OPENING = """
import random, sys
import data_prep.records.record
records = data_prep.records.record.read_records(sys.argv[1])
draw = random.Random(0)
for number in [0, len(records) - 1, *(draw.randrange(len(records)) for _ in range(2000))]:
    assert records[number]["id"] == f"record-{number:07d}", number
    assert records.line(number) == number + 1
print(len(records))
"""


@needs_proc
@pytest.mark.parametrize(("ending", "count", "most"), [(".jsonl", 1_000_000, 300e6), (".json", 200_000, 60e6)])
def test_many_records_open_in_little_memory_and_are_read_at_random(
    ending: str, count: int, most: float, tmp_path: Path
) -> None:
    path = tmp_path / f"many{ending}"
    turns = '"conversations": [{"from": "human", "value": "<image>\\nWhat?"}, {"from": "gpt", "value": "a dog"}]}'
    comma = "," if ending == ".json" else ""
    with path.open("w") as stream:
        for number in range(count):
            before = "[" if comma and not number else ""
            after = "]" if comma and number == count - 1 else comma
            stream.write(f'{before}{{"id": "record-{number:07d}", "image": "a.jpg", {turns}{after}\n')
    printed, memory = printed_and_peak(OPENING, path)
    path.unlink()
    assert printed == str(count)
    assert memory < most, f"{memory / 1e6:.0f} MB"


@pytest.mark.parametrize("name", ["../a.jpg", "/etc/passwd", "x/../../a.jpg", "link.jpg", "linked/a.jpg"])
def test_a_name_that_leaves_the_folder_is_refused(tmp_path: Path, name: str) -> None:
    folder, outside = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    outside.mkdir()
    Image.new("RGB", (4, 4)).save(outside / "a.jpg")
    (folder / "link.jpg").symlink_to(outside / "a.jpg")
    (folder / "linked").symlink_to(outside)
    with pytest.raises(PictureError, match="image folder") as error:
        resolve_image(folder, name)
    assert error.value.fault is PictureFault.OUTSIDE


@pytest.mark.parametrize("name", ["sub/../a.jpg", "sub/..", "..", "sub/sub/../../a.jpg"])
def test_two_dots_are_refused_where_they_lead_back_into_the_folder(tmp_path: Path, name: str) -> None:
    """Another program takes the name apart otherwise, and with `sub` a link it would lead elsewhere."""
    (tmp_path / "sub" / "sub").mkdir(parents=True)
    Image.new("RGB", (4, 4)).save(tmp_path / "a.jpg")
    with pytest.raises(PictureError, match=r"a name with \.\. leaves the image folder") as error:
        resolve_image(tmp_path, name)
    assert error.value.fault is PictureFault.OUTSIDE


def test_memory_that_ends_while_a_picture_is_read_is_told_of_the_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(self: object) -> None:
        raise MemoryError

    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", load)
    with pytest.raises(PictureError, match=r"a\.png: needs more memory than there is") as error:
        open_image(tmp_path / "a.png")
    assert error.value.fault is PictureFault.HUGE


def test_a_picture_that_was_turned_does_not_say_so_again(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (20, 10)).save(tmp_path / "a.jpg", exif=exif)
    assert "exif" not in open_image(tmp_path / "a.jpg").info


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("a" * 300 + ".png", "no file can have this name"),
        ("gone.png", "no such picture"),
        ("a.png/b", "no such picture"),
    ],
)
def test_a_picture_that_cannot_be_there_is_missing(tmp_path: Path, name: str, words: str) -> None:
    (tmp_path / "a.png").write_bytes(b"")
    with pytest.raises(PictureError, match=words) as error:
        open_image(tmp_path / name)
    assert error.value.fault is PictureFault.MISSING


def test_a_folder_and_a_fifo_are_no_pictures(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.png")
    (tmp_path / "folder.png").mkdir()
    for name, words in (("fifo.png", "not a file but a pipe"), ("folder.png", "a folder, not a file")):
        with pytest.raises(PictureError, match=words) as error:
            open_image(tmp_path / name)
        assert error.value.fault is PictureFault.NOT_A_PICTURE


@pytest.mark.parametrize("name", ["with space.png", "ünï.png", "new\nline.png", "a..b.png"])
def test_strange_names_are_read_and_shown_on_one_line(tmp_path: Path, name: str) -> None:
    Image.new("RGB", (4, 4), (1, 2, 3)).save(tmp_path / name)
    assert open_image(resolve_image(tmp_path, name)).getpixel((0, 0)) == (1, 2, 3)
    (tmp_path / name).write_bytes(b"text")
    with pytest.raises(PictureError) as error:
        open_image(resolve_image(tmp_path, name))
    assert "\n" not in str(error.value)


def png(image: Image.Image, kind: str = "PNG") -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind)
    return stream.getvalue()


BOMB = png(Image.new("1", (10_000, 10_000)))


@pytest.mark.parametrize(
    ("raw", "fault", "words"),
    [
        (b"just text", PictureFault.NOT_A_PICTURE, "it begins with b'just text'"),
        (b"<!DOCTYPE html><html>", PictureFault.NOT_A_PICTURE, "a web page"),
        (b"", PictureFault.TRUNCATED, "an empty file"),
        (BOMB, PictureFault.HUGE, "10000 x 10000 pixels"),
        (png(Image.effect_noise((99, 99), 50), "JPEG")[:-600], PictureFault.TRUNCATED, "cut off"),
    ],
)
def test_what_is_no_picture_is_refused_with_its_fault(
    tmp_path: Path, raw: bytes, fault: PictureFault, words: str
) -> None:
    (tmp_path / "a.jpg").write_bytes(raw)
    with pytest.raises(PictureError) as error:
        open_image(tmp_path / "a.jpg")
    assert error.value.fault is fault
    assert words in str(error.value)


@pytest.mark.parametrize(
    ("image", "kind", "expected"),
    [
        (Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "TIFF", (255, 0, 0)),
        (Image.new("RGBA", (8, 8), (0, 0, 0, 0)), "PNG", (255, 255, 255)),
        (Image.new("I;16", (8, 8), 32768), "PNG", (127, 127, 127)),
        (Image.new("P", (8, 8), 0), "GIF", (0, 0, 0)),
        (Image.new("RGB", (8, 8), (0, 255, 0)), "WEBP", (0, 255, 0)),
        (Image.new("L", (8, 8), 77), "TIFF", (77, 77, 77)),
    ],
)
def test_every_mode_comes_out_as_rgb(tmp_path: Path, image: Image.Image, kind: str, expected: tuple[int, ...]) -> None:
    path = tmp_path / "a"
    image.save(path, kind)
    opened = open_image(path)
    assert opened.mode == "RGB"
    assert all(abs(a - b) <= 2 for a, b in zip(opened.getpixel((3, 3)), expected, strict=True))  # type: ignore[arg-type]


def test_exif_orientation_is_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (20, 10)).save(tmp_path / "a.jpg", exif=exif)
    assert open_image(tmp_path / "a.jpg").size == (10, 20)


@pytest.mark.parametrize("key", ["id", "question_type"])
def test_half_a_character_anywhere_in_a_record_is_refused_before_it_is_taught(key: str) -> None:
    turns = [{"from": "human", "value": "What?"}, {"from": "gpt", "value": "red"}]
    assert taught({"id": 10**30, "conversations": turns})
    with pytest.raises(DataError, match=r'record ".*half of a surrogate pair'):
        taught({"id": "a", "conversations": turns, key: "\ud800"})
    with pytest.raises(DataError, match=r'record "a": .*half of a surrogate pair'):
        taught({"id": "a", "conversations": [turns[0], {"from": "gpt", "value": "\udfff"}]})
