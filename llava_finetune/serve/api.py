"""The HTTP API: OpenAI-compatible chat completions, models, health and metrics.

app = build_app(Server({"mine": engine}, Limits(), Access()))
"""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from pydantic import ValidationError

from llava_finetune.errors import UserError
from llava_finetune.serve.engine import Done, Engine, Event, Failed, QueueFull, ShuttingDown, Text, Ticket
from llava_finetune.serve.guards import Access, Guard, error_body
from llava_finetune.serve.limits import Limits
from llava_finetune.serve.metrics import CONTENT_TYPE, Metrics
from llava_finetune.serve.protocol import ChatRequest

FINISH = {"stop": "stop", "length": "length", "cancel": "stop"}
PREPARED_AT_ONCE = 2
"""Requests whose pictures are decoded at the same time: each may hold `Limits.pixels` pixels several times over."""


@dataclass
class Server:
    """What the routes share: engines by model name, limits, access, and how many API answers are under way."""

    engines: Mapping[str, Engine]
    limits: Limits = field(default_factory=Limits)
    access: Access = field(default_factory=Access)
    started: int = field(default_factory=lambda: int(time.time()))
    under_way: int = 0
    preparing: Counter[str] = field(default_factory=Counter)
    decoding: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(PREPARED_AT_ONCE))

    def refuse_when_full(self, name: str) -> None:
        """Raise Refused (429) when a model's queue, with the requests whose pictures are being decoded, is full."""
        engine = self.engines[name]
        waiting = len(engine.waiting) + self.preparing[name]
        if waiting >= engine.max_queue:
            raise Refused(
                429, f"{waiting} requests are waiting already; ask again later", "rate_limit_error", "queue_full"
            )

    def __post_init__(self) -> None:
        self.metrics = Metrics(self.engines)


class Refused(Exception):
    """A request that is answered with an error status."""

    def __init__(self, status: int, message: str, kind: str, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.kind, self.code = status, kind, code

    def response(self) -> JSONResponse:
        """The error as OpenAI's clients read it; 429 and 503 say when to ask again."""
        headers = {"retry-after": "1"} if self.status in (429, 503) else None
        return JSONResponse(error_body(str(self), self.kind, self.code), self.status, headers)


def build_app(server: Server) -> FastAPI:
    """The application without the page; `page.mount` adds that."""
    app = FastAPI(title="llava-finetune", docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(Guard, access=server.access, limits=server.limits)

    @app.get("/health")
    async def health() -> dict[str, Any]:
        closing = any(engine.closing for engine in server.engines.values())
        return {"status": "closing" if closing else "ok", "models": list(server.engines)}

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(server.metrics.render(), media_type=CONTENT_TYPE)

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [_model(name, server) for name in server.engines]}

    @app.get("/v1/models/{name:path}")
    async def model(name: str) -> Any:
        if name not in server.engines:
            return _unknown_model(name, server).response()
        return _model(name, server)

    @app.post("/v1/chat/completions")
    async def completions(request: Request) -> Any:
        return await _complete(request, server)

    @app.api_route("/v1/{path:path}", methods=["GET", "POST", "PUT", "PATCH", "DELETE"])
    async def nothing(path: str) -> Any:
        message = f"there is no /v1/{path[:100]} here; ask /v1/chat/completions, or see /v1/models"
        return Refused(404, message, "invalid_request_error", "not_found").response()

    return app


async def _complete(request: Request, server: Server) -> Response:
    """The answer to a chat request, whole or as a stream, or its refusal; both are counted."""
    name = "unknown"
    try:
        if len(server.engines) == 1:  # before the body is read for nothing
            server.refuse_when_full(next(iter(server.engines)))
        asked = await _parse(request, server.limits)
        name = asked.model if asked.model in server.engines else "unknown"
        answer = await _begin(asked, server)
    except Refused as refusal:
        server.metrics.refused(name, refusal.status)
        return refusal.response()
    if asked.stream:
        return StreamingResponse(_stream(answer, asked, server), media_type="text/event-stream")
    return await _whole(answer, server, request)


@dataclass
class _Answer:
    """An accepted request: its id, its ticket, and the events as they come into the event loop."""

    model: str
    ticket: Ticket
    events: asyncio.Queue[Event]
    id: str = field(default_factory=lambda: f"chatcmpl-{uuid.uuid4().hex}")
    created: int = field(default_factory=lambda: int(time.time()))

    def body(self, kind: str, choice: dict[str, Any] | None, **more: Any) -> dict[str, Any]:
        """A completion object or chunk."""
        choices = [{"index": 0, "logprobs": None, **choice}] if choice is not None else []
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model, "choices": choices, **more}


