"""Exports of annotation tools become questions and answers with boxes; what is no box is dropped and counted."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from data_prep.__main__ import main
from data_prep.records.exif import only_orientation
from data_prep.records.record import read_records

WANTED = [
    ("<image>\nWhere is the dog?", "[20, 10, 60, 40]"),
    ("Where is the traffic light?", "[100, 50, 140, 90], [150, 50, 160, 90]"),
    ("What is in this box? [20, 10, 60, 40]", "dog"),
    ("What is in this box? [100, 50, 140, 90]", "traffic light"),
    ("What is in this box? [150, 50, 160, 90]", "traffic light"),
]
"""What every tool's export of the same three objects in a picture of 200 x 100 becomes."""

BOXES = [("dog", (20, 10, 60, 40)), ("traffic_light", (100, 50, 140, 90)), ("traffic_light", (150, 50, 160, 90))]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (200, 100), (70, 120, 20)).save("photos/a.jpg")
    Image.new("RGB", (100, 100), (20, 20, 120)).save("photos/b.png")
    return tmp_path


def coco() -> list[str]:
    value = {
        "images": [{"id": 1, "file_name": "a.jpg", "width": 200, "height": 100}, {"id": 2, "file_name": "b.png"}],
        "categories": [{"id": 3, "name": "dog"}, {"id": 5, "name": "traffic_light"}],
        "annotations": [
            {"image_id": 1, "category_id": 3 if name == "dog" else 5, "bbox": [x, y, right - x, bottom - y]}
            for name, (x, y, right, bottom) in BOXES
        ],
    }
    Path("coco.json").write_text(json.dumps(value))
    return ["coco-boxes", "coco.json"]


def yolo() -> list[str]:
    Path("labels").mkdir()
    lines = [
        f"{int(name != 'dog')} {(x + r) / 400} {(y + b) / 200} {(r - x) / 200} {(b - y) / 100}"
        for name, (x, y, r, b) in BOXES[:2]
    ]
    lines.append("1 " + " ".join(f"{x / 200} {y / 100}" for x, y in ((150, 50), (160, 50), (155, 90))))
    Path("labels/a.txt").write_text("\n".join(lines) + "\n")
    Path("labels/b.txt").write_text("")
    Path("data.yaml").write_text("names:\n  0: dog\n  1: traffic_light\n")
    return ["yolo", "labels"]


def labelme() -> list[str]:
    shapes = [
        {"label": name, "shape_type": "rectangle", "points": [[r, b], [x, y]]} for name, (x, y, r, b) in BOXES[:2]
    ]
    shapes.append({"label": "traffic_light", "points": [[150, 60], [160, 50], [155, 90]], "shape_type": "polygon"})
    value = {"imagePath": "..\\photos\\a.jpg", "imageWidth": 200, "imageHeight": 100, "shapes": shapes}
    Path("marks").mkdir()
    Path("marks/a.json").write_text(json.dumps(value))
    return ["labelme", "marks"]


def regions() -> list[dict[str, Any]]:
    made = [
        {
            "shape_attributes": {"name": "rect", "x": x, "y": y, "width": r - x, "height": b - y},
            "region_attributes": {"label": name},
        }
        for name, (x, y, r, b) in BOXES[:2]
    ]
    outline = {"name": "polygon", "all_points_x": [150, 160, 155], "all_points_y": [50, 60, 90]}
    return [*made, {"shape_attributes": outline, "region_attributes": {"label": {"traffic_light": True, "dog": False}}}]


def via() -> list[str]:
    picture = {"filename": "a.jpg", "size": 12, "regions": regions()}
    Path("via.json").write_text(json.dumps({"_via_img_metadata": {"a.jpg12": picture}, "_via_settings": {}}))
    return ["via", "via.json"]


def via_1() -> list[str]:
    numbered = {str(number): region for number, region in enumerate(regions())}
    Path("via.json").write_text(json.dumps({"a.jpg12": {"filename": "a.jpg", "regions": numbered}}))
    return ["via", "via.json"]


