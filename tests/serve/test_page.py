"""The web page in a real headless Chromium: upload, ask, stream, stop, compare, reload, broken and huge pictures.

It needs Chromium: scripts/browser.sh finds or installs one.
"""

from __future__ import annotations

import base64
import os
import re
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

WIDE, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}
PATIENCE = 60_000
EXAMPLE = "What colour is the shape?"


class Elsewhere:
    """The names and addresses beyond this machine that Python asked for while it watched."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.watching = True
        sys.addaudithook(self.hear)  # stays for the life of the process

    def hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.watching and event in ("socket.connect", "socket.getaddrinfo"):
            address = arguments[1] if event == "socket.connect" else arguments
            if isinstance(address, tuple) and str(address[0]) not in ("127.0.0.1", "::1", "localhost"):
                self.asked.append(f"{event} {address[:2]}")


@pytest.fixture(scope="module")
def page_server(
    loaded: Any, family: Any, kit: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Any]:
    """The page with the fine-tuned model and its base side by side; at the end it may have asked no other machine."""
    elsewhere = Elsewhere()
    scratch = tmp_path_factory.mktemp("uploads")
    os.environ["GRADIO_TEMP_DIR"] = str(scratch)
    from llava_finetune.model.loading import load
    from llava_finetune.serve.api import Server, build_app
    from llava_finetune.serve.engine import Engine
    from llava_finetune.serve.limits import Limits
    from llava_finetune.serve.page import mount

    base = load(str(family("llava-1.5")), dtype="fp32")
    engines = {"tuned": Engine(loaded).start(), "base": Engine(base).start()}
    server = Server(engines, Limits(picture_bytes=1_000_000, body_bytes=3_000_000, pixels=4_000_000))
    kit.noise(60, 40, 3).save(scratch / "example.png")
    application = mount(build_app(server), server, [(EXAMPLE, [str(scratch / "example.png")])], "a tiny model")
    with kit.serving(server, application) as running:
        yield running
    elsewhere.watching = False
    assert not elsewhere.asked


@pytest.fixture
def page(browser: Any, page_server: Any) -> Iterator[Any]:
    """A fresh page; at the end nothing may have been asked of another address."""
    context = browser.new_context(viewport=WIDE)
    context.set_default_timeout(PATIENCE)
    page = context.new_page()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    open_page(page, page_server.url)
    yield page
    context.close()
    elsewhere = {url for url in asked if url.startswith(("http", "ws")) and urlsplit(url).hostname != "127.0.0.1"}
    assert not elsewhere, f"the page asked other machines: {elsewhere}"


def open_page(page: Any, url: str) -> None:
    page.goto(url)
    page.wait_for_selector("#message textarea")


def attach(page: Any, *files: str | Path) -> None:
    """Upload through the page's own input, and wait for the server to have it."""
    with page.expect_response(re.compile("/gradio_api/upload")) as response:
        page.locator("#message input[type=file]").set_input_files([str(file) for file in files])
    assert response.value.status == 200


def ask(page: Any, text: str) -> None:
    page.locator("#message textarea").fill(text)
    page.locator("#message textarea").press("Enter")


def bubbles(page: Any, index: int, role: str) -> Any:
    return page.locator(f"#chat-{index} .message.{role}")


def answer(page: Any, index: int = 0, number: int = 0) -> Any:
    """The text of an answer once there is one."""
    place = bubbles(page, index, "bot").nth(number)
    place.wait_for()
    return place


def whole_answer(page: Any, page_server: Any) -> str:
    """The text of the first answer when no more of it comes."""
    answer(page)
    idle(page_server)
    page.wait_for_timeout(500)
    return str(answer(page).inner_text())


def set_length(page: Any, tokens: int) -> None:
    if not page.locator("#length").is_visible():
        page.get_by_text("Settings", exact=True).click()
    field, shown = page.locator("#length input[type=number]"), page.locator("#length input[type=range]")
    deadline = time.monotonic() + PATIENCE / 1000
    while shown.input_value() != str(tokens):  # a page that is still coming up drops what is typed
        assert time.monotonic() < deadline
        field.fill(str(tokens))
        field.press("Tab")
        page.wait_for_timeout(500)
    page.wait_for_timeout(300)  # the page hands the value on after it shows it


