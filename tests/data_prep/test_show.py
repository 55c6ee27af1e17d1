"""The page of records as the model sees them, from training's own masker and picture processing."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from data_prep.__main__ import main
from data_prep.check.page import number
from data_prep.check.report import Example, Report
from data_prep.check.tokens import tell_what_is_cut
from data_prep.records.record import write_records
from data_prep.tools.show import PART, token_texts
from data_prep.view.model_view import ModelView
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


@pytest.mark.parametrize(("aspect", "share"), [("pad", 0.0), ("anyres", 0.0), ("square", 0.25), (None, 0.25)])
def test_what_is_cut_off_is_told_where_nothing_is_padded(aspect: str | None, share: float) -> None:
    view = ModelView("x", None, "v1", SimpleNamespace(image_aspect_ratio=aspect), None, None, 2048)
    assert view.cut_share((640, 480)) == share
    report = Report("r.json", "images")
    sizes = {"wide.jpg": (640, 480), "square.jpg": (300, 310)}
    for name in sizes:
        tell_what_is_cut(report, Example(1, 0, "a", ""), [name], view, sizes)
    found = [example.detail for finding in report.findings for example in finding.examples]
    assert found == ([f"wide.jpg: {share:.0%} of the picture"] if share else [])


def test_shares_are_shown_in_percent_on_the_page_of_a_check() -> None:
    shown = [number(value, "taught_share") for value in (0.0712, 0.004, 0.0)]
    assert [*shown, number(1234.5, "mean")] == ["7%", "0.4%", "0%", "1,234"]


def test_an_umlaut_of_two_tokens_is_shown_whole_on_the_second() -> None:
    pieces = {1: b"\xc3", 2: b"\x84", 3: b"pfel", 4: b"\xff"}

    def decode(ids: list[int]) -> str:
        return b"".join(pieces[one] for one in ids).decode("utf-8", "replace")

    tokenizer = SimpleNamespace(decode=decode, convert_ids_to_tokens=lambda token: f"<{token}>")
    assert token_texts([1, 2, 3], tokenizer) == [PART, "\u00c4", "pfel"]
    assert token_texts([3, -200, 1, 2], tokenizer) == ["pfel", "", PART, "\u00c4"]
    assert token_texts([4, 4, 4, 4], tokenizer) == [PART, PART, PART, "<4>"], "bytes that are no character"
