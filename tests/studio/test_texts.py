"""Every text of the page stands in the file of texts, in each language; in a real browser, screen by screen."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from data_prep.check.kinds import KINDS
from llava_finetune.studio import app, refusals
from llava_finetune.studio.app import build_app
from llava_finetune.studio.refusals import LANGUAGES, TEXTS
from llava_finetune.studio.shared import Studio
from llava_finetune.studio.workspace import Workspace
from tests.fixtures.adapters_and_servers import serving
from tests.studio.conftest import COLOURS, Page, fill, taken
from tests.studio.test_comparison import made

FOREIGN = (Path(__file__).parent / "foreign.js").read_text(encoding="utf-8").partition("\n")[2]
NAMES = ("colours", "photos", "tiny", "first", "second", "OWNER/NAME", "vLLM", "Studio")
CELLS = (
    "image",
    "question",
    "answer",
    "train",
    "photo",
    "colour of it",
    "Which colour?",
    "row-1:",
    "001.png,",
    "cut",
    "off",
)
DATA = [*COLOURS, *NAMES, *CELLS]
READY = {"data": ".row", "learn": "#look", "train": "#charts svg", "compare": "#curves svg", "use": "#products li"}


def texts(language: str) -> dict[str, str]:
    return dict(json.loads((TEXTS / f"{language}.json").read_text(encoding="utf-8")))


def test_each_language_has_every_text_with_the_same_values_and_the_page_uses_no_other() -> None:
    english = texts("en")
    for language in LANGUAGES[1:]:
        own = texts(language)
        assert {key for key in english if not key.endswith(".one")} <= set(own) <= set(english), language
        for key, text in own.items():
            assert set(re.findall(r"{\w+}", text)) == set(re.findall(r"{\w+}", english[key])), (language, key)
    code = "".join(path.read_text(encoding="utf-8") for path in (TEXTS.parent / "page").glob("*.js"))
    used = set(re.findall(r"""\bt\(\s*"([^"]+)\"""", code))
    assert used and used <= set(english), used - set(english)


def test_each_finding_of_the_check_is_said_in_words_of_the_page() -> None:
    english = texts("en")
    for name, kind in KINDS.items():
        keys = [f"finding.{name}", f"finding.{name}.what", *([f"finding.{name}.fix"] if kind.fixed else [])]
        assert all(key in english for key in keys), name


def test_no_text_in_view_stands_outside_of_the_file_of_texts(
    browser: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    marked = tmp_path / "texts"
    marked.mkdir()
    for language in LANGUAGES:
        words = {key: f"⟦{text}⟧" for key, text in texts(language).items()}
        (marked / f"{language}.json").write_text(json.dumps(words), encoding="utf-8")
    monkeypatch.setattr(app, "TEXTS", marked)
    monkeypatch.setattr(refusals, "TEXTS", marked)
    refusals._texts.cache_clear()
    studio = Studio(Workspace.open(fill(tmp_path / "colours")))
    try:
        with serving(SimpleNamespace(engines={}, under_way=0), build_app(studio)) as running:
            page = Page(running.url, studio)
            window = browser.new_page(viewport={"width": 1280, "height": 1400}, locale="en-GB")
            window.set_default_timeout(60_000)
            hidden = [
                path.rename(tmp_path / path.name)
                for path in page.folder.iterdir()
                if path.name in ("photos", "colours.csv")
            ]
            window.goto(page.url)
            window.wait_for_selector("#choose-folder")
            assert window.evaluate(FOREIGN, DATA) == [], "a workspace with nothing in it"
            for path in hidden:
                path.rename(page.folder / path.name)
            window.reload()
            window.click("[data-source='colours.csv']")
            window.click("#hub summary")
            window.wait_for_selector(".preview img")
            assert window.evaluate(FOREIGN, DATA) == [], "the first screen"
            busy(page)
            for screen, selector in READY.items():
                window.goto(f"{page.url}/#{screen}")
                window.wait_for_selector(selector)
                window.wait_for_load_state("networkidle")
                window.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
                assert window.evaluate(FOREIGN, DATA) == [], screen
            window.goto(f"{page.url}/#data")
            window.wait_for_selector(".findings li")
            page.folder.rename(page.folder.with_name("away"))
            window.wait_for_selector("#trouble:not([hidden])")
            assert "⟦" in window.inner_text("#trouble") and window.evaluate(FOREIGN, [*DATA, str(page.folder)]) == []
            window.close()
    finally:
        refusals._texts.cache_clear()


def busy(page: Page) -> None:
    """A workspace in which there is much to say: findings of many kinds, trainings, a certificate."""
    page.ask("take", **taken(page.folder))
    page.ask("turn", row="row-2", act="add")
    (page.folder / "data").mkdir()
    for part in ("train", "test"):
        (page.folder / f"data/{part}.json").write_text(json.dumps([{"id": "row-1", "image": "000.png"}]))
    (page.folder / "records.json").write_text(json.dumps([{"id": "row-1", "image": "000.png"}]))
    found = [{"kind": kind, "count": 1, "examples": [{"detail": "row-1: cut off"}], "indices": [0]} for kind in KINDS]
    (page.folder / "check.json").write_text(json.dumps({"findings": found, "ok": False}))
    (page.folder / "mended.meta.json").write_text(json.dumps({"counts": {"dropped": {"image truncated": 2}}}))
    page.studio.space.keep(mend=True)
    (page.folder / "tiny").mkdir()
    (page.folder / "tiny/config.json").write_text("{}")
    for name in ("first", "second"):
        made(page, name)
        (page.folder / f"runs/{name}/result.json").write_text("{}")
    verdicts = [{"engine": "our API", "verdict": "different", "count": 5}, {"engine": "vLLM", "verdict": "not run"}]
    for name in ("first", "second"):
        (page.folder / f"runs/{name}/certificate.json").write_text(json.dumps({"engines": verdicts}))