async def _parse(request: Request, limits: Limits) -> ChatRequest:
    """The checked body. A cross-site form can post text without asking, so only JSON is taken."""
    if "application/json" not in request.headers.get("content-type", ""):
        raise Refused(415, "send JSON with Content-Type: application/json", "invalid_request_error")
    try:
        body = await asyncio.wait_for(request.body(), limits.body_seconds)
    except asyncio.TimeoutError:
        message = f"the body took longer than {limits.body_seconds:g} s to arrive"
        raise Refused(408, message, "invalid_request_error") from None
    if (count := sum(map(body.count, (b"{", b"[", b",")))) > limits.values:  # counted before they become objects
        message = f"the body holds about {count:,} values, at most {limits.values:,} are taken"
        raise Refused(413, message, "invalid_request_error", "too_large")
    try:
        return ChatRequest.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        if first["type"] == "json_invalid":
            problem = first["msg"].removeprefix("Invalid JSON: ")
            raise Refused(400, f"the body is not valid JSON: {problem}", "invalid_request_error") from None
        place = ".".join(str(part) for part in first["loc"]) or "body"
        raise Refused(400, f"{place[:200]}: {first['msg']}", "invalid_request_error") from None


async def _begin(asked: ChatRequest, server: Server) -> _Answer:
    """Decode pictures beside the event loop, then queue the request."""
    engine = server.engines.get(asked.model)
    if engine is None:
        raise _unknown_model(asked.model, server)
    server.refuse_when_full(asked.model)
    loop, events = asyncio.get_running_loop(), asyncio.Queue[Event]()
    sampling = asked.sampling()

    def prepare() -> Any:
        asked.refuse_unsupported(engine.loaded.context_length)
        return engine.prompt(asked.to_messages(server.limits))

    server.preparing[asked.model] += 1
    try:
        async with server.decoding:
            prompt = await asyncio.to_thread(prepare)
        ticket = engine.submit(prompt, sampling, _into(loop, events))
    except QueueFull as error:
        raise Refused(429, str(error), "rate_limit_error", "queue_full") from None
    except ShuttingDown as error:
        raise Refused(503, str(error), "server_error", "shutting_down") from None
    except UserError as error:
        raise Refused(400, str(error), "invalid_request_error") from None
    finally:
        server.preparing[asked.model] -= 1
    return _Answer(asked.model, ticket, events)


def _into(loop: asyncio.AbstractEventLoop, events: asyncio.Queue[Event]) -> Callable[[Event], None]:
    """Carry events from the engine's thread into the event loop."""

    def notify(event: Event) -> None:
        if not loop.is_closed():
            loop.call_soon_threadsafe(events.put_nowait, event)

    return notify


async def _stream(answer: _Answer, asked: ChatRequest, server: Server) -> AsyncIterator[str]:
    """Server-sent events; when the client goes away the answer stops."""
    kind = "chat.completion.chunk"
    server.under_way += 1
    try:
        yield _sse(answer.body(kind, {"delta": {"role": "assistant", "content": ""}, "finish_reason": None}))
        while True:
            event = await answer.events.get()
            if isinstance(event, Text):
                yield _sse(answer.body(kind, {"delta": {"content": event.text}, "finish_reason": None}))
            elif isinstance(event, Failed):
                server.metrics.refused(answer.model, 500)
                yield _sse(error_body(event.message, "server_error"))
                return
            else:
                server.metrics.answered(answer.model, event)
                yield _sse(answer.body(kind, {"delta": {}, "finish_reason": FINISH[event.reason]}))
                if asked.stream_options and asked.stream_options.include_usage:
                    yield _sse(answer.body(kind, None, usage=_usage(event)))
                yield "data: [DONE]\n\n"
                return
    finally:
        server.under_way -= 1
        answer.ticket.cancel()


async def _whole(answer: _Answer, server: Server, request: Request) -> JSONResponse:
    """The answer in one piece; when the client goes away it stops."""
    text = ""
    server.under_way += 1
    try:
        while True:
            try:
                event = await asyncio.wait_for(answer.events.get(), 0.5)
            except asyncio.TimeoutError:
                if await request.is_disconnected():
                    answer.ticket.cancel()
                continue
            if isinstance(event, Text):
                text += event.text
            elif isinstance(event, Failed):
                server.metrics.refused(answer.model, 500)
                return Refused(500, event.message, "server_error").response()
            else:
                server.metrics.answered(answer.model, event)
                choice = {"message": {"role": "assistant", "content": text}, "finish_reason": FINISH[event.reason]}
                return JSONResponse(answer.body("chat.completion", choice, usage=_usage(event)))
    finally:
        server.under_way -= 1
        answer.ticket.cancel()


def _sse(value: dict[str, Any]) -> str:
    return f"data: {json.dumps(value)}\n\n"


def _usage(done: Done) -> dict[str, int]:
    total = done.prompt_tokens + done.completion_tokens
    return {"prompt_tokens": done.prompt_tokens, "completion_tokens": done.completion_tokens, "total_tokens": total}


def _model(name: str, server: Server) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": server.started, "owned_by": "llava-finetune"}


def _unknown_model(name: str, server: Server) -> Refused:
    known = ", ".join(server.engines)
    return Refused(404, f"no model {name[:100]!r} here; there is {known}", "invalid_request_error", "model_not_found")
