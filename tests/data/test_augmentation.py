"""Varied pictures keep every answer true: what words forbid stays, boxes move, and a resumed run sees the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image, ImageDraw

from data_prep.boxes.box import Box
from data_prep.boxes.notation import read_boxes
from data_prep.boxes.scale import Scale
from llava_finetune.config.augmenting import KINDS, asked_kinds
from llava_finetune.data.allowed_changes import allowed
from llava_finetune.data.augmentation import Augmentation
from llava_finetune.data.example import Example, Picture
from llava_finetune.data.layout import unique_pictures
from llava_finetune.data.unreadable_pictures import WithSubstitutes
from llava_finetune.data.varied_records import VariedRecords
from llava_finetune.errors import UsageError

ALL = frozenset(KINDS)


def record(question: str, answer: str, **more: Any) -> dict[str, Any]:
    turns = [{"from": "human", "value": f"<image>\n{question}"}, {"from": "gpt", "value": answer}]
    return {"id": "a", "image": "a.png", "conversations": turns, **more}


@pytest.mark.parametrize(
    ("question", "answer", "kinds"),
    [
        ("Which chess piece is this?", "a rook", "crop flip light colour"),
        ("What colour is the car?", "red", "crop flip light"),
        ("Which chess piece is this?", "a white knight", "crop flip"),
        ("What is on the left?", "a dog", "light colour"),
        ("Which way does it face?", "It is facing the house.", "light colour"),
        ("What does the sign say?", "stop", "light colour"),
        ("Which firm is it?", 'It is "Acme".', "light colour"),
        ("Which firm is it?", "IBM", "light colour"),
        ("How many dogs are there?", "3", "flip light colour"),
        ("Is there a dog?", "yes", "flip light colour"),
        ("What is the price?", "five dollars", "light colour"),
        ("Which direction does the arrow point?", "up", "light colour"),
        ("What is the traffic light showing?", "stop", "crop flip"),
        ("What is her hair like?", "auburn", "crop flip light"),
        ("What is shown?", "\u4e09 dogs", "light"),
        ("Is it day or night?", "night", "crop flip colour"),
        ("Where is the dog?", "on the chair", "flip light colour"),
        ("Where is the dog?", "[0.10, 0.20, 0.50, 0.60]", "flip light colour"),
        ("What is in this box? [0.10, 0.20, 0.50, 0.60]", "dog", "flip light colour"),
        ("Where is the dog on the right?", "[0.10, 0.20, 0.50, 0.60]", "light colour"),
        ("Where is the dog?", "[10, 20, 50, 60]", "light colour"),
        ("Where is the dog?", "at (120, 45)", "light colour"),
        ("Where is the dog?", "<box>there</box>", "light colour"),
        ("Welche Figur?", "ein Turm links", "light"),
        ("Was ist in der linken Ecke?", "ein Turm", "light"),
        ("Décris l'image.", "Un chat est à gauche.", "light"),
        ("¿Qué hay a la izquierda?", "un perro", "light"),
        ("Farbe?\nAnswer the question using a single word or phrase.", "rot", "light"),
    ],
)
def test_words_decide_what_may_change(question: str, answer: str, kinds: str) -> None:
    assert allowed(record(question, answer)) == frozenset(kinds.split())


@pytest.mark.parametrize("turns", [None, 5, [{"from": "human"}], [{"from": "human", "value": 3}], ["Hi"]])
def test_a_record_without_texts_is_not_changed(turns: Any) -> None:
    assert not allowed({"id": "a", "image": "a.png", "conversations": turns})


def test_a_scale_that_the_record_names_lets_its_boxes_move() -> None:
    assert "flip" in allowed(record("Where is the dog?", "[10, 20, 50, 60]", box_scale="pixels"))
    for scale in ("square", "normalised"):
        assert "crop" in allowed(record("Where is the dog?", "[0.1, 0.2, 0.5, 0.6]", box_scale=scale))
    two = {**record("What differs?", "a dog"), "image": ["a.png", "b.png"]}
    assert allowed(two) == {"light", "colour"}
    assert not allowed({"conversations": two["conversations"]})


def drawn(box: Box, size: tuple[int, int] = (200, 120)) -> Image.Image:
    picture = Image.new("RGB", size, (0, 0, 255))
    ImageDraw.Draw(picture).rectangle((box.left, box.top, box.right - 1, box.bottom - 1), fill=(255, 0, 0))
    return picture


@pytest.mark.parametrize("scale", Scale)
def test_a_box_stays_on_what_it_encloses(scale: Scale) -> None:
    """In forty epochs of cuts and mirrorings the moved answer encloses the red rectangle of the changed picture."""
    from data_prep.boxes.notation import box_text

    size, box = (200, 120), Box(50, 30, 90, 80)
    text = f"It is at {box_text(scale.of_pixels(box, size), scale)}."
    one = record("Where is the red thing?", text, box_scale=scale.value)
    changes = set()
    for epoch in range(40):
        varied = Augmentation(ALL, 1).varied(one, [drawn(box)], 5, epoch)
        (image,) = varied.images
        answer = varied.record["conversations"][1]["value"]
        (read,) = read_boxes(answer).boxes
        moved = scale.to_pixels(read.numbers, image.size)
        red = Box(*(image.getchannel("R").point(lambda value: 255 * (value > 120)).getbbox() or ()))
        assert max(abs(a - b) for a, b in zip(moved, red, strict=True)) <= 1, (varied.done, answer)
        assert answer.startswith("It is at [") and answer.endswith("].")
        changes |= {word.split()[0] for word in varied.done}
    assert {"cut", "mirrored", "light"} <= changes and "colour" not in changes, "a colour is named"


def test_shares_without_a_scale_are_moved_as_those_of_picture_and_square_alike() -> None:
    """What is done to them is right in both readings: the answer is the one of each record that names its scale."""
    one = record("Where is the red thing?", "[0.250, 0.400, 0.500, 0.600]")
    found = set()
    for epoch in range(20):
        answers = []
        for said in ({}, {"box_scale": "square"}, {"box_scale": "normalised"}):
            varied = Augmentation(frozenset({"flip"}), 1).varied({**one, **said}, [drawn(Box(5, 5, 9, 9))], 5, epoch)
            answers.append(varied.record["conversations"][1]["value"])
        assert len({*answers}) == 1
        cut = Augmentation(frozenset({"crop"}), 1).varied(one, [drawn(Box(5, 5, 9, 9))], 5, epoch)
        assert cut.done == ()
        found |= {*answers}
    assert found == {"[0.250, 0.400, 0.500, 0.600]", "[0.500, 0.400, 0.750, 0.600]"}


def test_the_record_itself_is_never_changed() -> None:
    one = record("Where is the thing?", "[0.25, 0.25, 0.45, 0.67]")
    before, picture = repr(one), drawn(Box(50, 30, 90, 80))
    pixels = picture.tobytes()
    for epoch in range(10):
        Augmentation(ALL, 1).varied(one, [picture], 5, epoch)
    assert repr(one) == before and picture.tobytes() == pixels


def test_what_is_drawn_depends_on_seed_epoch_and_record_alone() -> None:
    one, picture = record("Which piece is this?", "a rook"), drawn(Box(5, 5, 60, 90))

    def seen(seed: int, epoch: int, index: int, kinds: frozenset[str] = ALL) -> tuple[bytes, tuple[str, ...]]:
        varied = Augmentation(kinds, seed).varied(one, [picture], index, epoch)
        return varied.images[0].tobytes(), varied.done

    assert seen(1, 2, 3) == seen(1, 2, 3)
    assert len({seen(1, epoch, 3)[0] for epoch in range(8)}) > 4
    assert len({seen(1, 2, index)[0] for index in range(8)}) > 4
    assert seen(1, 2, 3) != seen(2, 2, 3)
    assert not seen(1, 2, 3, frozenset())[1]


def test_the_flag_names_kinds() -> None:
    assert asked_kinds(None) == asked_kinds("False") == frozenset()
    assert asked_kinds("True") == ALL and asked_kinds("flip, Light") == {"flip", "light"}
    with pytest.raises(UsageError, match="--augment spin: no kind 'spin'; there are crop, flip, light, colour"):
        asked_kinds("spin")


def test_kept_features_and_shared_pictures_exclude_varied_ones() -> None:
    from llava_finetune.config.arguments import parse

    words = "--model_name_or_path m --data_path d.json --output_dir o --augment True --cache_features kept"
    with pytest.raises(UsageError, match="--augment True contradicts --cache_features kept: kept features are"):
        parse(words.split())
    words = "--model_name_or_path m --data_path d.json --output_dir o --augment flip --share_pictures True"
    with pytest.raises(UsageError, match="--augment flip contradicts --share_pictures True: each record has its own"):
        parse(words.split())


class Whole:
    """An encoder whose tower takes the picture as it is."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def paths(self, record: dict[str, Any]) -> list[Path]:
        return [self.folder / record["image"]]

    def prepared(self, path: Path, image: Image.Image) -> Any:
        values = torch.frombuffer(bytearray(image.resize((8, 8)).tobytes()), dtype=torch.uint8)
        return Picture(str(path), image.size, values)

    def example(self, record: dict[str, Any], index: int, pictures: Any) -> Example:
        letters = torch.tensor([ord(letter) for letter in record["conversations"][1]["value"]])
        return Example(str(index), letters, letters, len(letters), pictures=pictures, index=index)


