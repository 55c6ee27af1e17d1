"""Reference and answer are drawn where they point, on the report's pictures and on those of `show`."""

from __future__ import annotations

import json
import re
from pathlib import Path

from PIL import Image

from data_prep.boxes.overlay import boxes_in_pixels, overlay
from llava_finetune.evaluation.metrics import score
from llava_finetune.evaluation.scoring import write_predictions
from llava_finetune.report.page import run_page
from llava_finetune.report.run_folder import read_run

RECT = re.compile(r'<rect class="(\w+)" x="([\d.]+)" y="([\d.]+)" width="([\d.]+)" height="([\d.]+)"')


def rectangles(page: str) -> list[tuple[str, float, float, float, float]]:
    return [(kind, *map(float, sides)) for kind, *sides in RECT.findall(page)]


def make_boxed_run(folder: Path) -> Path:
    """A finished run of one question whose answer's box is off by a fifth."""
    (folder / "images").mkdir(parents=True)
    Image.new("RGB", (200, 100), (90, 120, 160)).save(folder / "images/a.png")
    one = {"id": "a", "turn": 0, "image": "a.png", "question": "Where is it?", "answers": None, "type": "open"}
    one |= {"question_type": None, "truncated": False, "num_tokens": 9, "box_scale": "square"}
    one |= {"reference": "[0.100, 0.300, 0.500, 0.700]", "answer": "[0.200, 0.300, 0.500, 0.700]"}
    write_predictions(folder / "predictions-final.jsonl", [one])
    (folder / "scores-final.json").write_text(json.dumps({**score([one]), "image_folder": str(folder / "images")}))
    return folder


def test_the_report_draws_both_boxes_and_tells_their_scores(tmp_path: Path) -> None:
    page = run_page(read_run(make_boxed_run(tmp_path / "run")))
    assert rectangles(page)[:2] == [("reference", 20, 10, 80, 80), ("answer", 40, 10, 60, 80)]
    assert "Box IoU" in page and "Boxes at IoU 0.5" in page


def test_nothing_is_drawn_for_answers_without_boxes() -> None:
    assert overlay((200, 100), []) == ""
    assert boxes_in_pixels(["a dog", "[0.5, 0.5, 0.1, 0.1]"], (200, 100), {}) == [[], []]


def test_numbers_that_tell_no_scale_are_drawn_as_pixels_where_they_fit() -> None:
    ((pixels,),) = boxes_in_pixels(["[10, 10, 90, 90]"], (200, 100), {})
    ((thousandths,),) = boxes_in_pixels(["[100, 100, 900, 900]"], (200, 100), {})
    assert tuple(pixels) == (10, 10, 90, 90) and tuple(thousandths) == (20, 10, 180, 90)
