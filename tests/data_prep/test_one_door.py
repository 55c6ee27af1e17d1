"""Pictures whole, damaged, hostile and foreign: the door gives RGB or says what is wrong, and the check agrees."""

import io
import os
import struct
import zlib
from pathlib import Path

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from data_prep.__main__ import main
from data_prep.check.inspect import inspect_picture
from data_prep.errors import PictureError, PictureFault, UsageError
from data_prep.records.exif import jpeg_with_plain_exif, only_orientation, orientation_in
from data_prep.records.foreign import FOREIGN, extension_of, foreign_kind
from data_prep.records.greys import scale_of
from data_prep.records.picture import decode, open_image
from data_prep.records.pixels import MAX_PIXELS, PIXELS_VARIABLE, allow_pixels, largest_form, pixel_limit
from data_prep.records.record import write_records
from tests.data_prep.conftest import record

KINDS = ("JPEG", "PNG", "WEBP", "GIF", "AVIF", "HEIF", "TIFF", "BMP", "PPM", "JPEG2000")


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    from pillow_heif import register_heif_opener

    register_heif_opener()
    stream = io.BytesIO()
    image.save(stream, kind, **options)  # type: ignore[arg-type]
    return stream.getvalue()


def spotted(size: tuple[int, int] = (24, 18)) -> Image.Image:
    """A picture that compresses badly, so that a changed byte changes it."""
    return Image.merge("RGB", [Image.effect_noise(size, 60 + 9 * band) for band in range(3)])


def ifd(entries: list[tuple[int, int, int, bytes]], behind: bytes = b"") -> bytes:
    """An EXIF block with these raw entries (tag, type, count, four bytes of value or place)."""
    packed = b"".join(struct.pack("<HHI", tag, kind, count) + value for tag, kind, count, value in entries)
    return b"Exif\0\0II*\0" + struct.pack("<IH", 8, len(entries)) + packed + struct.pack("<I", 0) + behind


def with_exif(jpeg: bytes, exif: bytes) -> bytes:
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + jpeg[2:]


JPEG = saved(Image.new("RGB", (40, 30), (9, 99, 200)), "JPEG")
WHOLE = {kind: saved(spotted(), kind) for kind in KINDS}
TAGS = st.sampled_from([0x010E, 0x010F, 0x011A, 0x0128, 0x0132, 0x0201, 0x8769, 0x8825, 0xA002, 0x02BC])
ENTRY = st.tuples(
    TAGS | st.integers(0, 65535), st.integers(0, 13), st.integers(0, 70_000), st.binary(min_size=4, max_size=4)
)


@settings(max_examples=300, deadline=None)
@given(st.integers(1, 8), st.lists(ENTRY, max_size=4), st.binary(max_size=64))
def test_broken_exif_costs_neither_the_picture_nor_the_turning(
    orientation: int, entries: list[tuple[int, int, int, bytes]], behind: bytes
) -> None:
    others = [entry for entry in entries if entry[0] != 0x0112]
    exif = ifd(sorted([(0x0112, 3, 1, struct.pack("<HH", orientation, 0)), *others]), behind)
    image = decode(io.BytesIO(with_exif(JPEG, exif)), "a.jpg")
    assert image.size == ((30, 40) if orientation > 4 else (40, 30))
    assert "exif" not in image.info


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=80))
def test_exif_of_any_bytes_leaves_the_picture_as_it_is(exif: bytes) -> None:
    image = decode(io.BytesIO(with_exif(JPEG, b"Exif\0\0" + exif)), "a.jpg")
    assert sorted(image.size) == [30, 40]
    assert orientation_in(exif) in {None, *range(1, 9)}


@pytest.mark.parametrize("orientation", range(1, 9))
def test_each_orientation_turns_as_pillow_does(orientation: int) -> None:
    from PIL import ImageOps

    raw = saved(spotted(), "JPEG", exif=only_orientation(orientation), quality=95)
    with Image.open(io.BytesIO(raw)) as image:
        expected = ImageOps.exif_transpose(image)
    assert decode(io.BytesIO(raw), "a.jpg").tobytes() == expected.tobytes()
    assert decode(io.BytesIO(jpeg_with_plain_exif(raw)), "a.jpg").tobytes() == expected.tobytes()


