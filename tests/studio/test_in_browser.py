"""The studio in a real headless Chromium: from a table of answers to a training, by clicks and keys alone.

It needs Chromium: scripts/browser.sh finds or installs one. What a training leaves is made by `run_maker`, and what a
launcher does by a small script in its place; one real training of a tiny model goes through the page at the end.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import pytest

from llava_finetune.studio import jobs
from llava_finetune.studio.app import build_app
from llava_finetune.studio.table import read_table
from tests.fixtures import run_maker
from tests.fixtures.adapters_and_servers import serving
from tests.studio import scene
from tests.studio.conftest import Page
from tests.studio.test_comparison import made
from tests.studio.test_dialogues import PAIR, TALK
from tests.tiny import make_tiny_llava

WIDE, PHONE = {"width": 1280, "height": 860}, {"width": 390, "height": 844}
PATIENCE = 30_000
PICTURES_ARE_SEEN = """() => [...document.images]
  .filter(one => one.getBoundingClientRect().top < innerHeight)
  .every(one => one.complete && one.naturalWidth)"""
TRAINING_PATIENCE = 280_000


AXE = """async () => {
  const { violations } = await axe.run(document, { resultTypes: ["violations"], iframes: false });
  return violations.filter((one) => ["serious", "critical"].includes(one.impact))
    .flatMap((one) => one.nodes.map((node) => `${one.id}: ${node.html.slice(0, 160)}`));
}"""


@pytest.fixture
def opened(browser: Any, page: Page) -> Iterator[Any]:
    """A window on the studio; at the end nothing was asked of another machine, and no script failed."""
    context = browser.new_context(viewport=WIDE, locale="en-GB")
    context.set_default_timeout(PATIENCE)
    window = context.new_page()
    asked: list[str] = []
    problems: list[str] = []
    window.on("request", lambda request: asked.append(request.url))
    window.on("pageerror", lambda error: problems.append(str(error)))
    window.goto(page.url)
    yield window
    context.close()
    assert not {url for url in asked if url.startswith("http") and urlsplit(url).hostname != "127.0.0.1"}
    assert problems == []


def take(window: Any) -> None:
    """The table that lies in the workspace, by clicks."""
    window.click("[data-source='colours.csv']")
    window.select_option("[data-role=answer]", "colour of it")
    window.fill("#question", "Which colour?")
    assert window.inner_text("[data-asked] >> nth=0") == "Which colour?"
    window.click("#take")
    window.wait_for_selector(".row")


def answer(window: Any, place: int) -> Any:
    return window.locator(f".row[aria-rowindex='{place}'] [data-column=answer]")


def saved(window: Any) -> None:
    from playwright.sync_api import expect

    expect(window.locator("#saved")).to_have_text("Saved", timeout=PATIENCE)


def test_a_table_is_taken_answers_are_typed_and_saved_and_split(opened: Any, page: Page) -> None:
    take(opened)
    assert opened.locator(".row").count() < 20, "only rows in view are elements"
    assert answer(opened, 1).get_attribute("placeholder") == "to be typed", "an empty cell says what it waits for"
    opened.click("[data-show=open]")
    opened.wait_for_selector(".row >> nth=2", state="detached")
    answer(opened, 1).fill("blue")
    answer(opened, 1).press("Enter")
    opened.keyboard.type("yellow")
    saved(opened)
    assert [row["answer"] for row in read_table(page.folder / "answers.csv").rows[-2:]] == ["blue", "yellow"]
    assert opened.evaluate("document.activeElement.value") == "yellow"

    opened.click("#prepare")
    opened.wait_for_selector(".next a")
    assert opened.inner_text(".about").startswith("20 of 20 have an answer")
    opened.click("[data-show='part:test']")
    opened.wait_for_selector(".row .part.test")
    assert opened.locator(".row .part.train").count() == 0
    opened.click(".command summary")
    assert "python -m data_prep split records.json --parts train=0.8 test=0.2" in opened.inner_text(".command pre")


def test_what_was_typed_survives_a_server_that_is_away_and_two_tabs_do_not_lose_each_other(
    opened: Any, page: Page
) -> None:
    take(opened)
    other = opened.context.new_page()
    other.goto(page.url)
    other.wait_for_selector(".row")
    away = page.folder.with_name("away")
    page.folder.rename(away)
    answer(opened, 1).fill("ruby")
    opened.wait_for_selector("#saved.bad")
    opened.wait_for_selector("#trouble:has-text('put it back')")
    opened.close(run_before_unload=False)
    away.rename(page.folder)

    again = other.context.new_page()
    again.goto(page.url)
    saved(again)
    assert read_table(page.folder / "answers.csv").rows[0]["answer"] == "ruby"
    for call in ("state", "rows"):  # it does not see what comes now
        other.route(f"**/api/{call}", lambda route: route.abort())
    page.ask("edit", edits=[{"row": "row-2", "column": "answer", "was": "green", "now": "lime"}])
    answer(other, 2).fill("mint")
    other.wait_for_selector(".quarrel:has-text('lime')")
    assert read_table(page.folder / "answers.csv").rows[1]["answer"] == "lime"
    other.click(".quarrel button >> nth=0")
    saved(other)
    assert read_table(page.folder / "answers.csv").rows[1]["answer"] == "mint"


def test_a_dialogue_is_shown_and_typed_turn_by_turn_with_all_its_pictures(opened: Any, page: Page, axe: str) -> None:
    (page.folder / "talk.json").write_text(json.dumps([TALK, PAIR]))
    opened.reload()
    opened.click("[data-source='talk.json']")
    opened.click("#take")
    opened.wait_for_selector(".row .several img >> nth=1")
    marks = [one.inner_text() for one in opened.locator(".row .turn").all()]
    assert marks == ["turn 1 of 2", "turn 2 of 2"]
    answer(opened, 2).fill("dark")
    answer(opened, 2).press("Enter")
    saved(opened)
    talk, pair = json.loads((page.folder / "dialogues.json").read_text())
    assert talk["conversations"][3]["value"] == "dark" and talk["source"] == TALK["source"] and pair == PAIR
    opened.evaluate(axe)
    assert opened.evaluate(AXE) == []
    opened.click(".several")
    opened.wait_for_selector(".zoomed img >> nth=1")
    assert opened.evaluate(AXE) == []
    opened.keyboard.press("Escape")
    opened.wait_for_selector(".zoomed", state="detached")


def test_turns_come_and_go_by_keys_and_what_is_typed_lands_in_no_other_row(opened: Any, page: Page) -> None:
    take(opened)
    opened.click("[data-show=open]")
    opened.wait_for_selector(".row >> nth=2", state="detached")
    answer(opened, 2).fill("blue")
    answer(opened, 2).press("Alt+Enter")
    opened.wait_for_selector(".turn-note")
    opened.keyboard.type("How dark?")
    opened.keyboard.press("Tab")
    opened.keyboard.type("very")
    saved(opened)
    page.ask("edit", edits=[{"row": "row-19", "column": "answer", "was": "", "now": "yellow"}])  # a row above goes
    opened.wait_for_selector(".row >> nth=1", state="detached")
    opened.keyboard.type(" dark")
    saved(opened)
    (record,) = json.loads((page.folder / "dialogues.json").read_text())
    assert [turn["value"] for turn in record["conversations"]] == [
        "<image>\nWhich colour?",
        "blue",
        "How dark?",
        "very dark",
    ]
    opened.click("[data-show=all]")
    opened.wait_for_selector(".row >> nth=5")
    opened.fill("input[type=search]", "How dark")
    opened.wait_for_selector(".row >> nth=1", state="detached")
    answer(opened, 1).fill("very, very dark")
    answer(opened, 1).press("Alt+Delete")  # before it was saved
    opened.wait_for_selector(".turn-note:has-text('Taken out: How dark? – very, very dark')")
    assert len(json.loads((page.folder / "dialogues.json").read_text())[0]["conversations"]) == 2
    opened.click("#turn-undo")
    opened.wait_for_selector(".turn-note:has-text('It is back.')")
    record["conversations"][3]["value"] = "very, very dark"
    assert json.loads((page.folder / "dialogues.json").read_text()) == [record]

    with on_its_way(opened) as sent:
        answer(opened, 1).fill("pale")
        arrived(opened, sent)
        seen = {"row": f"{record['id']} #2/2", "column": "answer", "was": "very, very dark"}
        page.ask("edit", edits=[{**seen, "now": "light"}])  # somebody else
    opened.wait_for_selector("#choose")
    answer(opened, 1).press("Alt+Enter")
    opened.wait_for_selector(".note.warn:has-text('pale')")
    opened.wait_for_selector("#choose", state="detached")


def test_a_new_turns_cell_is_its_own_while_the_page_looks_again(opened: Any, page: Page) -> None:
    take(opened)
    opened.click("[data-show=open]")
    opened.wait_for_selector(".row >> nth=2", state="detached")
    answer(opened, 2).fill("blue")
    saved(opened)
    opened.wait_for_timeout(1600)  # what this page saved itself is not asked for again
    asked: list[Any] = []
    opened.route("**/api/rows", lambda route: asked.append(route))
    answer(opened, 2).press("Alt+Enter")
    for _ in range(PATIENCE // 50):  # its own look, and meanwhile that of the page, which sees another version
        if len(asked) > 1:
            break
        opened.wait_for_timeout(50)
    asked[0].continue_()
    opened.wait_for_timeout(300)
    for route in asked[1:]:
        route.continue_()
    opened.unroute("**/api/rows")
    opened.wait_for_selector(".turn-note")
    assert opened.evaluate("document.activeElement.closest('.row').dataset.row") == "row-20 #2/2"
    assert opened.evaluate("document.activeElement.dataset.column") == "question"


@contextmanager
def on_its_way(window: Any) -> Iterator[list[Any]]:
    """What the page sends is held until the block ends; the requests that came so far."""
    sent: list[Any] = []
    held = [True]
    window.route("**/api/edit", lambda route: sent.append(route) if held else route.continue_())
    yield sent
    held.clear()
    for route in sent:
        route.continue_()


def arrived(window: Any, sent: list[Any]) -> None:
    for _ in range(PATIENCE // 50):
        if sent:
            return
        window.wait_for_timeout(50)
    raise AssertionError("nothing was sent")


def test_a_slow_server_loses_no_letter_and_quarrels_with_nobody(opened: Any, page: Page) -> None:
    take(opened)
    with on_its_way(opened) as sent:
        answer(opened, 1).fill("mint")
        arrived(opened, sent)
        answer(opened, 1).fill("teal")
        opened.wait_for_timeout(700)
        answer(opened, 1).fill("red")  # as it was, while another text is on its way
        opened.wait_for_timeout(700)
        assert len(sent) == 1
    saved(opened)
    assert opened.locator(".quarrel").count() == 0
    assert read_table(page.folder / "answers.csv").rows[0]["answer"] == "red" == answer(opened, 1).input_value()


def test_files_are_sent_once_after_the_screen_was_opened_again(opened: Any, page: Page) -> None:
    take(opened)
    for screen in ("train", "data", "train", "data"):
        opened.click(f"#steps a[href='#{screen}']")
    opened.wait_for_selector("#more")
    sent = []
    opened.on("request", lambda request: sent.append(request.url) if "/upload" in request.url else None)
    opened.evaluate("""() => {
      const data = new DataTransfer();
      data.items.add(new File(["image,answer\\n001.png,lime\\n"], "more.csv"));
      const drop = new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true });
      document.querySelector(".work").dispatchEvent(drop);
    }""")
    opened.wait_for_selector(".preview h3:has-text('more.csv')")
    assert len(sent) == 1


def test_a_files_way_in_is_choosing_it(opened: Any, page: Page) -> None:
    opened.wait_for_selector("#choose-files")
    opened.locator("#choose-files-input").set_input_files(
        [
            {"name": "more.csv", "mimeType": "text/csv", "buffer": b"image,question,answer\n001.png,What?,green\n"},
            {"name": "virus.exe", "mimeType": "application/x", "buffer": b"MZ"},
        ]
    )
    opened.wait_for_selector(".preview")
    assert "1 row, pictures found for 1" in opened.inner_text(".preview h3")
    assert not list(page.folder.rglob("virus.exe"))
    opened.click("#take")
    opened.wait_for_selector(".row")
    assert read_table(page.folder / "answers.csv").rows[0]["question"] == "What?"
    opened.click("#more")
    old = {"name": "old.csv", "mimeType": "text/csv", "buffer": "image,answer\n002.png,grün\n".encode("cp1252")}
    lost: list[str] = []
    opened.route("**/upload?*", lambda route: (lost.append(route.request.url), route.abort()), times=1)
    opened.locator("#choose-files-input").set_input_files([old])  # its first piece is lost, and sent again
    opened.click("#readings [data-encoding=cp1252]")
    opened.wait_for_selector(".preview td:has-text('grün')")
    opened.click("#take")
    opened.wait_for_selector(".row >> nth=1")
    assert read_table(page.folder / "answers.csv").rows[1]["answer"] == "grün" and len(lost) == 1


def settled(window: Any, width: int, height: int = 860) -> None:
    window.set_viewport_size({"width": width, "height": height})
    assert window.evaluate("document.documentElement.scrollWidth") == width, width


def test_runs_are_shown_as_they_are_wide_narrow_light_and_dark(opened: Any, page: Page) -> None:
    run_maker.make_run(page.folder / "runs" / "made", upto=30)
    run_maker.make_run(page.folder / "runs" / "whole")
    (page.folder / "runs/whole/result.json").write_text("{}")
    said = [{"id": str(number), "question": "What?", "reference": "red", "answer": "red"} for number in range(13)]
    (page.folder / "runs/whole/predictions-eval-30.jsonl").write_text("".join(json.dumps(one) + "\n" for one in said))
    take(opened)
    opened.goto(f"{page.url}/#train/whole")
    opened.wait_for_selector("#charts .chart svg")
    assert opened.inner_text("#stand .pill") == "done"
    assert "of the held-out questions are answered right" in opened.inner_text("#stand .lead")
    assert opened.inner_text("#asked h3 small") == "the first 12 of 72"
    dashes = "[...document.querySelectorAll('line.level')].map((one) => getComputedStyle(one).strokeDasharray)"
    assert len(set(opened.evaluate(dashes))) == 2, "the prior and the base are told apart"
    opened.click("[data-run=made]")
    opened.wait_for_selector("#stand h2:has-text('made')")
    for scheme in ("light", "dark"):
        opened.emulate_media(color_scheme=scheme)
        for width in (320, 390, 800, 1280, 1900):
            settled(opened, width)
    opened.click("#steps a >> nth=0")
    opened.wait_for_selector(".row")
    for width in (320, 390, 800, 1280):
        settled(opened, width)


def test_trainings_are_compared_and_one_is_left_out_by_a_click(opened: Any, page: Page) -> None:
    for name, rate in (("first", 2e-4), ("larger-rate", 1e-3)):
        made(page, name, learning_rate=rate, lora_dropout=100 * rate)
    opened.goto(f"{page.url}/#train")
    opened.click("#compare")
    opened.wait_for_selector("#curves .chart svg")
    assert opened.get_attribute("#steps a >> nth=2", "aria-current") == "page"
    row = " ".join(opened.inner_text("[data-setting=learning_rate]").split())
    assert row == "How large each step is (learning_rate) differs 0.001 0.0002"
    for scheme in ("light", "dark"):
        opened.emulate_media(color_scheme=scheme)
        assert opened.evaluate(UNNAMED) == [] and opened.evaluate(FAINT) == []
        for width in (320, 1280):
            settled(opened, width)
            assert opened.is_visible("#curves .key >> nth=0"), "which line is which is told on a phone too"
    opened.click("#more-settings summary")
    assert opened.is_visible("#more-settings [data-setting=lora_dropout]")
    opened.select_option("#language", "de")
    opened.wait_for_selector("#steps a:has-text('Bilder')")
    opened.wait_for_selector("#curves .tick")
    numbers = " ".join(opened.locator("#curves :is(.tick, .key b)").all_text_contents())
    assert re.search(r"\d,\d", numbers) and not re.search(r"\d\.\d", numbers)
    opened.uncheck("[data-choose=first]")
    opened.wait_for_selector("#lines thead th >> nth=1", state="detached")
    assert opened.inner_text("#lines thead").strip() == "larger-rate"
    opened.check("[data-choose=first]")
    opened.wait_for_selector("#lines thead th >> nth=1")


@pytest.mark.slow
def test_a_training_goes_through_the_page_and_outlives_it(opened: Any, page: Page) -> None:
    make_tiny_llava(page.folder / "tiny")
    take(opened)
    opened.click("#prepare")
    opened.click(".next a")
    assert opened.input_value("#model") == "tiny"
    opened.click("form summary >> nth=0")
    opened.fill("[data-flag='--max_steps']", "4")
    opened.click("#start")
    opened.wait_for_selector("[data-run=run-1] .pill")
    address = opened.url
    opened.goto("about:blank")
    (job,) = [one for one in jobs.jobs(page.studio.space) if one.kind == "train"]
    assert "scripts/finetune_lora.sh" in job.steps[0].text
    opened.goto(address)
    opened.wait_for_selector("#stand .pill:is(.done, .failed, .killed, .stopped)", timeout=TRAINING_PATIENCE)
    assert opened.inner_text("#stand .pill") == "done", jobs.log_tail(job)
    assert opened.locator("#charts .chart").count() == 2
    assert re.search(r"step 4/4", jobs.log_tail(job))
    assert opened.locator("#asked .card").count() > 0


HERE = Path(__file__).parent
UNNAMED, FAINT = ((HERE / name).read_text().partition("\n")[2] for name in ("unnamed.js", "faint.js"))


def test_every_control_has_a_name_and_every_text_stands_out_in_light_and_dark(
    opened: Any, page: Page, axe: str
) -> None:
    for name in ("whole", "other"):
        run_maker.make_run(page.folder / "runs" / name)
        (page.folder / f"runs/{name}/result.json").write_text("{}")
    opened.wait_for_selector(".skip:not(:empty)", state="attached")
    assert opened.evaluate(UNNAMED) == [] and opened.evaluate(FAINT) == []
    take(opened)
    ready = {"data": ".row", "learn": "#look", "train": "#charts svg", "use": "#products li", "compare": "#curves svg"}
    opened.evaluate(axe)
    for screen, selector in ready.items():
        opened.goto(f"{page.url}/#{screen}")
        opened.wait_for_selector(selector)
        for scheme in ("light", "dark"):
            opened.emulate_media(color_scheme=scheme)
            assert opened.evaluate(UNNAMED) == [], screen
            assert opened.evaluate(FAINT) == [], (screen, scheme)
            assert opened.evaluate(AXE) == [], (screen, scheme)
        for width in (1280, 390, 320):
            settled(opened, width)
        assert opened.evaluate(AXE) == [], (screen, "narrow, dark")
        settled(opened, 1280)


def test_the_page_speaks_german_and_chinese_and_remembers_it(opened: Any, page: Page) -> None:
    for language, words in (("de", "Bilder und Antworten"), ("zh", "图片与答案")):
        opened.select_option("#language", language)
        opened.wait_for_selector(f"#steps a:has-text('{words}')")
    opened.reload()
    opened.wait_for_selector("#steps a:has-text('图片与答案')")
    assert page.studio.space.settings()["language"] == "zh"
    assert opened.get_attribute("html", "lang") == "zh-Hans"


def test_twenty_thousand_pictures_are_a_page_of_few_elements(opened: Any, page: Page, note: Any) -> None:
    import os
    import time

    folder = page.folder / "photos"
    rows = []
    for index in range(20_000):
        name = f"many-{index:05d}.png"
        os.link(folder / "000.png", folder / name)
        rows.append({"id": "", "image": name, "question": "What?", "answer": "" if index % 3 else "red"})
    page.studio.space.keep(images="photos")
    with page.studio.space.locked():
        page.studio.store.put(["id", "image", "question", "answer"], rows)
    began = time.monotonic()
    opened.goto(page.url)
    opened.wait_for_selector(".row img")
    first = time.monotonic() - began
    began = time.monotonic()
    opened.evaluate("document.querySelector('.view').scrollTop = 1e9")
    opened.wait_for_selector(".row[aria-rowindex='20000'] .name:has-text('many-19999.png')")
    last = time.monotonic() - began
    for part in range(12):
        opened.evaluate(f"document.querySelector('.view').scrollTop = {part * 150_000}")
    opened.wait_for_selector(f".row[aria-rowindex='{11 * 150_000 // 92 + 1}']")
    assert opened.locator(".row").count() < 60
    metrics = opened.context.new_cdp_session(opened)
    metrics.send("Performance.enable")
    values = {one["name"]: one["value"] for one in metrics.send("Performance.getMetrics")["metrics"]}
    assert values["JSHeapUsedSize"] < 500e6
    heap = values["JSHeapUsedSize"] / 1e6
    note(
        f"studio, 20,000 pictures: first view {first:.1f} s, end of the grid {last:.1f} s, {heap:.0f} MB of script heap"
    )


SHOWN = {
    "pictures": ("data", ".row img"),
    "train": ("train/smaller-rate", "#asked .card img"),
    "compare": ("compare", "#curves svg"),
}


def test_the_docs_show_the_page_as_it_is(
    browser: Any, tmp_path: Path, root: Path, request: pytest.FixtureRequest
) -> None:
    """With --update-golden the pictures are taken again: chess pieces, most of them named, and made-up trainings."""
    if request.config.getoption("--update-golden"):
        studio = scene.chess(tmp_path / "chess")
        shared = SimpleNamespace(engines={}, under_way=0)
        with serving(shared, build_app(studio)) as served, scene.running(studio):
            window = browser.new_page(viewport={"width": 1280, "height": 860}, locale="en-GB")
            for name, (where, ready) in SHOWN.items():
                window.goto(f"{served.url}/#{where}")
                window.wait_for_selector(ready)
                window.wait_for_load_state("networkidle")
                window.wait_for_function(PICTURES_ARE_SEEN)
                window.screenshot(path=root / "docs" / f"studio-{name}.png")
            window.close()
    for name in SHOWN:
        assert 0 < (root / "docs" / f"studio-{name}.png").stat().st_size < 300_000, name
