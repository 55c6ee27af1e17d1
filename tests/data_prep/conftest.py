"""Pictures and a folder of sources, drawn by script, for every command of docs/data.md."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image, ImageDraw

from tests.data_prep.others import write_others


def draw(path: Path, seed: int, size: tuple[int, int] = (80, 60)) -> Path:
    """A picture that differs from every other seed's, in the format of its ending."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new("RGB", size, (40 * seed % 256, 90 * seed % 256, 200 - 30 * seed % 200))
    x = 7 * seed % (size[0] // 2)
    ImageDraw.Draw(image).rectangle((x, x // 2, x + 25, x // 2 + 20 + seed), fill=(250 - 23 * seed % 250, 30, 60))
    if path.suffix == ".heic":
        from pillow_heif import register_heif_opener

        register_heif_opener()
    image.save(path)
    return path


PEAK = """
print(next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""
needs_proc = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from Linux's /proc")


def printed_and_peak(code: str, *words: object, **variables: str) -> tuple[str, int]:
    """What `code` prints in a process of its own, and the most memory that this one had, in bytes."""
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", code + PEAK, *map(str, words)]
    environment = {**os.environ, **variables}
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    *printed, peak = done.stdout.splitlines()
    return "\n".join(printed), int(peak)


def record(name: str, image: str, question: str = "<image>\nWhat?", answer: str = "a dog") -> dict[str, object]:
    turns = [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
    return {"id": name, "image": image, "conversations": turns}


@pytest.fixture
def sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder that the commands of docs/data.md expect."""
    monkeypatch.chdir(tmp_path)
    for number in range(6):
        draw(tmp_path / f"photos/{number}.jpg", number)
        draw(tmp_path / f"coco/COCO_train2014_{number:012d}.jpg", number)
    questions = [{"image_id": n // 2, "question_id": n, "question": f"What is {n}?"} for n in range(12)]
    answers = [[{"answer": f"thing {n % 3}"}] * 6 + [{"answer": "a box"}] * 4 for n in range(12)]
    annotations = [{"question_id": n, "answers": answers[n]} for n in range(12)]
    (tmp_path / "questions.json").write_text(json.dumps({"questions": questions}))
    (tmp_path / "annotations.json").write_text(json.dumps({"annotations": annotations}))
    rows = "".join(f"{n}.jpg,What is it?,piece {n}\n" for n in range(6))
    (tmp_path / "table.csv").write_text("image,question,answer\n" + rows)
    (tmp_path / "filled.csv").write_text("image,caption\n" + "".join(f"{n}.jpg,a piece {n}\n" for n in range(6)))
    broken = [record("a", "0.jpg", "What?"), record("b", "1.jpg"), record("c", "gone.jpg")]
    (tmp_path / "broken.json").write_text(json.dumps(broken))
    (tmp_path / "phrasings.txt").write_text("What is this?\nWhich piece do you see?\n")
    write_preferences(tmp_path)
    _write_parquet(tmp_path)
    _write_coco(tmp_path)
    write_others(tmp_path)
    return tmp_path


def write_preferences(folder: Path) -> None:
    """A file of every layout of two answers, about 0.jpg, 1.jpg and 2.jpg."""
    said = [("0.jpg", "yes"), ("1.jpg", "No."), ("2.jpg", "Yes, a dog.")]
    rows: list[dict[str, object]] = [
        {"id": f"p{n}", "turn": 0, "image": image, "question": "Is there a dog?", "answer": answer, "reference": "no",
         "answers": None, "truncated": False} for n, (image, answer) in enumerate(said)
    ]  # fmt: skip
    (folder / "predictions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    two = {"chosen": "a cat", "rejected": "a dog on a sofa"}
    rows = [{"image": f"{n}.jpg", "question": "What is it?", **two, "origin_dataset": "x"} for n in range(3)]
    (folder / "rlaif.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    parts = [{"type": "image"}, {"type": "text", "text": "What is it?"}]
    sides = {key: [{"role": "assistant", "content": [{"type": "text", "text": text}]}] for key, text in two.items()}
    asked = [{"role": "user", "content": parts}]
    whole = {key: [*asked, *answer] for key, answer in sides.items()}
    rows = [{"images": ["0.jpg"], "prompt": asked, **sides}, {"images": ["1.jpg"], **whole},
            {"images": ["2.jpg"], "prompt": "What is it?", **two}]  # fmt: skip
    (folder / "trl.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    asked_of = {"question": "Is there a dog?", "answer": "yes", "chosen": "No.", "reject": "Yes."}
    (folder / "pope_data.json").write_text(
        json.dumps([{"image_id": n, **asked_of, "correct": False} for n in range(2)])
    )
    described = {"chosen": ["A cat.", "One cat."], "rejected": ["A dog.", "Two dogs."]}
    (folder / "desc_data.json").write_text(json.dumps({"0": described, "1": described}))


def _write_coco(folder: Path) -> None:
    images = [{"id": n, "file_name": f"COCO_train2014_{n:012d}.jpg", "width": 80, "height": 60} for n in range(3)]
    captions = [{"image_id": n % 3, "caption": f"a thing {n}"} for n in range(6)]
    boxes = [{"image_id": 0, "category_id": 1, "bbox": [8, 6, 40, 30]}]
    (folder / "captions_train.json").write_text(json.dumps({"images": images, "annotations": captions}))
    instances = {"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "dog"}]}
    (folder / "instances_train.json").write_text(json.dumps(instances))
    qwen = record("dog", images[0]["file_name"], answer="<|box_start|>(100,100),(600,600)<|box_end|>")
    (folder / "qwen-boxes.json").write_text(json.dumps([qwen]))
    _write_boxes(folder)


def _write_boxes(folder: Path) -> None:
    """One dog in 0.jpg, as four annotation tools export it."""
    for name in ("labels", "marks", "xml"):
        (folder / name).mkdir()
    (folder / "labels/0.txt").write_text("0 0.35 0.35 0.5 0.5\n")
    (folder / "classes.txt").write_text("dog\n")
    shape = {"label": "dog", "shape_type": "rectangle", "points": [[8, 6], [48, 36]]}
    (folder / "marks/0.json").write_text(json.dumps({"imagePath": "0.jpg", "shapes": [shape]}))
    region = {"shape_attributes": {"name": "rect", "x": 8, "y": 6, "width": 40, "height": 30}}
    region["region_attributes"] = {"label": "dog"}
    (folder / "via.json").write_text(json.dumps({"0.jpg9": {"filename": "0.jpg", "regions": [region]}}))
    edges = "<xmin>9</xmin><ymin>7</ymin><xmax>48</xmax><ymax>36</ymax>"
    content = f"<filename>0.jpg</filename><object><name>dog</name><bndbox>{edges}</bndbox></object>"
    (folder / "xml/0.xml").write_text(f"<annotation>{content}</annotation>")


def _write_parquet(folder: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    rows = []
    for number in range(6):
        content = [{"type": "text", "text": "What is it?"}, {"type": "image", "text": None}]
        answer = [{"type": "text", "text": f"thing {number}"}]
        messages = [{"role": "user", "content": content}, {"role": "assistant", "content": answer}]
        raw = (folder / f"photos/{number}.jpg").read_bytes()
        rows.append({"messages": messages, "images": [{"bytes": raw, "path": None}]})
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "messages.parquet")
    rows = [
        {"image": row["images"][0], "question": f"What is {n}?", "answers": ["a box", "a box", "a thing"]}
        for n, row in enumerate(rows)
    ]
    for split, some in (("train", rows[:3]), ("validation", rows[3:])):
        (folder / "mirror").mkdir(exist_ok=True)
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(some), folder / f"mirror/{split}-00000.parquet")
