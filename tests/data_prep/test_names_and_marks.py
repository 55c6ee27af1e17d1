"""Names that are not their files', marks and keys of other tools: found, mended where it can be; nothing crashes."""

import base64
import json
import shutil
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from data_prep.__main__ import main
from data_prep.check import check_records
from data_prep.check.mend import mend
from data_prep.check.texts import faults
from data_prep.errors import PictureError, PictureFault
from data_prep.records.names import resolve_image, same_name
from data_prep.records.near_names import near_file, near_name, near_names
from data_prep.records.record import images_of, read_records, write_records
from tests.data_prep.conftest import draw, record

FILES = ("a.jpg", "b.jpg", "c.jpg", "d.png", "sub/e.jpg", "caf\u00e9-\uad6c\ub984.jpg", "my photo.jpg")


@pytest.fixture(scope="module")
def pics(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("names") / "pics"
    for number, name in enumerate(FILES):
        draw(folder / name, number)
    return folder


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("sub\\e.jpg", "sub/e.jpg"), (".\\sub\\e.jpg", "sub/e.jpg"), ("C:\\Users\\USER\\pics\\c.jpg", "c.jpg"),
        ("D:/data/pics/sub/e.jpg", "sub/e.jpg"), ("\\\\server\\share\\pics\\a.jpg", "a.jpg"), ("D.PNG", "d.png"),
        ("d.Png", "d.png"), ("SUB/E.JPG", "sub/e.jpg"), ("a.jpeg", "a.jpg"), ("a", "a.jpg"), ("a.png", "a.jpg"),
        (unicodedata.normalize("NFD", FILES[5]), FILES[5]), ("CAF\u00c9-\uad6c\ub984.JPG", FILES[5]),
        (FILES[5].encode().decode("latin-1"), FILES[5]), ("my%20photo.jpg", "my photo.jpg"), (" a.jpg ", "a.jpg"),
        ("\ufeffa.jpg", "a.jpg"), ('"a.jpg"', "a.jpg"), ("pics/a.jpg", "a.jpg"), ("data/pics/sub/e.jpg", "sub/e.jpg"),
        ("../pics/a.jpg", "a.jpg"), ("/elsewhere/pics/a.jpg", "a.jpg"), ("file:///x/a.jpg", "a.jpg"),
        ("https://host.example/x/sub/e.jpg?w=1", "sub/e.jpg"), ("~/pics/a.jpg", "a.jpg"),
        ("gone.jpg", None), ("e.jpg", None), ("train/a.jpg", None), ("", None), ("x" * 5000, None), ("a\0.jpg", None),
        ("\ud800.jpg", None),
    ],
)  # fmt: skip
def test_a_near_miss_finds_the_file_that_is_meant(pics: Path, name: str, file: str | None) -> None:
    assert near_names(pics, [name]).get(name) == file


def test_two_places_that_would_become_one_file_are_not_guessed(pics: Path) -> None:
    assert near_names(pics, ["/one/a.jpg", "/two/a.jpg"]) == {}
    assert near_names(pics, ["/one/a.jpg", "\\one\\a.jpg"]) == {"/one/a.jpg": "a.jpg", "\\one\\a.jpg": "a.jpg"}


def test_two_files_that_fit_are_not_guessed(tmp_path: Path) -> None:
    for name in ("A.jpg", "a.JPG", "b.jpg", "b.png"):
        draw(tmp_path / name.lower().replace("a.jpg", name), 1)
    assert near_names(tmp_path, ["a.jpg", "b.gif"]) == {}


def test_a_file_beside_a_path_is_found(pics: Path) -> None:
    assert near_file(pics / "A.JPG") == str(pics / "a.jpg")
    assert near_file(pics / "zebra.jpg") is None
    assert near_file(pics / "nowhere/a.jpg") is None


NAMES = st.text(st.characters(exclude_characters="\0/"), min_size=1, max_size=40).filter(
    lambda name: name not in {".", ".."}
)


@settings(max_examples=150, deadline=None)
@given(NAMES)
def test_any_name_is_found_or_refused_without_a_crash(pics: Path, name: str) -> None:
    try:
        path = resolve_image(pics, name)
        found = path.is_file()
    except PictureError as error:
        assert error.fault in {PictureFault.MISSING, PictureFault.OUTSIDE}
        assert len(str(error)) < 1000
        found = False
    assert found == (name in FILES)
    assert set(near_names(pics, [name]).values()) <= set(FILES)
    assert same_name(same_name(name)) == same_name(name)


