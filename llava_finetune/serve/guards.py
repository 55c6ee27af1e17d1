"""What stands before every request: host and origin checks, the size of a body, who may ask, and what a browser may do.

Why: a server on loopback is reachable by every page the user visits (DNS rebinding, cross-site posts), and one on
another address by everybody. The page may load nothing from elsewhere and send nothing elsewhere.

    app.add_middleware(Guard, access=Access(), limits=Limits())
"""

from __future__ import annotations

import base64
import binascii
import hmac
import json
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any

from starlette.requests import ClientDisconnect

from llava_finetune.serve.limits import Limits

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

PROTECTED = ("/v1/", "/metrics")
LOOPBACK = frozenset({"localhost", "127.0.0.1", "[::1]"})
HEADERS = (
    (
        b"content-security-policy",
        b"default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
        b"style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; media-src 'self' data: blob:; "
        b"font-src 'self' data:; connect-src 'self' data: blob:; "
        b"worker-src 'self' blob:; object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'self'",
    ),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
)


@dataclass(frozen=True)
class Access:
    """Who may ask: the bearer key, user and password (None: not asked for), and the host names this server answers to.

    `hosts` None means any name, for a server behind a proxy or on a public address; a password guards that.
    """

    api_key: str | None = None
    user: str | None = None
    password: str | None = None
    hosts: frozenset[str] | None = LOOPBACK

    @property
    def asks(self) -> bool:
        """Whether the API asks who is there."""
        return bool(self.api_key or self.password)

    def admits(self, authorization: str) -> bool:
        """Whether an Authorization header opens the API."""
        kind, _, value = authorization.partition(" ")
        if kind.lower() == "bearer" and self.api_key:
            return hmac.compare_digest(value.strip().encode(), self.api_key.encode())
        if kind.lower() == "basic" and self.password:
            try:
                given = base64.b64decode(value.strip(), validate=True)
            except (binascii.Error, ValueError):
                return False
            return hmac.compare_digest(given, f"{self.user}:{self.password}".encode())
        return False

    def admits_login(self, user: str, password: str) -> bool:
        """Whether a user and password open the page."""
        expected = f"{self.user}:{self.password}".encode()
        return self.password is not None and hmac.compare_digest(f"{user}:{password}".encode(), expected)


class TooLarge(Exception):
    """A body went past its limit while it was read."""


class Guard:
    """ASGI middleware around everything: page and API alike."""

    def __init__(self, app: Any, access: Access, limits: Limits) -> None:
        self.app, self.access, self.limits = app, access, limits
        self.held = 0  # bytes of the bodies that are being read or answered

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return
        headers = {key.decode("latin-1").lower(): value.decode("latin-1") for key, value in scope["headers"]}
        size = self._body_size(headers)
        problem = self._problem(scope, headers, size)
        if problem is not None:
            await refuse(send, *problem)
            return
        self.held += size
        started = False

        async def guarded_send(message: MutableMapping[str, Any]) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                names = {name for name, _ in HEADERS}
                kept = [pair for pair in message.get("headers", []) if pair[0].lower() not in names]
                message = {**message, "headers": [*kept, *HEADERS]}
            await send(message)

        try:
            body = limited(receive, self.limits.body_bytes)
            if _is_page_call(scope, headers):
                body = await without_remote_files(body)
            await self.app(scope, body, guarded_send)
        except (TooLarge, RemoteFile) as error:
            if started:
                raise
            await refuse(send, *_refusal(error, self.limits))
        except ClientDisconnect:
            return  # the client hung up in the middle of its request: nobody is there to answer
        finally:
            self.held -= size

    def _body_size(self, headers: dict[str, str]) -> int:
        """Bytes that a request announces; the most that is taken where it announces none."""
        length = headers.get("content-length")
        if length is None:
            return self.limits.body_bytes if "transfer-encoding" in headers else 0
        return int(length) if length.isascii() and length.isdigit() and len(length) < 20 else self.limits.body_bytes + 1

    def _problem(self, scope: Scope, headers: dict[str, str], size: int) -> tuple[int, str, str] | None:
        """Status, kind and message of a refusal that the headers alone justify."""
        if sum(len(key) + len(value) for key, value in scope["headers"]) > self.limits.header_bytes:
            return 431, "too_large", f"the headers are larger than {self.limits.header_bytes:,} bytes"
        host = _name(headers.get("host", ""))
        if self.access.hosts is not None and host not in self.access.hosts:
            return 403, "forbidden", f"this server does not answer to the host name {host!r}"
        origin = headers.get("origin")
        if scope["method"] not in ("GET", "HEAD") and origin and origin.split("://", 1)[-1] != headers.get("host"):
            return 403, "forbidden", "requests from other web sites are refused"
        if size > self.limits.body_bytes:
            return 413, "too_large", _too_large(self.limits)
        if (
            self.access.asks
            and scope["path"].startswith(PROTECTED)
            and not self.access.admits(headers.get("authorization", ""))
        ):
            return 401, "authentication_error", "a valid key is needed: Authorization: Bearer KEY"
        if size and self.held + size > self.limits.bodies_bytes:
            return 429, "rate_limit_error", "the server is reading as much as it can hold; ask again later"
        return None


