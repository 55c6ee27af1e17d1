"""The guard by itself: sizes at their limits, bodies in pieces, hosts, and the headers of each refusal."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from llava_finetune.serve.guards import Access, Guard
from llava_finetune.serve.limits import Limits

LIMITS = Limits(body_bytes=100, bodies_bytes=150)
HOST = (b"host", b"127.0.0.1:8000")


@dataclass
class Page:
    """What stands behind the guard: reads the body and answers; `fails` after it has begun to."""

    read: list[bytes] = field(default_factory=list)
    fails: Exception | None = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        while True:
            message = await receive()
            self.read.append(message.get("body", b""))
            if not message.get("more_body"):
                break
        await send({"type": "http.response.start", "status": 200, "headers": [(b"referrer-policy", b"mine")]})
        if self.fails:
            raise self.fails
        await send({"type": "http.response.body", "body": b"done"})


def ask(
    guard: Guard, pieces: Sequence[bytes] = (), *headers: tuple[bytes, bytes], method: str = "POST", path: str = "/"
) -> tuple[int, dict[bytes, bytes], bytes]:
    """Status, headers and body of the answer to a request whose body comes in pieces."""
    given = [*headers] if any(name == b"host" for name, _ in headers) else [HOST, *headers]
    scope = {"type": "http", "method": method, "path": path, "headers": given}
    waiting = [{"type": "http.request", "body": piece, "more_body": True} for piece in pieces]
    (waiting or [{}])[-1]["more_body"] = False
    sent: list[Any] = []

    async def receive() -> Any:
        return waiting.pop(0) if waiting else {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(guard(scope, receive, send))
    return sent[0]["status"], dict(sent[0]["headers"]), b"".join(one.get("body", b"") for one in sent[1:])


def length(size: int) -> tuple[bytes, bytes]:
    return b"content-length", str(size).encode()


@pytest.mark.parametrize(("size", "status"), [(100, 200), (101, 413)])
def test_a_body_may_be_as_large_as_the_limit(size: int, status: int) -> None:
    page = Page()
    assert ask(Guard(page, Access(), LIMITS), [b"a" * size], length(size))[0] == status
    assert b"".join(page.read) == (b"a" * size if status == 200 else b"")


@pytest.mark.parametrize(("pieces", "status"), [([b"a" * 60, b"a" * 40], 200), ([b"a" * 60, b"a" * 41], 413)])
def test_a_body_of_no_announced_length_is_counted_as_it_comes(pieces: list[bytes], status: int) -> None:
    guard = Guard(Page(), Access(), LIMITS)
    assert ask(guard, pieces, (b"transfer-encoding", b"chunked"))[0] == status
    assert guard.held == 0


def test_bodies_share_what_may_be_held_and_requests_without_one_pass() -> None:
    guard = Guard(Page(), Access(), LIMITS)
    guard.held = 100
    assert ask(guard, [b"a" * 50], length(50))[0] == 200
    assert guard.held == 100
    status, headers, body = ask(guard, [b"a" * 51], length(51))
    assert status == 429 and headers[b"retry-after"] == b"1" and b"ask again later" in body
    guard.held = 150
    assert ask(guard, method="GET")[0] == 200, "a look at /health costs nothing"


@pytest.mark.parametrize("host", [b"127.0.0.1", b"127.0.0.1:80", b"localhost", b"localhost:1", b"[::1]", b"[::1]:8000"])
def test_this_machines_own_names_are_answered_to_with_and_without_a_port(host: bytes) -> None:
    assert ask(Guard(Page(), Access(), LIMITS), [], (b"host", host), method="GET")[0] == 200


@pytest.mark.parametrize("host", [b"", b"example.org", b"127.0.0.1.example.org:80", b"localhost.", b"[::2]:80", b":80"])
def test_other_names_are_refused(host: bytes) -> None:
    status, headers, body = ask(Guard(Page(), Access(), LIMITS), [], (b"host", host), method="GET")
    assert status == 403 and json.loads(body)["error"]["type"] == "forbidden"
    assert b"retry-after" not in headers and b"www-authenticate" not in headers


def test_only_a_missing_key_is_asked_for() -> None:
    guard = Guard(Page(), Access(api_key="secret"), LIMITS)
    status, headers, _ = ask(guard, method="GET", path="/v1/models")
    assert status == 401 and headers[b"www-authenticate"] == b"Bearer" and b"retry-after" not in headers
    for value, expected in (
        (b"Bearer secret", 200),
        (b"bearer  secret ", 200),
        (b"Basic secret", 401),
        (b"secret", 401),
    ):
        assert ask(guard, [], (b"authorization", value), method="GET", path="/v1/models")[0] == expected
    assert ask(guard, method="GET", path="/health")[0] == 200


@pytest.mark.parametrize("value", [b"-1", b"1e1", b"x", b"", b"9" * 20, "٣".encode()])
def test_a_length_that_is_none_is_taken_for_too_large(value: bytes) -> None:
    assert ask(Guard(Page(), Access(), LIMITS), [b"a"], (b"content-length", value))[0] == 413


def test_what_the_browser_may_do_is_said_once_with_every_answer() -> None:
    _, headers, body = ask(Guard(Page(), Access(), LIMITS), method="GET")
    assert headers[b"referrer-policy"] == b"no-referrer" and b"content-security-policy" in headers and body == b"done"


PAGE_CALL = {"path": "/gradio_api/run", "method": "POST"}
KIND = (b"content-type", b"application/json")


@pytest.mark.parametrize("cut", [1, 20, 34])
def test_a_page_call_is_looked_at_whole_and_passed_on_in_its_pieces(cut: int) -> None:
    def pieces(path: str) -> list[bytes]:
        body = json.dumps({"data": [{"a": [{"path": path}]}]}).encode()
        return [body[:cut], body[cut:]]

    page = Page()
    assert ask(Guard(page, Access(), LIMITS), pieces("/tmp/a.png"), KIND, **PAGE_CALL)[0] == 200
    assert page.read == pieces("/tmp/a.png")
    page = Page()
    status, _, body = ask(Guard(page, Access(), LIMITS), pieces("https://e.org/a"), KIND, **PAGE_CALL)
    assert status == 400 and b"files are uploaded, not fetched from the web" in body and page.read == []


def test_a_page_call_that_is_no_json_is_passed_on() -> None:
    page = Page()
    assert ask(Guard(page, Access(), LIMITS), [b"{", b"://"], KIND, **PAGE_CALL)[0] == 200
    assert page.read == [b"{", b"://"]


def test_an_answer_that_has_begun_is_not_begun_again() -> None:
    from llava_finetune.serve.guards import TooLarge

    with pytest.raises(TooLarge):
        ask(Guard(Page(fails=TooLarge()), Access(), LIMITS), method="GET")


def test_what_is_no_request_is_not_answered() -> None:
    seen: list[str] = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope["type"])

    async def nothing(*_: Any) -> Any:
        raise AssertionError("neither read nor answered")

    for kind in ("lifespan", "websocket"):
        asyncio.run(Guard(application, Access(), LIMITS)({"type": kind, "headers": []}, nothing, nothing))
    assert seen == ["lifespan"]