IMPOSSIBLE = (
    "a\0.jpg", "x" * 5000 + ".jpg", "y" * 300, "\ud800.jpg", "sub", "new\nline.jpg",
    "data:image/png;base64," + "A" * 9000,
)  # fmt: skip


@pytest.mark.parametrize("name", IMPOSSIBLE)
@pytest.mark.parametrize("option", [[], ["--no-decode"]])
def test_names_that_no_file_can_have_are_told_in_short(
    pics: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, option: list[str]
) -> None:
    write_records(tmp_path / "r.json", [record("bad", name), record("good", "a.jpg")])
    words = ["check", str(tmp_path / "r.json"), "--image-folder", str(pics), *option]
    assert main(words) == 1
    out = capsys.readouterr().out
    assert 'line 2, record "bad"' in out
    assert len(out) < 3000
    assert main([*words, "--json"]) == 1
    assert len(capsys.readouterr().out) < 20_000
    assert (
        main([*words, "--html", str(tmp_path / "p.html"), "--fix", str(tmp_path / "m.json"), "--allow-drops", "1"]) == 0
    )
    assert [item["id"] for item in read_records(tmp_path / "m.json")] == ["good"]


def test_fix_writes_the_names_that_are_meant(pics: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names: list[Any] = [
        "sub\\e.jpg",
        f"{pics}/a.jpg",
        ["D.PNG", "b.jpg"],
        "c.jpg",
        unicodedata.normalize("NFD", FILES[5]),
    ]
    rows = [record(str(number), name, answer=str(number)) for number, name in enumerate(names)]
    rows[2]["conversations"][0]["value"] = "<image><image>\nWhat?"  # type: ignore[index]
    write_records(tmp_path / "r.json", rows)
    words = ["check", str(tmp_path / "r.json"), "--image-folder", str(pics)]
    assert main([*words, "--fix", str(tmp_path / "m.json")]) == 0
    out = capsys.readouterr().out
    assert "did you mean sub/e.jpg? --fix writes that" in out
    assert "in another Unicode form; --fix writes that" in out
    assert [item["image"] for item in read_records(tmp_path / "m.json")] == [
        "sub/e.jpg", "a.jpg", ["d.png", "b.jpg"], "c.jpg", FILES[5],
    ]  # fmt: skip
    assert main(["check", str(tmp_path / "m.json"), "--image-folder", str(pics)]) == 0


@pytest.mark.parametrize("name", ["sub\\e.jpg", "D.PNG", "C:\\x\\pics\\c.jpg", unicodedata.normalize("NFD", FILES[5])])
def test_a_table_takes_the_names_of_the_files_that_are_meant(pics: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "t.csv").write_text(f"image,question,answer\n{name},What?,a dog\n", encoding="utf-8")
    words = ["table", str(tmp_path / "t.csv"), "--image-folder", str(pics), "--output", str(tmp_path / "r.json")]
    assert main(words) == 0
    assert (pics / read_records(tmp_path / "r.json")[0]["image"]).is_file()


def test_a_table_guesses_at_no_path_of_another_machine(pics: Path, tmp_path: Path) -> None:
    assert near_name(pics, "/elsewhere/a.jpg") is None
    assert near_name(tmp_path / "nowhere", "a.jpg") is None


def test_a_picture_in_the_record_is_written_out_by_the_command_that_the_check_names(
    pics: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(shutil.copytree(pics, tmp_path / "pics"))
    raw = base64.b64encode((folder / "a.jpg").read_bytes()).decode()
    write_records(tmp_path / "r.json", [record("a", f"data:image/jpeg;base64,{raw}"), record("b", "b.jpg", answer="b")])
    assert main(["check", str(tmp_path / "r.json"), "--image-folder", str(folder)]) == 1
    out = capsys.readouterr().out
    assert "python -m data_prep hf RECORDS --output NEW.json --images FOLDER writes it to a file" in out
    words = ["hf", str(tmp_path / "r.json"), "--output", str(tmp_path / "new.json"), "--image-folder", str(folder)]
    assert main(words) == 0, capsys.readouterr()
    assert main(["check", str(tmp_path / "new.json"), "--image-folder", str(folder)]) == 0


def test_links_of_a_hubs_cache_are_followed_and_others_refused_with_a_remedy(pics: Path, tmp_path: Path) -> None:
    snapshot, blobs = tmp_path / "hub/snapshots/rev/images", tmp_path / "hub/blobs"
    for folder in (snapshot, blobs):
        folder.mkdir(parents=True)
    shutil.copy(pics / "a.jpg", blobs / "aa11")
    (snapshot / "a.jpg").symlink_to("../../../blobs/aa11")
    (snapshot / "b.jpg").symlink_to(pics / "b.jpg")
    assert resolve_image(snapshot.parent, "images/a.jpg").is_file()
    with pytest.raises(PictureError, match="cp -rL FOLDER COPY"):
        resolve_image(snapshot.parent, "images/b.jpg")


def test_split_keeps_every_spelling_of_a_picture_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    kinds = {
        "a": ["a.jpg", "./a.jpg", ".//a.jpg", "A.JPG", ".\\a.jpg"],
        "b": ["sub/b.jpg", "sub\\b.jpg", "/data/pics/sub/b.jpg", "C:\\data\\sub\\b.jpg"],
        "c": ["caf\u00e9.jpg", unicodedata.normalize("NFD", "caf\u00e9.jpg")],
        "d": ["d.jpg"],
    }
    rows = [
        record(f"{kind}{n}", name, answer=f"{kind}{n}") for kind, some in kinds.items() for n, name in enumerate(some)
    ]
    write_records("r.json", rows)
    for seed in range(6):
        words = ["split", "r.json", "--parts", "train=0.5", "test=0.5", "--output-dir", "out", "--seed", str(seed)]
        assert main(words) == 0
        parts = [{item["id"][0] for item in read_records(f"out/{part}.json")} for part in ("train", "test")]
        assert not parts[0] & parts[1]


def test_split_checks_every_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [record(f"{number}", f"{number}.jpg", answer=str(number)) for number in range(9)]
    rows.append({**record("bad", "bad.jpg"), "conversations": [{"from": "human", "value": "<image>\nWhat?"}]})
    write_records("r.json", rows)
    for seed in range(4):
        words = [
            "split",
            "r.json",
            "--parts",
            "train=0.4",
            "val=0.3",
            "test=0.3",
            "--output-dir",
            "out",
            "--seed",
            str(seed),
        ]
        assert main(words) == 1
        assert capsys.readouterr().out.count("\ncheck out/") == 3


@pytest.mark.parametrize(
    "mark",
    [
        "<image1>", "<image_1>", "<image 1>", "<|image_1|>", "<|image|>", "<Image>", "<IMAGE>", "<img>", "<ImageHere>",
        "<image_placeholder>", "<|image_pad|>", "<|vision_start|><|image_pad|><|vision_end|>", "<start_of_image>",
        "<img>a.jpg</img>", "[IMG]",
    ],
)  # fmt: skip
def test_other_tools_marks_of_a_picture_are_found_and_mended(mark: str) -> None:
    bad: dict[str, Any] = record("x", "a.jpg", question=f"{mark}\nWhat is it?")
    assert "mark of another tool" in [fault.kind for fault in faults(bad)]
    mended = mend(bad, 0)
    assert not isinstance(mended, str)
    assert mended[0]["conversations"][0]["value"] == "<image>\nWhat is it?"
    assert "mark of another tool" in mended[1]


def test_the_names_in_marks_become_the_pictures() -> None:
    bad = record("x", "a.jpg", question="<img>one.jpg</img><img>two.jpg</img>Which?")
    del bad["image"]
    mended = mend(bad, 0)
    assert not isinstance(mended, str)
    assert mended[0]["image"] == ["one.jpg", "two.jpg"]
    assert mended[0]["conversations"][0]["value"] == "<image><image>Which?"


@pytest.mark.parametrize("mark", ["<video>", "<|video_1|>", "<audio>", "<video>v.mp4</video>", "<tool_call>"])
def test_marks_of_what_is_not_taken_are_found_and_dropped(mark: str) -> None:
    bad = record("x", "a.jpg", question=f"<image>\n{mark} What?")
    assert [fault.kind for fault in faults(bad)] == ["mark of another tool"]
    assert mend(bad, 0) == "mark of another tool"


@pytest.mark.parametrize(
    "text", ["x < image and y > 1", 'an <img src="a.png"> tag', "a <div>", "<images>", "imagine <3"]
)
def test_plain_text_is_no_mark(text: str) -> None:
    assert list(faults(record("x", "a.jpg", question=f"<image>\n{text}", answer=text))) == []


@pytest.mark.parametrize(
    ("key", "value"),
    [("system", "Be brief."), ("history", [["a", "b"]]), ("video", "a.mp4"), ("videos", ["a.mp4"]), ("tools", "[]")],
)
def test_keys_that_nothing_reads_are_found(key: str, value: object) -> None:
    bad = {**record("x", "a.jpg"), key: value}
    assert [(fault.kind, fault.detail[: len(key) + 2]) for fault in faults(bad)] == [("key nothing reads", f'"{key}"')]
    assert list(faults({**record("x", "a.jpg"), "system": "", "answers": ["a"], "source": "coco"})) == []


def test_a_system_turn_goes_before_the_question_and_calls_of_tools_are_dropped() -> None:
    turns = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "a dog"}]
    base = {"id": "x", "image": "a.jpg"}
    mended = mend({**base, "conversations": [{"from": "system", "value": "Be brief."}, *turns]}, 0)
    assert not isinstance(mended, str)
    assert mended[0]["conversations"][0]["value"] == "Be brief.\n\n<image>\nWhat?"
    for role in ("function_call", "tool", "observation", "system"):
        assert mend({**base, "conversations": [turns[0], {"from": role, "value": "t"}, turns[1]]}, 0) == "unknown role"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)
