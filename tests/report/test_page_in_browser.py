"""The page in a real browser: filters, search, chart reading, no request, no sideways scrolling on a phone."""

from __future__ import annotations

import pytest

from llava_finetune.report import write_report
from tests.fixtures import run_maker


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    folder = run_maker.make_run(tmp_path_factory.mktemp("browser") / "made", num_images=30)
    return write_report(folder, curves=False)


@pytest.fixture
def page(browser, report):
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.problems = []
    page.on("console", lambda message: page.problems.append(message.text))
    page.on("pageerror", lambda error: page.problems.append(str(error)))
    page.on("request", lambda request: page.problems.append(request.url))
    page.goto(report.as_uri())
    page.problems = [text for text in page.problems if not text.startswith(("data:", "file:"))]
    yield page
    page.close()


def cards(page):
    return page.locator(".card:visible")


def test_filters_and_search_choose_cards(page):
    total = page.locator(".card").count()
    assert 0 < cards(page).count() == min(24, total) < total
    page.click(".morecards")
    assert cards(page).count() == min(48, total)
    page.click(".chip.gained")
    assert set(cards(page).evaluate_all("all => all.map(one => one.dataset.kind)")) == {"gained"}
    page.click(".chip[data-value=open]")
    assert set(cards(page).evaluate_all("all => all.map(one => one.dataset.type)")) == {"open"}
    page.fill("input[type=search]", "no such text anywhere")
    assert cards(page).count() == 0 and page.locator(".nothing:visible").count() == 1


def test_pointing_at_a_chart_reads_the_nearest_step(page):
    chart = page.locator(".chart").first
    chart.scroll_into_view_if_needed()
    box = chart.locator("svg").bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    assert chart.locator(".read").inner_text().startswith("step ")
    page.mouse.move(0, 0)
    assert not chart.locator(".read").is_visible()


def test_nothing_is_requested_and_nothing_fails(page):
    page.click(".chip.wrong") if page.locator(".chip.wrong").count() else None
    assert page.problems == []


@pytest.mark.parametrize(("scheme", "paper"), [("light", "rgb(251, 250, 247)"), ("dark", "rgb(20, 23, 27)")])
def test_the_page_never_scrolls_sideways_in_light_or_dark(page, scheme, paper):
    page.emulate_media(color_scheme=scheme)
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == paper
    for width in (320, 390, 1280):
        page.set_viewport_size({"width": width, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth") == width


def test_print_shows_cards_and_hides_controls(page):
    page.emulate_media(media="print")
    assert cards(page).count() > 0 and page.locator(".filters:visible").count() == 0