CHANGE = st.tuples(st.sampled_from(["set", "cut", "insert", "remove"]), st.floats(0, 1), st.binary(min_size=1))
CHANGES = st.lists(CHANGE, min_size=1, max_size=4)


@pytest.mark.parametrize("kind", KINDS)
def test_a_changed_file_of_any_kind_is_read_or_refused_and_the_check_agrees(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "a"

    @settings(max_examples=60, deadline=None)
    @given(CHANGES)
    def holds(changes: list[tuple[str, float, bytes]]) -> None:
        raw = WHOLE[kind]
        for what, where, some in changes:
            place = int(where * len(raw))
            end = place + (0 if what == "insert" else len(some))
            raw = raw[:place] if what == "cut" else raw[:place] + (b"" if what == "remove" else some) + raw[end:]
        path.write_bytes(raw)
        fault = inspect_picture(str(tmp_path), "a").fault
        try:
            image = open_image(path)
        except PictureError as error:
            assert error.fault is fault
            assert str(error).startswith(f"{path}: ")
            assert "\n" not in str(error)
        else:
            assert image.mode == "RGB"
            assert fault is None

    holds()


def test_a_broken_exif_is_no_matter_to_check_and_heic(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    broken = ifd(
        [(0x0112, 3, 1, struct.pack("<HH", 6, 0)), (0x011A, 10, 1, struct.pack("<I", 38))], b"\xff" * 4 + b"\0" * 4
    )
    (folder / "a.jpg").write_bytes(with_exif(JPEG, broken))
    write_records(tmp_path / "r.json", [record("a", "a.jpg")])
    assert main(["check", str(tmp_path / "r.json"), "--image-folder", str(folder)]) == 0
    for options in ([], ["--keep-metadata"]):
        out = tmp_path / f"out{len(options)}"
        assert main(["heic", str(folder), "--output-dir", str(out), *options]) == 0, capsys.readouterr()
        assert open_image(out / "a.jpg").size == (30, 40)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes here")
def test_a_pipe_a_folder_and_a_device_are_named_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "folder.jpg").mkdir()
    for path, words in (
        (tmp_path / "pipe.jpg", "a pipe"), (tmp_path / "folder.jpg", "a folder"), (Path(os.devnull), "a device"),
    ):  # fmt: skip
        with pytest.raises(PictureError, match=words) as error:
            open_image(path)
        assert error.value.fault is PictureFault.NOT_A_PICTURE
    assert inspect_picture(str(tmp_path), "pipe.jpg").fault is PictureFault.NOT_A_PICTURE


def test_a_file_larger_than_any_picture_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "a.jpg").open("wb") as stream:
        stream.truncate(16 * MAX_PIXELS + 1)
    assert inspect_picture(str(tmp_path), "a.jpg").fault is PictureFault.HUGE


SIZES = {
    (22_000, 1): False, (1, 30_000): False, (1, 1_000_000): False, (30_000, 500): True, (12_000, 3_000): True,
    (3, 900): True,
}  # fmt: skip


@pytest.mark.parametrize(("size", "allowed"), SIZES.items())
def test_the_limit_holds_for_what_a_picture_becomes(tmp_path: Path, size: tuple[int, int], allowed: bool) -> None:
    Image.new("1", size).save(tmp_path / "a.png")
    fault = inspect_picture(str(tmp_path), "a.png").fault
    assert fault is (None if allowed else PictureFault.HUGE)
    if not allowed:
        with pytest.raises(PictureError, match=f"{largest_form(*size):,} pixels of it, more than the {MAX_PIXELS:,}"):
            open_image(tmp_path / "a.png")


