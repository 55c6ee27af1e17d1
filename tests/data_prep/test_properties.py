"""For any valid source: rows in are records and drops, texts and order stay, and upstream's own loader takes them."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.__main__ import main
from data_prep.records.record import read_records
from tests.data_prep.conftest import draw

LETTERS = st.characters(codec="utf-8", exclude_categories=("Cs", "Cc", "Cn", "Zl", "Zp"), exclude_characters="<>|[]")
TEXT = st.text(st.one_of(st.sampled_from("aZ0 ,;'\"\n\t?.é\u5199"), LETTERS), min_size=1, max_size=24).filter(
    lambda text: text.strip() == text
)
NUM_PICTURES = 4
LENIENT = ("--check", "records", "--allow-drops", "1")


class Item(NamedTuple):
    """A row of a source: its picture (NUM_PICTURES: one that is not there), question and answer."""

    picture: int
    question: str
    answer: str

    @property
    def image(self) -> str:
        return f"COCO_train2014_{self.picture:012d}.jpg"


ITEMS = st.lists(st.builds(Item, st.integers(0, NUM_PICTURES), TEXT, TEXT), min_size=1, max_size=8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pictures that every source names."""
    place = tmp_path_factory.mktemp("properties")
    for number in range(NUM_PICTURES):
        draw(place / f"images/COCO_train2014_{number:012d}.jpg", number, (24, 20))
    return place


@pytest.fixture(scope="module")
def upstream(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path, Path], list[dict[str, Any]]]:
    """Upstream's LazySupervisedDataset over a records file, every item taken."""
    import transformers
    from llava import conversation as conversations
    from llava.train import train

    from tests.tiny import make_tiny_llava

    model = make_tiny_llava(tmp_path_factory.mktemp("tiny") / "model")
    tokenizer = transformers.AutoTokenizer.from_pretrained(model, use_fast=False, model_max_length=2048)
    tokenizer.pad_token = tokenizer.unk_token
    processor = transformers.CLIPImageProcessor.from_pretrained(model / "clip")
    conversations.default_conversation = conversations.conv_templates["v1"]

    def load(records: Path, images: Path) -> list[dict[str, Any]]:
        arguments = SimpleNamespace(
            image_folder=str(images), image_processor=processor, image_aspect_ratio="pad", is_multimodal=True,
            mm_use_im_start_end=False,
        )  # fmt: skip
        loaded = train.LazySupervisedDataset(str(records), tokenizer, arguments)
        assert all(length > 0 for length in loaded.modality_lengths)
        return [loaded[number] for number in range(len(loaded))]

    return load


def write_csv(items: list[Item], place: Path) -> list[str]:
    with (place / "s.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(("image", "question", "answer"))
        writer.writerows((item.image, item.question, item.answer) for item in items)
    return ["table", str(place / "s.csv"), "--image-folder", str(place / "images")]


def write_jsonl(items: list[Item], place: Path) -> list[str]:
    rows = ({"image": item.image, "question": item.question, "answer": item.answer} for item in items)
    (place / "s.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return ["table", str(place / "s.jsonl"), "--image-folder", str(place / "images")]


def write_vqa(items: list[Item], place: Path) -> list[str]:
    questions = [{"image_id": i.picture, "question_id": n, "question": i.question} for n, i in enumerate(items)]
    annotations = [{"question_id": n, "answers": [{"answer": i.answer}] * 10} for n, i in enumerate(items)]
    (place / "q.json").write_text(json.dumps({"data_subtype": "train2014", "questions": questions}))
    (place / "a.json").write_text(json.dumps({"annotations": annotations}), encoding="utf-8")
    words = ["okvqa", "--questions", str(place / "q.json"), "--annotations", str(place / "a.json"), "--suffix", ""]
    return [*words, "--image-folder", str(place / "images")]


def write_messages(items: list[Item], place: Path) -> list[str]:
    rows = []
    for item in items:
        picture = place / "images" / item.image
        raw = picture.read_bytes() if picture.exists() else b"no picture"
        parts = [{"type": "image", "text": None}, {"type": "text", "text": item.question}]
        answer = [{"type": "text", "text": item.answer}]
        messages = [{"role": "user", "content": parts}, {"role": "assistant", "content": answer}]
        rows.append({"messages": messages, "images": [{"bytes": raw, "path": None}]})
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), place / "s.parquet")
    return ["hf", str(place / "s.parquet"), "--image-folder", str(place / "hf")]


def write_questions(items: list[Item], place: Path) -> list[str]:
    rows = []
    for item in items:
        picture = place / "images" / item.image
        image = {"bytes": picture.read_bytes() if picture.exists() else b"no picture", "path": None}
        rows.append({"image": image, "question": item.question, "answers": [item.answer]})
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), place / "s.parquet")
    return ["hf", str(place / "s.parquet"), "--image-folder", str(place / "hf")]


SOURCES = {
    "csv": write_csv, "jsonl": write_jsonl, "okvqa": write_vqa, "messages": write_messages, "question": write_questions,
}  # fmt: skip


@pytest.mark.parametrize("source", sorted(SOURCES))
def test_a_valid_source_comes_through_whole_and_upstream_takes_it(
    source: str, folder: Path, upstream: Callable[[Path, Path], list[dict[str, Any]]]
) -> None:
    @settings(max_examples=12, deadline=None)
    @given(ITEMS)
    def holds(items: list[Item]) -> None:
        output = folder / "r.json"
        output.unlink(missing_ok=True)
        words = SOURCES[source](items, folder)
        images = Path(words[words.index("--image-folder") + 1])
        kept = [item for item in items if item.picture < NUM_PICTURES]
        assert main([*words, "--output", str(output), *LENIENT]) == (0 if kept else 1)
        if not kept:
            assert not output.exists()
            return
        counts = json.loads((folder / "r.meta.json").read_text(encoding="utf-8"))["counts"]
        assert counts["in"] == len(items) == counts["converted"] + sum(counts["dropped"].values())
        records = list(read_records(output))
        texts = [[turn["value"] for turn in record["conversations"]] for record in records]
        assert texts == [[f"<image>\n{item.question}", item.answer] for item in kept]
        for one, record in zip(upstream(output, images), records, strict=True):
            assert (one["input_ids"] == -200).sum() == 1, record
            assert (one["labels"] != -100).sum() > 0, record

    holds()


@settings(max_examples=40, deadline=None)
@given(st.lists(TEXT, min_size=1, max_size=6))
def test_captions_come_through_unchanged_for_stage_one(folder: Path, captions: list[str]) -> None:
    rows = [
        {"image": f"COCO_train2014_{n % NUM_PICTURES:012d}.jpg", "caption": text} for n, text in enumerate(captions)
    ]
    (folder / "c.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ["captions", str(folder / "c.jsonl"), "--image-folder", str(folder / "images"), "--pretrain"]
    assert main([*words, "--output", str(folder / "c.json"), "--check", "records"]) == 0
    turns = [[turn["value"] for turn in record["conversations"]] for record in read_records(folder / "c.json")]
    assert turns == [["<image>", text] for text in captions]