def test_loading_processes_that_stay_see_each_epoch_begin(tmp_path: Path) -> None:
    """What two processes load in epochs 0, 1 and 2 is what one loads that begins at epoch 2: a run that was resumed."""
    drawn(Box(50, 30, 90, 80)).save(tmp_path / "a.png")
    records = [record("Where is the thing?", "[0.25, 0.25, 0.45, 0.67]")] * 6

    def loader(workers: int) -> Any:
        varied = VariedRecords(records, Whole(tmp_path), False, Augmentation(ALL, 7))  # type: ignore[arg-type]
        made = WithSubstitutes(varied)
        how: dict[str, Any] = {"num_workers": workers, "persistent_workers": bool(workers)}
        return made, torch.utils.data.DataLoader(made, batch_size=None, **how)

    def epoch_of(made: Any, load: Any, epoch: int) -> list[tuple[list[int], list[int]]]:
        made.begin_epoch(epoch)
        return [(one.input_ids.tolist(), one.pictures[0].pixels.tolist()) for one in load]

    made, load = loader(2)
    epochs = [epoch_of(made, load, epoch) for epoch in range(3)]
    assert epochs[0] != epochs[1] != epochs[2]
    assert epoch_of(*loader(0), 2) == epochs[2]


def test_records_about_one_picture_keep_their_own_in_a_batch(tmp_path: Path) -> None:
    """A batch without padding holds each picture once; varied, it is another one for each record."""
    drawn(Box(50, 30, 90, 80)).save(tmp_path / "a.png")
    records = [record("Where is the thing?", "[0.25, 0.25, 0.45, 0.67]")] * 6
    varied = VariedRecords(records, Whole(tmp_path), False, Augmentation(ALL, 7))  # type: ignore[arg-type]
    examples = [varied[index] for index in range(6)]
    different = {(one.pictures[0].size, bytes(one.pictures[0].pixels.tolist())) for one in examples}
    assert len(unique_pictures(examples).pixels) == len(different) > 3
