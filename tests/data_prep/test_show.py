"""The page of records as the model sees them, from training's own masker and picture processing."""

from pathlib import Path

import pytest

from data_prep.__main__ import main
from data_prep.records.record import write_records
from tests.data_prep.conftest import draw, record


@pytest.mark.parametrize(("family", "views"), [("llava-1.5", 1), ("1.6-yi", 5)])
def test_show_marks_the_answer_and_collapses_the_picture(tmp_path: Path, family: str, views: int) -> None:
    from tests.tiny import make_tiny_llava

    model = make_tiny_llava(tmp_path / "model", family)
    draw(tmp_path / "a.jpg", 3, (112, 112))
    write_records(tmp_path / "r.json", [record("one", "a.jpg", answer="a red box")])
    page = tmp_path / "show.html"
    words = [
        "show",
        str(tmp_path / "r.json"),
        "--image-folder",
        str(tmp_path),
        "--model",
        str(model),
        "--html",
        str(page),
    ]
    assert main(words) == 0
    text = page.read_text(encoding="utf-8")
    assert text.count("of the model</figcaption>") == views
    assert "&lt;image&gt; × 16</span>" in text if views == 1 else "&lt;image&gt; × " in text
    assert '<span class="end"' in text
    assert "http" not in text
    assert " taught, 1 answer</p>" in text
    assert "<wbr>" in text and "white-space: pre;" in text, "a token stays on one line"