def idle(page_server: Any) -> None:
    deadline = time.monotonic() + 60
    while any(engine.busy for engine in page_server.server.engines.values()):
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.fixture
def picture(tmp_path: Path, kit: SimpleNamespace) -> Path:
    kit.noise(90, 60).save(tmp_path / "picture.png")
    return tmp_path / "picture.png"


def endless(page_server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """No answer ends by itself, and none is finished before a button can be pressed."""
    for engine in page_server.server.engines.values():
        monkeypatch.setattr(engine, "stops", set())
        step = engine.batch.step

        def slowly(tokens: Any, step: Any = step) -> Any:
            time.sleep(0.02)
            return step(tokens)

        monkeypatch.setattr(engine.batch, "step", slowly)


@contextmanager
def under_way(page: Any, page_server: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An answer has begun that does not end by itself while the block lasts."""
    set_length(page, 1900)
    with monkeypatch.context() as patch:
        endless(page_server, patch)
        ask(page, "Tell me everything")
        answer(page)
        yield


def new_chat(page: Any) -> None:
    page.locator("#clear").click()
    page.locator("#chat-0 .message").first.wait_for(state="detached")


def test_upload_ask_stream_and_compare(
    page: Any, page_server: Any, picture: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    endless(page_server, monkeypatch)
    set_length(page, 400)
    attach(page, picture)
    ask(page, "What is this?")
    first = answer(page)
    growing = {first.inner_text()}
    while any(engine.busy for engine in page_server.server.engines.values()):
        growing.add(first.inner_text())
        page.wait_for_timeout(100)
    page.wait_for_timeout(500)
    assert len(growing) > 2, "the answer must grow while it is made"
    tuned, base = first.inner_text(), answer(page, 1).inner_text()
    assert tuned and base and tuned != base
    for index in (0, 1):
        assert bubbles(page, index, "user").locator("img").count() == 1
        assert "What is this?" in page.locator(f"#chat-{index}").inner_text()
    wide = page.locator("#chat-0").bounding_box(), page.locator("#chat-1").bounding_box()
    assert wide[0]["y"] == wide[1]["y"], "side by side on a wide screen"


def paste(page: Any, file: Path) -> None:
    """What Ctrl-V does with a picture on the clipboard, for the line one types into."""
    data = base64.b64encode(file.read_bytes()).decode()
    with page.expect_response(re.compile("/gradio_api/upload")) as response:
        page.evaluate(
            """data => {
                const bytes = Uint8Array.from(atob(data), letter => letter.charCodeAt(0));
                const clipboard = new DataTransfer();
                clipboard.items.add(new File([bytes], "image.png", {type: "image/png"}));
                const line = document.querySelector("#message textarea");
                line.focus();
                line.dispatchEvent(
                    new ClipboardEvent("paste", {clipboardData: clipboard, bubbles: true, cancelable: true}));
            }""",
            data,
        )
    assert response.value.status == 200


def test_a_pasted_picture_is_asked_about_and_answered_as_the_uploaded_one(
    page: Any, page_server: Any, picture: Path
) -> None:
    set_length(page, 12)
    attach(page, picture)
    ask(page, "What is this?")
    uploaded = whole_answer(page, page_server)
    new_chat(page)
    paste(page, picture)
    ask(page, "What is this?")
    assert whole_answer(page, page_server) == uploaded
    assert bubbles(page, 0, "user").locator("img").count() == 1


def test_the_page_answers_as_the_api(page: Any, page_server: Any) -> None:
    set_length(page, 12)
    ask(page, "Hello there")
    shown = whole_answer(page, page_server)
    body = {"model": "tuned", "messages": [{"role": "user", "content": "Hello there"}], "max_tokens": 12}
    expected = httpx.post(f"{page_server.url}/v1/chat/completions", json=body).json()["choices"][0]["message"][
        "content"
    ]
    assert re.findall(r"[A-Za-z]+", expected) == re.findall(r"[A-Za-z]+", shown)


def test_stop_ends_the_answer_and_the_chat_goes_on(
    page: Any, page_server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with under_way(page, page_server, monkeypatch):
        before = [engine.tokens for engine in page_server.server.engines.values()]
        page.locator("#stop").click()
        idle(page_server)
        assert all(
            engine.tokens - count < 1500
            for engine, count in zip(page_server.server.engines.values(), before, strict=True)
        )
    page.get_by_text("[stopped]").first.wait_for()
    set_length(page, 5)
    ask(page, "And now?")
    page.locator("#chat-0").get_by_text("And now?").wait_for()
    answer(page, number=1)


def test_retry_answers_again_and_new_chat_forgets(page: Any, page_server: Any) -> None:
    set_length(page, 8)
    ask(page, "Again?")
    before = whole_answer(page, page_server)
    page.locator("#retry").click()
    page.wait_for_timeout(1000)
    idle(page_server)
    assert bubbles(page, 0, "user").count() == 1
    assert answer(page).inner_text() == before
    new_chat(page)


def test_a_new_chat_in_the_middle_of_an_answer_stays_empty(
    page: Any, page_server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with under_way(page, page_server, monkeypatch):
        new_chat(page)
        idle(page_server)
        page.wait_for_timeout(1500)
        assert page.locator(".message").count() == 0
    set_length(page, 5)
    ask(page, "And now?")
    answer(page)
    assert bubbles(page, 0, "user").all_inner_texts() == ["And now?"]


def test_the_new_chat_is_sent_once_more_behind_the_last_of_the_old_one(page_server: Any) -> None:
    """What was sent of the old conversation can reach the browser after the empty one: so it is sent again, last."""
    from llava_finetune.serve.page import Page, Visitor

    handlers, visitor = Page(page_server.server), Visitor()
    answering = handlers.ask({"text": "Hello"}, visitor, 0.0, 1.0, 1900, compare=False)
    assert next(answering)[1][0]["content"] == "Hello"
    assert handlers.clear(visitor) == [visitor, [], []]
    with ThreadPoolExecutor(1) as pool:
        settled = pool.submit(handlers.settle, visitor)
        with pytest.raises(TimeoutError):
            settled.result(timeout=0.5)
        assert list(answering) == [], "nothing more of the old conversation is shown"
        assert settled.result(timeout=5) == [visitor, [], []]
    idle(page_server)


def test_without_comparison_only_the_fine_tuned_model_answers(page: Any, page_server: Any) -> None:
    set_length(page, 5)
    page.locator("#compare input").uncheck()
    page.locator("#chat-1").wait_for(state="hidden")
    before = page_server.server.engines["base"].tokens
    ask(page, "Only you")
    answer(page)
    idle(page_server)
    assert page_server.server.engines["base"].tokens == before


def test_a_reload_begins_anew_and_works(page: Any, page_server: Any) -> None:
    set_length(page, 1500)
    ask(page, "Something long")
    answer(page)
    open_page(page, page_server.url)
    assert bubbles(page, 0, "user").count() == 0
    idle(page_server)
    set_length(page, 4)
    ask(page, "After the reload")
    answer(page)


def test_an_example_of_the_evaluation_set_is_a_click_away(page: Any, page_server: Any) -> None:
    set_length(page, 4)
    page.get_by_text(EXAMPLE).first.click()
    page.wait_for_function(f"document.querySelector('#message textarea').value === '{EXAMPLE}'")
    page.locator("#message textarea").press("Enter")
    answer(page)
    assert bubbles(page, 0, "user").locator("img").count() == 1


def test_a_broken_picture_shows_the_error_itself_and_the_chat_goes_on(page: Any, tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnot really")
    set_length(page, 4)
    attach(page, tmp_path / "broken.png")
    ask(page, "What is this?")
    error = page.locator("#chat-0").get_by_text("Error:")
    error.wait_for()
    assert "broken.png: the picture is damaged" in page.locator("#chat-0").inner_text()
    ask(page, "Without it?")
    page.locator("#chat-0").get_by_text("Without it?").wait_for()
    error.wait_for(state="detached")
    answer(page)


def test_a_picture_of_too_many_pixels_is_refused_with_the_limit(page: Any, tmp_path: Path) -> None:
    from PIL import Image

    Image.new("1", (3000, 2000)).save(tmp_path / "huge.png")
    attach(page, tmp_path / "huge.png")
    ask(page, "What is this?")
    page.locator("#chat-0").get_by_text("more than the 4,000,000 allowed").wait_for()


def test_an_upload_of_too_many_bytes_is_refused_by_page_and_server(page: Any, page_server: Any, tmp_path: Path) -> None:
    large = b"\x89PNG\r\n\x1a\n" + os.urandom(1_500_000)
    (tmp_path / "large.png").write_bytes(large)
    page.locator("#message input[type=file]").set_input_files(str(tmp_path / "large.png"))
    page.get_by_text(re.compile("exceed the maximum allowed size")).first.wait_for()
    sent = httpx.post(f"{page_server.url}/gradio_api/upload", files={"files": ("large.png", large, "image/png")})
    assert sent.status_code == 413
    vast = httpx.post(f"{page_server.url}/gradio_api/upload", files={"files": ("vast.png", large * 3, "image/png")})
    assert vast.status_code == 413


def test_a_failing_model_shows_what_failed(page: Any, page_server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(prompts: object) -> None:
        raise RuntimeError("the cable is out")

    monkeypatch.setattr(page_server.server.engines["base"].batch, "join", broken)
    set_length(page, 4)
    ask(page, "Still there?")
    page.locator("#chat-1").get_by_text("RuntimeError: the cable is out").wait_for()
    answer(page)


def test_a_phone_shows_everything_without_sideways_scrolling(browser: Any, page_server: Any, picture: Path) -> None:
    context = browser.new_context(viewport=PHONE, has_touch=True, is_mobile=True)
    context.set_default_timeout(PATIENCE)
    page = context.new_page()
    open_page(page, page_server.url)
    attach(page, picture)
    set_length(page, 6)
    ask(page, "What is this?")
    answer(page)
    answer(page, 1)
    boxes = [
        page.locator(f"#{name}").bounding_box() for name in ("chat-0", "chat-1", "message", "stop", "retry", "clear")
    ]
    assert all(box["x"] >= 0 and box["x"] + box["width"] <= PHONE["width"] for box in boxes)
    assert boxes[0]["y"] + boxes[0]["height"] <= boxes[1]["y"], "one below the other on a phone"
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    context.close()


def test_temperature_top_p_and_length_reach_the_model(page_server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from llava_finetune.serve.page import Page, Visitor
    from llava_finetune.serve.sampling import Sampling

    engine = page_server.server.engines["tuned"]
    asked: list[Sampling] = []
    submit = engine.submit
    monkeypatch.setattr(
        engine, "submit", lambda prompt, sampling, notify: asked.append(sampling) or submit(prompt, sampling, notify)
    )
    handlers, visitor = Page(page_server.server), Visitor()
    list(handlers.ask({"text": "Hello"}, visitor, 0.7, 0.9, 3, compare=False))
    list(handlers.retry(visitor, 0.0, 1.0, 2, compare=False))
    assert asked == [Sampling(3, 0.7, 0.9), Sampling(2, 0.0, 1.0)]


def test_a_file_of_another_kind_is_refused_whatever_its_name(page_server: Any, tmp_path: Path) -> None:
    from llava_finetune.serve.page import Page, Visitor

    (tmp_path / "notes.png").write_text("<svg onload=alert(1)>")
    sent = {"text": "What?", "files": [str(tmp_path / "notes.png")]}
    *_, view = Page(page_server.server).ask(sent, Visitor(), 0.0, 1.0, 3, compare=False)
    assert view[1][-1]["content"].startswith("**Error:** notes.png is not a picture of a known kind (avif, bmp, gif, ")


def test_a_heic_picture_is_shown_as_a_browser_can(page_server: Any, tmp_path: Path, kit: SimpleNamespace) -> None:
    from PIL import Image
    from pillow_heif import register_heif_opener

    from llava_finetune.serve.page import Page, Visitor

    register_heif_opener()
    kit.noise(60, 40, 3).save(tmp_path / "IMG_1.HEIC", format="HEIF")
    kit.noise(60, 40, 3).save(tmp_path / "a.png")
    sent = {"text": "What?", "files": [str(tmp_path / "IMG_1.HEIC"), str(tmp_path / "a.png")]}
    *_, view = Page(page_server.server).ask(sent, Visitor(), 0.0, 1.0, 3, compare=False)
    shown = [entry["content"]["path"] for entry in view[1] if isinstance(entry["content"], dict)]
    assert shown == [f"{tmp_path}/IMG_1.HEIC.jpg", str(tmp_path / "a.png")]
    with Image.open(shown[0]) as image:
        assert (image.format, image.size) == ("JPEG", (60, 40))


def gradio_config(url: str) -> dict[str, Any]:
    return httpx.get(f"{url}/config").json()


@pytest.mark.parametrize(
    "path", ["/etc/passwd", "constraints.txt", "llava_finetune/serve/page.py", "..%2f..%2fetc%2fpasswd"]
)
def test_no_file_of_the_machine_is_readable_through_the_page(page_server: Any, root: Path, path: str) -> None:
    for name in (path, str(root / path)):
        for route in (
            "/gradio_api/file=",
            "/file=",
            "/gradio_api/stream/",
            "/gradio_api/proxy=",
            "/static/",
            "/assets/",
            "/custom_component/",
        ):
            response = httpx.get(f"{page_server.url}{route}{name}")
            assert response.status_code != 200 or "root:" not in response.text, (route, name)
            assert "accelerate==" not in response.text


@pytest.mark.parametrize(
    "path", ["/etc/passwd", "constraints.txt", "http://127.0.0.1:1/a.png", "https://example.com/a.png"]
)
def test_a_forged_upload_reads_neither_files_nor_the_web(page_server: Any, root: Path, path: str) -> None:
    """What a caller names as an uploaded file must have been uploaded."""
    value = {"text": "What?", "files": [{"path": path, "meta": {"_type": "gradio.FileData"}, "orig_name": "a.png"}]}
    config = gradio_config(page_server.url)
    for index in range(len(config["dependencies"])):
        body = {"data": [value], "fn_index": index, "session_hash": f"forged-{index}"}
        response = httpx.post(f"{page_server.url}/gradio_api/run/predict", json=body, timeout=30)
        assert response.status_code >= 400 or "root:" not in response.text
        assert "accelerate==" not in response.text
        if "://" in path:
            assert response.status_code == 400
            assert "files are uploaded, not fetched from the web" in response.text


def test_the_page_asks_for_user_and_password_when_it_has_one(loaded: Any, kit: SimpleNamespace) -> None:
    from llava_finetune.serve.api import Server, build_app
    from llava_finetune.serve.engine import Engine
    from llava_finetune.serve.guards import Access
    from llava_finetune.serve.page import mount

    server = Server({"tiny": Engine(loaded).start()}, access=Access(user="me", password="pw", hosts=None))
    application = mount(build_app(server), server, [], "closed")
    with kit.serving(server, application) as running, httpx.Client(base_url=running.url) as visitor:
        assert visitor.get("/config").status_code == 401
        assert visitor.post("/gradio_api/run/predict", json={"data": [], "fn_index": 0}).status_code == 401
        assert visitor.post("/gradio_api/upload", files={"files": ("a.png", b"x", "image/png")}).status_code == 401
        assert visitor.get("/gradio_api/file=a.png").status_code == 401
        assert visitor.post("/login", data={"username": "me", "password": "no"}).status_code == 400
        assert visitor.post("/login", data={"username": "me", "password": "pw"}).status_code == 200
        assert visitor.get("/config").status_code == 200