class RemoteFile(Exception):
    """The page was asked to fetch a file from the web."""


def limited(receive: Receive, limit: int) -> Receive:
    """`receive` that raises TooLarge once more than `limit` bytes came, whatever the header said."""
    seen = 0

    async def inner() -> MutableMapping[str, Any]:
        nonlocal seen
        message = await receive()
        seen += len(message.get("body", b""))
        if seen > limit:
            raise TooLarge
        return message

    return inner


async def without_remote_files(receive: Receive) -> Receive:
    """Read a page call whole and refuse file values that name a web address: Gradio would fetch them."""
    messages, body = [], b""
    while True:
        message = await receive()
        messages.append(message)
        body += message.get("body", b"")
        if message["type"] != "http.request" or not message.get("more_body"):
            break
    try:
        value = json.loads(body) if body else None
        found = _names_remote(value)
    except ValueError:
        found = False  # no JSON: the page refuses it
    except RecursionError:
        found = True  # nested as no call of the page is
    if found:
        raise RemoteFile
    pending = iter(messages)

    async def replay() -> MutableMapping[str, Any]:
        return next(pending, None) or await receive()

    return replay


def _names_remote(value: Any) -> bool:
    if isinstance(value, dict):
        path = value.get("path")
        if isinstance(path, str) and "://" in path:
            return True
        return any(map(_names_remote, value.values()))
    return isinstance(value, list) and any(map(_names_remote, value))


def _is_page_call(scope: Scope, headers: dict[str, str]) -> bool:
    return (
        scope["method"] == "POST"
        and scope["path"].startswith("/gradio_api/")
        and "json" in headers.get("content-type", "")
    )


def _name(host: str) -> str:
    """Host name of a Host header, its port taken off."""
    if host.startswith("["):
        return host.partition("]")[0] + "]"
    return host.rpartition(":")[0] if ":" in host else host


def _too_large(limits: Limits) -> str:
    return f"the request is larger than {limits.body_bytes:,} bytes"


def _refusal(error: Exception, limits: Limits) -> tuple[int, str, str]:
    if isinstance(error, TooLarge):
        return 413, "too_large", _too_large(limits)
    return 400, "invalid_request_error", "files are uploaded, not fetched from the web"


async def refuse(send: Send, status: int, kind: str, message: str) -> None:
    """Answer with an error in OpenAI's form."""
    body = json.dumps(error_body(message, kind, kind)).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"connection", b"close"),
    ]
    if status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    if status == 429:
        headers.append((b"retry-after", b"1"))
    await send({"type": "http.response.start", "status": status, "headers": [*headers, *HEADERS]})
    await send({"type": "http.response.body", "body": body})


def error_body(message: str, kind: str, code: str | None = None) -> dict[str, Any]:
    """An error as OpenAI's clients read it."""
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}