def test_the_limit_can_be_raised_and_lowered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PIXELS_VARIABLE, "")
    monkeypatch.delenv(PIXELS_VARIABLE)
    Image.new("1", (20_000, 10_000)).save(tmp_path / "a.png")
    write_records(tmp_path / "r.json", [record("a", "a.png")])
    words = ["check", str(tmp_path / "r.json"), "--image-folder", str(tmp_path)]
    assert main(words) == 1
    assert main([*words, "--max-pixels", "200000000"]) == 0
    assert pixel_limit() == 200_000_000
    assert main([*words, "--max_pixels", "1000"]) == 1
    with pytest.raises(SystemExit, match="2"):
        main([*words, "--max-pixels", "0"])
    monkeypatch.setenv(PIXELS_VARIABLE, "many")
    with pytest.raises(UsageError, match="expected a number of pixels"):
        pixel_limit()
    monkeypatch.delenv(PIXELS_VARIABLE)
    allow_pixels(None)
    assert pixel_limit() == MAX_PIXELS


def test_long_texts_inside_a_png_are_skipped(tmp_path: Path) -> None:
    notes = PngImagePlugin.PngInfo()
    notes.add_text("workflow", "a" * 5_000_000, zip=True)
    notes.add_itxt("prompt", "b" * 2_000_000, zip=True)
    Image.new("RGB", (8, 8), (1, 2, 3)).save(tmp_path / "a.png", pnginfo=notes)
    assert open_image(tmp_path / "a.png").getpixel((0, 0)) == (1, 2, 3)
    assert inspect_picture(str(tmp_path), "a.png").fault is None


def test_a_text_bomb_in_a_png_is_refused_in_one_line(tmp_path: Path) -> None:
    raw = saved(Image.new("RGB", (8, 8)), "PNG")
    body = b"zTXt" + b"k\0\0" + zlib.compress(bytes(200_000_000), 9)
    chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    (tmp_path / "a.png").write_bytes(raw[:33] + chunk + raw[33:])
    with pytest.raises(PictureError) as error:
        open_image(tmp_path / "a.png")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("values", "kind", "darkest", "brightest"),
    [
        (numpy.linspace(0, 4095, 64).astype(numpy.uint16), "PNG", 0, 255),
        (numpy.linspace(0, 4095, 64).astype(numpy.uint16), "TIFF", 0, 255),
        (numpy.linspace(0, 3000, 64).astype(numpy.uint16), "TIFF", 0, 186),
        (numpy.linspace(0, 65535, 64).astype(numpy.uint16), "PNG", 0, 255),
        (numpy.linspace(-1000, 1500, 64).astype(numpy.int32), "TIFF", 1, 157),
        (numpy.linspace(-3024, 3071, 64).astype(numpy.int32), "TIFF", 33, 223),
        (numpy.linspace(0, 1, 64).astype(numpy.float32), "TIFF", 0, 255),
        (numpy.linspace(0, 0.001, 64).astype(numpy.float32), "TIFF", 0, 130),
        (numpy.linspace(-1, 1, 64).astype(numpy.float32), "TIFF", 0, 255),
        (numpy.array([0.5, numpy.nan, numpy.inf, -numpy.inf, 1] * 8, numpy.float32), "TIFF", 0, 255),
    ],
)  # fmt: skip
def test_wide_greys_use_the_eight_bits(
    values: numpy.ndarray, kind: str, darkest: int, brightest: int, tmp_path: Path
) -> None:
    Image.fromarray(numpy.tile(values, (20, 1))).save(tmp_path / "a", kind)
    low, high = open_image(tmp_path / "a").getextrema()[0]  # type: ignore[misc]
    assert abs(low - darkest) <= 1
    assert abs(high - brightest) <= 1
    assert inspect_picture(str(tmp_path), "a").greys is not None


@given(st.floats(-1e9, 1e9), st.floats(-1e9, 1e9), st.booleans())
def test_a_scale_holds_what_it_is_for(one: float, other: float, whole: bool) -> None:
    low, high = sorted((round(one), round(other)) if whole else (one, other))
    scale = scale_of(low, high, whole=whole)
    assert scale.low <= low <= high <= scale.high
    assert scale.low < scale.high


def test_a_picture_without_a_number_is_refused(tmp_path: Path) -> None:
    Image.fromarray(numpy.full((8, 8), numpy.nan, numpy.float32)).save(tmp_path / "a.tif")
    with pytest.raises(PictureError, match="no value of it is a number"):
        open_image(tmp_path / "a.tif")
    assert inspect_picture(str(tmp_path), "a.tif").fault is PictureFault.UNREADABLE