def via_csv() -> list[str]:
    with Path("via.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        names = "#filename,file_size,file_attributes,region_count,region_id,region_shape_attributes,region_attributes"
        rows.writerow(names.split(","))
        for number, region in enumerate(regions()):
            cells = [json.dumps(region[name]) for name in ("shape_attributes", "region_attributes")]
            rows.writerow(["a.jpg", 12, "{}", 3, number, *cells])
        rows.writerow(["b.png", 12, "{}", 0, 0, "{}", "{}"])
    return ["via", "via.csv"]


def via_3() -> list[str]:
    rows = {
        str(number): {"vid": "7", "xy": [2, x, y, r - x, b - y], "av": {"1": "0" if name == "dog" else "1"}}
        for number, (name, (x, y, r, b)) in enumerate(BOXES)
    }
    value = {
        "file": {"4": {"fname": "a.jpg"}},
        "view": {"7": {"fid_list": ["4"]}},
        "attribute": {"1": {"aname": "label", "options": {"0": "dog", "1": "traffic_light"}}},
        "metadata": rows,
    }
    Path("via3.json").write_text(json.dumps(value))
    return ["via", "via3.json"]


def voc() -> list[str]:
    objects = "".join(
        f"<object><name>{name}</name><bndbox><xmin>{x + 1}</xmin><ymin>{y + 1}</ymin><xmax>{r}</xmax><ymax>{b}</ymax>"
        "</bndbox></object>"
        for name, (x, y, r, b) in BOXES
    )
    size = "<size><width>200</width><height>100</height></size>"
    Path("xml").mkdir()
    Path("xml/a.xml").write_text(f"<annotation><filename>a.jpg</filename>{size}{objects}</annotation>")
    return ["voc", "xml"]


def run(*words: str) -> int:
    return main([*words, "--image-folder", "photos", "--output", "out.json"])


def pairs(index: int = 0) -> list[tuple[str, str]]:
    turns = [turn["value"] for turn in read_records("out.json")[index]["conversations"]]
    return list(zip(turns[::2], turns[1::2], strict=True))


@pytest.mark.parametrize("tool", [coco, yolo, labelme, via, via_1, via_csv, via_3, voc])
def test_every_tools_export_becomes_the_same_questions(
    folder: Path, tool: Callable[[], list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*tool(), "--to", "pixels") == 0, capsys.readouterr()
    assert pairs() == WANTED
    (record,) = read_records("out.json")
    assert record["image"] == "a.jpg" and record["box_scale"] == "pixels" and record["independent_turns"] is True
    assert "3 in, 3 converted to 1 records, 0 dropped" in capsys.readouterr().out


def test_the_scale_the_questions_and_the_marks_are_chosen(folder: Path) -> None:
    words = ["--to", "square", "--decimals", "2", "--ask", "where", "--most", "1", "--allow-drops", "1"]
    assert run(*coco(), *words) == 0
    assert pairs() == [("<image>\nWhere is the dog?", "[0.10, 0.30, 0.30, 0.45]")]
    meta = json.loads(Path("out.meta.json").read_text())["counts"]
    assert meta["dropped"] == {"too many boxes of one name": 2}
    words = ["--to", "1000", "--marks", "qwen", "--ask", "what", "--what-question", "Name it: {}"]
    assert run("coco-boxes", "coco.json", *words) == 0
    assert pairs()[0] == ("<image>\nName it: <|box_start|>(100,100),(300,400)<|box_end|>", "dog")


def one_object(**changes: Any) -> dict[str, Any]:
    return {"image_id": 1, "category_id": 3, "bbox": [20, 10, 40, 30], **changes}


def test_what_is_no_box_is_dropped_told_and_counted(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    coco()
    value = json.loads(Path("coco.json").read_text())
    value["images"].append({"id": 9, "file_name": "gone.jpg"})
    value["annotations"] = [
        one_object(),
        one_object(bbox=[190, 10, 15, 20]),
        one_object(bbox=[195, 10, 90, 20]),
        one_object(bbox=[10, 10, 0, 20]),
        one_object(bbox=[10, 10, "x", 20]),
        one_object(bbox=[], segmentation=[[10, 10, 30, 10, 30, 30]]),
        one_object(bbox=[], segmentation={"counts": "abc", "size": [100, 200]}),
        one_object(category_id=77),
        one_object(iscrowd=1),
        one_object(image_id=9),
    ]
    Path("coco.json").write_text(json.dumps(value))
    assert run("coco-boxes", "coco.json", "--to", "pixels", "--ask", "what") == 1
    assert [question for question, _ in pairs()] == [
        "<image>\nWhat is in this box? [20, 10, 60, 40]",
        "What is in this box? [190, 10, 200, 30]",
        "What is in this box? [10, 10, 30, 30]",
    ]
    counts = json.loads(Path("out.meta.json").read_text())["counts"]
    assert counts["in"] == 10 and counts["dropped"] == {
        "box not readable": 4, "object without a name": 1, "a crowd, not one object": 1, "image missing": 1,
    }  # fmt: skip
    said = capsys.readouterr()
    assert "the box 195, 10, 285, 30 lies out of the picture of 200 x 100" in said.out
    assert "1 boxes cut at the picture's edge" in said.out and "1 pictures without an object" in said.out
    assert "--allow-drops 0.60" in said.err


def test_boxes_of_stored_pixels_are_turned_with_their_picture(folder: Path) -> None:
    """The export names the stored size of a photo that stands upright: it was made before the turning."""
    Image.new("RGB", (200, 100)).save("photos/a.jpg", exif=only_orientation(6))
    assert run(*coco(), "--to", "pixels") == 0
    assert pairs()[0][1] == "[60, 20, 90, 60]"
    assert run(*yolo(), "--to", "pixels", "--stored") == 0
    assert pairs()[0][1] == "[60, 20, 90, 60]"


def test_a_picture_that_was_resized_is_followed_and_one_that_was_cut_is_not(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.new("RGB", (100, 50)).save("photos/a.jpg")
    assert run(*coco(), "--to", "pixels") == 0
    assert pairs()[0][1] == "[10, 5, 30, 20]"
    Image.new("RGB", (100, 100)).save("photos/a.jpg")
    assert run("coco-boxes", "coco.json") == 1
    assert "the export says 200 x 100, the picture has 100 x 100" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "content", "message"),
    [
        (["coco-boxes", "x.json"], "[]", "expected COCO's object"),
        (["coco-boxes", "x.json"], '{"images": [], "annotations": []}', 'no list "categories"'),
        (["via", "x.json"], '{"a": 1}', "no export of VIA"),
        (["via", "x.csv"], "filename,label\n", 'no column "region_shape_attributes"'),
        (["labelme", "x.json"], '{"a": 1}', "not a file of labelme"),
        (["voc", "x.xml"], "<html></html>", "expected <annotation>"),
        (["voc", "x.xml"], "<!DOCTYPE a [<!ENTITY b 'c'>]><annotation/>", "it defines entities"),
        (["voc", "x.xml"], "<annotation>", "broken XML"),
        (["yolo", "x.txt"], "0 0.5 0.5 0.1 0.1", "no file names its classes; give one with --names"),
        (["yolo", "gone", "--names", "x.txt"], "dog", "no such file or folder"),
        (["via", "x.json", "--where-question", "Where?"], "{}", "write {} once"),
    ],
)
def test_what_is_no_export_is_refused_in_words(
    folder: Path, words: list[str], content: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path(next(word for word in words if word.startswith("x."))).write_text(content)
    assert run(*words) in {1, 2}
    assert message in capsys.readouterr().err
    assert not Path("out.json").exists()


def test_yolos_layouts_find_their_pictures(folder: Path) -> None:
    for place in ("set/images/train", "set/labels/train"):
        Path(place).mkdir(parents=True)
    Image.new("RGB", (100, 100)).save("set/images/train/c.JPG")
    Path("set/labels/train/c.txt").write_text("0 0.5 0.5 0.2 0.2 0.98\n7 0.5 0.5 0.2 0.2\n0 5 5 2 2\n")
    Path("set/classes.txt").write_text("white-rook\n")
    words = ["--output", "out.json", "--to", "pixels", "--allow-drops", "0.7"]
    for source, images in (("set", "set"), ("set/labels", "set/images"), ("set/labels/train", "set/images/train")):
        assert main(["yolo", source, "--image-folder", images, *words]) == 0
        assert pairs()[0] == ("<image>\nWhere is the white-rook?", "[40, 40, 60, 60]")
        dropped = json.loads(Path("out.meta.json").read_text())["counts"]["dropped"]
        assert dropped == {"object without a name": 1, "box not readable": 1}


def test_yolos_names_are_taken_as_they_are_written(folder: Path) -> None:
    """A mark at a file's beginning is no part of a name, an empty line has its number, and `no` is a word."""
    Path("labels").mkdir()
    Path("labels/a.txt").write_bytes(b"\xef\xbb\xbf2 0.5 0.5 0.2 0.2\r\n")
    marked = "\ufeffcar\r\n\r\nno\r\n".encode()
    for name, content in (("classes.txt", marked), ("a.yaml", b"names: [car, '', no]"), ("b.yml", b"names: {2: no}")):
        Path(name).write_bytes(content)
        assert run("yolo", "labels", "--names", name) == 0
        assert pairs()[0][0] == "<image>\nWhere is the no?"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("names:\n- dog\n- [cat, rat]\n", "names, class 1: expected a text, found a list"),
        ("names: " + "[" * 3000, "nested too deeply"),
        ("names: {x: dog}", 'no "names" in it'),
    ],
)
def test_names_that_are_no_texts_are_refused(
    folder: Path, content: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("x.txt").write_text("0 0.5 0.5 0.1 0.1")
    Path("data.yaml").write_text(content)
    assert run("yolo", "x.txt", "--names", "data.yaml") == 1
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("tool", "old", "new"),
    [
        (coco, '"width": 200, "height": 100', '"width": "400", "height": " 200.0 "'),
        (labelme, '"imageWidth": 200, "imageHeight": 100', '"imageWidth": "400", "imageHeight": 200.0'),
        (voc, "<width>200</width><height>100<", "<width> 400 </width><height>200.0<"),
    ],
)
def test_a_size_that_is_written_as_text_is_a_size(
    folder: Path, tool: Callable[[], list[str]], old: str, new: str
) -> None:
    words = tool()
    (file,) = (path for name in ("coco.json", "marks/a.json", "xml/a.xml") if (path := Path(name)).exists())
    assert old in file.read_text()
    file.write_text(file.read_text().replace(old, new))
    assert run(*words, "--to", "pixels") == 0
    assert pairs()[0][1] == "[10, 5, 30, 20]", "the picture has half of the sides that the export names"


@pytest.mark.parametrize("side", ["Infinity", "NaN", '"x"', "null", "[1]", "true", "-5", "0.5"])
def test_what_is_no_size_is_none(folder: Path, side: str) -> None:
    words = coco()
    file = Path("coco.json")
    file.write_text(file.read_text().replace('"width": 200', f'"width": {side}'))
    assert run(*words, "--to", "pixels") == 0
    assert pairs() == WANTED


def test_a_crowd_says_so_and_a_name_is_a_text(folder: Path) -> None:
    coco()
    value = json.loads(Path("coco.json").read_text())
    value["annotations"] = [one_object(iscrowd="0"), one_object(category_id=8)]
    value["categories"].append({"id": 8, "name": None})
    Path("coco.json").write_text(json.dumps(value))
    assert run("coco-boxes", "coco.json", "--to", "pixels", "--allow-drops", "0.5") == 0
    assert pairs() == [WANTED[0], WANTED[2]]
    counts = json.loads(Path("out.meta.json").read_text())["counts"]
    assert counts["dropped"] == {"object without a name": 1}


@pytest.mark.parametrize("tool", [voc, labelme, yolo])
def test_a_fifo_among_the_files_is_not_waited_for(folder: Path, tool: Callable[[], list[str]]) -> None:
    words = tool()
    os.mkfifo(Path(words[1], f"z{next(Path(words[1]).glob('a.*')).suffix}"))
    assert run(*words, "--to", "pixels", "--allow-drops", "0.3") == 0
    assert pairs() == WANTED


def test_entities_are_refused_in_utf_16_too(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("x.xml").write_bytes("<!DOCTYPE a [<!ENTITY b 'c'>]><annotation/>".encode("utf-16"))
    assert run("voc", "x.xml") == 1
    assert "it defines entities" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("tool", "old", "new"),
    [
        (via, '"name": "rect"', '"name": ["rect"]'),
        (labelme, '"label": "dog"', '"label": ["dog", "cat"]'),
        (via, '{"label": "dog"}', '{"label": ["dog", "cat"]}'),
        (voc, "<xmin>21<", "<xmin>&#49;nan<"),
    ],
)
def test_a_shape_or_a_name_of_another_type_is_dropped(
    folder: Path, tool: Callable[[], list[str]], old: str, new: str
) -> None:
    words = tool()
    (file,) = (path for name in ("via.json", "marks/a.json", "xml/a.xml") if (path := Path(name)).exists())
    assert old in file.read_text()
    file.write_text(file.read_text().replace(old, new, 1))
    assert run(*words, "--to", "pixels", "--allow-drops", "0.7") == 0
    assert sum(json.loads(Path("out.meta.json").read_text())["counts"]["dropped"].values()) >= 1


def test_a_labelme_shape_of_no_known_type_is_what_its_points_span(folder: Path) -> None:
    words = labelme()
    file = Path("marks/a.json")
    file.write_text(file.read_text().replace('"shape_type": "rectangle"', '"shape_type": ["rectangle"]'))
    assert run(*words, "--to", "pixels") == 0
    assert pairs() == WANTED


@pytest.mark.parametrize("name", ["a\0.jpg", "\ud800.jpg", "http://[a.jpg"])
def test_a_name_that_no_file_can_have_is_a_missing_picture(
    folder: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    shapes = [{"label": "dog", "points": [[1, 2], [30, 40]]}]
    Path("x.json").write_text(json.dumps({"imagePath": name, "shapes": shapes}))
    assert run("labelme", "x.json") == 1
    assert "image missing" in capsys.readouterr().err


def test_a_link_beside_a_labelme_file_is_its_picture(folder: Path) -> None:
    Path("photos/sub").mkdir()
    Path("photos/sub/a.jpg").symlink_to("../b.png")
    value = {"imagePath": "a.jpg", "shapes": [{"label": "dog", "points": [[1, 2], [30, 40]]}]}
    Path("photos/sub/a.json").write_text(json.dumps(value))
    assert run("labelme", "photos") == 0
    assert read_records("out.json")[0]["image"] == "sub/a.jpg", "photos/a.jpg is another picture of that name"


@pytest.mark.parametrize(
    ("tail", "code", "message"),
    [
        ("a.jpg,12,{},2,1\n", 0, "line 6: cut off, it has too few cells"),
        (f'a.jpg,12,{{}},2,1,"{{""name"": ""{"x" * 200_000}""}}",{{}}\n', 0, "xxx"),
        ('a.jpg,12,{},2,1,"{},{}\n' + "a.jpg,12,{},2,1,{},{}\n" * 9, 1, "look for a quote that is opened"),
    ],
)
def test_a_broken_line_of_vias_csv_is_told(
    folder: Path, tail: str, code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = via_csv()
    Path("via.csv").write_text(Path("via.csv").read_text() + tail)
    assert run(*words, "--to", "pixels", "--allow-drops", "0.3") == code
    said = capsys.readouterr()
    assert message in said.out + said.err
    assert Path("out.json").exists() == (not code)


def test_a_typed_name_of_via_3_keeps_its_commas(folder: Path) -> None:
    words = via_3()
    value = json.loads(Path("via3.json").read_text())
    value["attribute"]["1"]["options"] = {}
    value["metadata"] = {"0": {**value["metadata"]["0"], "av": {"1": "dog, brown"}}}
    Path("via3.json").write_text(json.dumps(value))
    assert run(*words, "--to", "pixels") == 0
    assert pairs()[0][0] == "<image>\nWhere is the dog, brown?"


def test_questions_may_hold_braces_of_their_own(folder: Path) -> None:
    words = ["--where-question", 'Find {} as {"bbox": [..]}', "--ask", "where"]
    assert run(*coco(), *words) == 0
    assert pairs()[0][0] == '<image>\nFind dog as {"bbox": [..]}'


def test_a_folder_that_cannot_be_read_is_no_empty_one(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words, scandir = voc(), os.scandir
    Path("xml/closed").mkdir()

    def closed(place: Any) -> Any:
        if str(place).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(place))
        return scandir(place)

    monkeypatch.setattr(os, "scandir", closed)
    assert run(*words) == 1
    assert "closed: cannot be read (Permission denied)" in capsys.readouterr().err
    assert not Path("out.json").exists()


def test_boxes_of_a_turned_photo_are_counted_as_cut_by_its_upright_sides(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.new("RGB", (200, 100)).save("photos/a.jpg", exif=only_orientation(6))
    coco()
    value = json.loads(Path("coco.json").read_text())
    value["images"][0] |= {"width": 100, "height": 200}
    value["annotations"] = [one_object(bbox=[80, 10, 30, 20]), one_object(bbox=[10, 150, 20, 50.5])]
    Path("coco.json").write_text(json.dumps(value))
    assert run("coco-boxes", "coco.json", "--to", "pixels") == 0
    assert "1 boxes cut at the picture's edge" in capsys.readouterr().out


POSE = "0.5 0.5 0.2 0.4"


@pytest.mark.parametrize(
    ("lines", "yaml", "words"),
    [
        ([f"{POSE} 0.45 0.4 2 0.5 0.6 1 0 0 0"], "", []),  # an odd count
        ([f"{POSE} 0.45 0.4 2 0.5 0.6 1"], "", []),  # a visibility of 2
        ([f"{POSE} 0.45 0.4 1 0.5 0.6 0 0.5 0.5 1 0.5 0.5 1"], "", []),  # four visibilities
        ([f"{POSE} 0.45 0.4 0.5 0.6"], "kpt_shape: [2, 2]\n", []),
        ([f"{POSE} 0.45 0.4 0.5 0.6 0.93"], "kpt_shape: [2, 2]\n", []),  # with a confidence
        ([f"{POSE} 0.45 0.4 0.5 0.6"], "", ["--lines", "key-points"]),
    ],
)
def test_a_pose_is_its_box_and_no_outline(
    lines: list[str], yaml: str, words: list[str], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("labels").mkdir()
    Path("labels/b.txt").write_text("\n".join(f"0 {line}" for line in lines))
    Path("data.yaml").write_text(f"{yaml}names: [person]\n")
    assert run("yolo", "labels", "--to", "pixels", *words) == 0
    assert pairs()[0] == ("<image>\nWhere is the person?", "[40, 30, 60, 70]")
    assert "lines hold a box and key points: the boxes are read" in capsys.readouterr().out


def test_what_can_be_outlines_or_poses_is_asked_for(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("labels").mkdir()
    Path("labels/b.txt").write_text(f"0 {POSE} 0.45 0.4 0.5 0.6\n")
    Path("data.yaml").write_text("names: [person]\n")
    assert run("yolo", "labels", "--to", "pixels") == 1
    said = capsys.readouterr().err
    assert (
        "labels: 1 lines of 8 numbers can be outlines of 4 points, or a box and 2 key points; give the data.y" in said
    )
    assert run("yolo", "labels", "--to", "pixels", "--lines", "outlines") == 0
    assert pairs()[0][1] == "[20, 40, 50, 60]"
    # Outlines of other lengths, and one with a point beyond "its box", are told by themselves.
    for more in ("0 0.2 0.3 0.3 0.3 0.25 0.4\n", "0 0.2 0.3 0.3 0.3 0.25 0.9 0.2 0.9\n"):
        Path("labels/a.txt").write_text(more)
        assert run("yolo", "labels", "--to", "pixels") == 0
    Path("data.yaml").write_text("kpt_shape: [17, 3]\nnames: [person]\n")
    assert run("yolo", "labels") == 1
    assert "numbers behind the class; kpt_shape [17, 3] means 55" in "".join(capsys.readouterr())
    Path("data.yaml").write_text("kpt_shape: [17, x]\nnames: [person]\n")
    assert run("yolo", "labels") == 1
    assert "kpt_shape: expected how many key points and 2 or 3" in capsys.readouterr().err


def test_an_annotation_of_no_picture_is_dropped_and_counted(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = coco()
    value = json.loads(Path("coco.json").read_text())
    value["annotations"].append(one_object(image_id=77))
    Path("coco.json").write_text(json.dumps(value))
    assert run(*words, "--to", "pixels") == 1
    assert pairs() == WANTED
    said = capsys.readouterr()
    assert 'coco.json annotation 4: picture 77 is not under "images"' in said.out
    assert "--allow-drops 0.25" in said.err
    value["annotations"] = [{"image_id": 1, "caption": "a dog"}, {"image_id": 77, "caption": "a cat"}]
    Path("coco.json").write_text(json.dumps(value))
    assert run("captions", "coco.json", "--allow-drops", "0.5") == 0
    assert 'annotation 2: picture 77 is not under "images"' in capsys.readouterr().out


def test_a_path_of_another_machine_is_the_one_file_that_fits(folder: Path) -> None:
    for words in (coco(), via()):
        file = Path(words[1])
        file.write_text(file.read_text().replace('"a.jpg"', json.dumps("D:\\data\\train\\a.jpg")))
        assert run(*words, "--to", "pixels") == 0
        assert pairs() == WANTED and read_records("out.json")[0]["image"] == "a.jpg"


@pytest.mark.parametrize(("words", "problem"), [
    ([], "several attributes (species, age); say which holds an object's name: --label species"),
    (["--label", "kind"], "no attribute 'kind', only species, age; say which holds an object's name: --label species"),
    (["--label", "species"], ""),
])  # fmt: skip
def test_of_several_attributes_the_name_is_asked_for(
    words: list[str], problem: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = via()
    Path("via.json").write_text(Path("via.json").read_text().replace('{"label": ', '{"species": "dog", "age": '))
    assert run(*command, *words) == (1 if problem else 0)
    assert problem in "".join(capsys.readouterr())


@pytest.mark.parametrize("line", ["0,0.5,0.5,0.2,0.4", "0, 0.5, 0.5, 0.2, 0.4,", "0;0.5;0.5;0.2;0.4"])
def test_commas_may_stand_between_yolos_numbers_and_never_in_them(
    line: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("labels").mkdir()
    Path("labels/b.txt").write_text(f"{line}\n")
    Path("data.yaml").write_text("names: [person]\n")
    assert run("yolo", "labels", "--to", "pixels") == 0
    assert pairs()[0] == ("<image>\nWhere is the person?", "[40, 30, 60, 70]")
    for decimal in ("0 0,5 0,5 0,2 0,4", "0;0,5;0,5;0,2;0,4"):
        Path("labels/b.txt").write_text(f"{line}\n{decimal}\n")
        assert run("yolo", "labels", "--to", "pixels") == 1
        assert "write numbers with points (0.5) and blanks between them" in capsys.readouterr().out