ROLE = st.sampled_from(["human", "gpt", "user", "assistant", "system", "tool", "observation", "Human"]) | JSON
VALUE = (
    st.sampled_from(["<image>\nWhat?", "a dog", "", " ", "<image>", "<image1> x", "<img>a.jpg</img>", "</s>", "\ud800"])
    | JSON
)
TURN = st.fixed_dictionaries({"from": ROLE, "value": VALUE}) | JSON
IMAGE = (
    st.sampled_from(["a.jpg", "A.JPG", ".\\a.jpg", "gone.jpg", "../a.jpg"])
    | st.lists(st.sampled_from(["a.jpg", "d.PNG"]))
    | JSON
)
RECORD = st.fixed_dictionaries(
    {},
    optional={
        "id": JSON, "image": IMAGE, "images": IMAGE, "img": IMAGE, "conversations": st.lists(TURN, max_size=5) | JSON,
        "system": JSON, "messages": JSON,
    },
)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(st.lists(RECORD, min_size=1, max_size=3))
def test_check_and_fix_take_any_record_and_what_comes_out_is_right(pics: Path, rows: list[dict[str, Any]]) -> None:
    path, output = pics.parent / "any.json", pics.parent / "fixed.json"
    output.unlink(missing_ok=True)
    write_records(path, [*rows, record("good", "a.jpg", answer="unlike the others")])
    status = main(["check", str(path), "--image-folder", str(pics), "--fix", str(output), "--allow-drops", "1"])
    kept = list(read_records(output))
    assert "good" in [item["id"] for item in kept]
    report = check_records(output, pics)
    assert report.ok or status == 1
    assert all(images_of(item) is not None and json.dumps(item) for item in kept)