def tiff(values: numpy.ndarray, sample_format: int) -> bytes:
    """A TIFF of any number of bands, as remote sensing and microscopes write them."""
    height, width, bands = values.shape
    bits = struct.pack(f"<{bands}H", *[values.itemsize * 8] * bands)
    formats = struct.pack(f"<{bands}H", *[sample_format] * bands)
    place = 8 + 2 + 10 * 12 + 4
    short, long = (lambda value: struct.pack("<HH", value, 0)), (lambda value: struct.pack("<I", value))
    data = place + len(bits) + len(formats)
    entries = [
        (256, 4, 1, long(width)), (257, 4, 1, long(height)), (258, 3, bands, long(place)), (259, 3, 1, short(1)),
        (262, 3, 1, short(2 if bands == 3 else 1)), (273, 4, 1, long(data)), (277, 3, 1, short(bands)),
        (278, 4, 1, long(height)), (279, 4, 1, long(values.nbytes)), (339, 3, bands, long(place + len(bits))),
    ]  # fmt: skip
    return ifd(entries).removeprefix(b"Exif\0\0") + bits + formats + values.tobytes()


@pytest.mark.parametrize(
    ("values", "sample_format", "words"),
    [
        (numpy.zeros((6, 5, 5), numpy.uint16), 1, "a TIFF of 5 bands of 16-bit whole numbers"),
        (numpy.zeros((6, 5, 8), numpy.uint8), 1, "a TIFF of 8 bands of 8-bit whole numbers"),
        (numpy.zeros((6, 5, 3), numpy.float32), 3, "a TIFF of 3 bands of 32-bit floats"),
    ],
)
def test_a_tiff_that_is_not_read_is_called_by_its_bands(
    values: numpy.ndarray, sample_format: int, words: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.tif").write_bytes(tiff(values, sample_format))
    with pytest.raises(PictureError, match=words) as error:
        open_image(tmp_path / "a.tif")
    assert error.value.fault is PictureFault.NOT_A_PICTURE
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(("place", "mark", "name"), FOREIGN)
def test_a_foreign_file_is_called_by_its_name(place: int, mark: bytes, name: str, tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes((b"x" * place + mark).ljust(600, b"x"))
    found = inspect_picture(str(tmp_path), "a.jpg")
    assert found.fault is PictureFault.NOT_A_PICTURE
    assert found.problem == name


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"\0\0\0\x18ftypmp42", "a video (MP4 or MOV)"), (b"\0\0\0\x14ftypqt  ", "a video (MP4 or MOV)"),
        (b'<?xml version="1.0"?>\n<svg xmlns="x"/>', "an SVG drawing"), (b"\n<html><body>404", "a web page"),
        (b'{"error": "not found"}', "JSON"), (b"/9j/4AAQSkZJRgABAQ", "base64"), (b"iVBORw0KGgoAAAAN", "base64"),
        (b"data:image/png;base64,iVBO", "base64"), (bytes(4096), "nothing but zeros"),
        (b"<?xml version='1.0'?><Error><Code>AccessDenied", "XML"), (b"\x08\0\5\0CS\n\0", "DICOM"),
    ],
)  # fmt: skip
def test_texts_and_videos_are_called_by_their_names(raw: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(raw)
    found = inspect_picture(str(tmp_path), "a.jpg")
    assert found.fault is PictureFault.NOT_A_PICTURE
    assert words in found.problem


def test_a_cameras_raw_file_is_not_taken_for_its_preview(tmp_path: Path) -> None:
    for name in ("a.NEF", "a.dng"):
        (tmp_path / name).write_bytes(WHOLE["TIFF"])
        assert inspect_picture(str(tmp_path), name).fault is PictureFault.NOT_A_PICTURE


def test_every_kind_that_is_read_has_its_ending_and_is_not_foreign() -> None:
    endings = {kind: extension_of(raw) for kind, raw in WHOLE.items()}
    assert None not in endings.values(), endings
    assert {kind: foreign_kind(raw[:512]) for kind, raw in WHOLE.items()} == dict.fromkeys(KINDS)