def test_a_picture_of_several_scales_and_few_greys_is_found(tmp_path: Path) -> None:
    import numpy

    ramps = {"a": 4095, "b": 4000, "c": 60_000}
    for name, top in ramps.items():
        values = numpy.linspace(0, top, 64).astype(numpy.uint16)
        Image.fromarray(numpy.tile(values, (40, 1))).save(tmp_path / f"{name}.png")
    Image.fromarray((numpy.arange(1600).reshape(40, 40) % 100 + 30_000).astype(numpy.uint16)).save(tmp_path / "d.png")
    values = numpy.linspace(0, 1, 64).astype(numpy.float32)
    values[3] = numpy.nan
    Image.fromarray(numpy.tile(values, (40, 1))).save(tmp_path / "e.tif")
    names = ("a.png", "b.png", "c.png", "d.png", "e.tif")
    write_records(tmp_path / "r.json", [record(name, name, answer=name) for name in names])
    report = check_records(tmp_path / "r.json", tmp_path)
    assert report.ok
    details = {found.kind.name: [example.detail for example in found.examples] for found in report.findings}
    assert details["more than 8 bits"][0] == "a.png holds 0 to 4,095, shown on the scale 0 to 4,095"
    assert [line.partition(":")[0] for line in details["few greys"]] == ["d.png holds 30,000 to 30,099"]
    assert details["no number"] == ["e.tif: 40 values are NaN"]
    assert len(details["several scales"]) == 2


def test_dark_colours_of_16_bits_are_found(tmp_path: Path) -> None:
    import struct
    import zlib

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    rows = b"".join(
        b"\0" + b"".join(struct.pack(">HHH", *[column * 60] * 3) for column in range(64)) for _ in range(40)
    )
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 64, 40, 16, 2, 0, 0, 0))
    raw = b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    (tmp_path / "a.png").write_bytes(raw)
    write_records(tmp_path / "r.json", [record("a", "a.png")])
    assert "few greys" in check_records(tmp_path / "r.json", tmp_path).by_kind
