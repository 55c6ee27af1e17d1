"""A chat-completions server on this machine: valid answers by default, any other by a function of the request."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

WORDS = "A small brown dog lies on green grass beside a red ball while two children in blue coats walk behind it "
ANSWERS = {
    "conversation": {
        "turns": [
            {"question": "What animal is on the grass?", "answer": "A small brown dog."},
            {"question": "What lies beside it?", "answer": "A red ball."},
        ]
    },
    "detail": {"description": WORDS + "towards a wooden house with a white door."},
    "reasoning": {"question": "Why may the dog be waiting?", "answer": WORDS + "so somebody may throw the ball."},
}

MARKS = {"conversation": "Write a conversation", "detail": "Write a detailed", "reasoning": "Write one question"}

Answer = tuple[int, Any]
"""A status, and the text of the answer (or any value: sent as JSON text)."""


def style_of(request: dict[str, Any]) -> str:
    """Which prompt was sent."""
    system = request["messages"][0]["content"]
    return next(style for style, word in MARKS.items() if word in system)


class Endpoint:
    """The requests that came, the most at one time, and what to answer."""

    def __init__(self) -> None:
        self.requests: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.answer: Callable[[dict[str, Any], int], Answer] = lambda request, number: (200, valid(request))
        self.finish = "stop"
        self.address = ""
        self.at_once = self.most_at_once = 0
        self.lock = threading.Lock()


def valid(request: dict[str, Any]) -> str:
    """The answer that the prompt asks for, in a fence, as many models write it."""
    return f"Here it is:\n```json\n{json.dumps(ANSWERS[style_of(request)])}\n```"


@contextmanager
def serve() -> Iterator[Endpoint]:
    """Run the server on a free port of this machine."""
    endpoint = Endpoint()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with endpoint.lock:
                endpoint.requests.append(request)
                endpoint.keys.append(self.headers["Authorization"])
                number = len(endpoint.requests)
                endpoint.at_once += 1
                endpoint.most_at_once = max(endpoint.most_at_once, endpoint.at_once)
            status, text = endpoint.answer(request, number)
            with endpoint.lock:
                endpoint.at_once -= 1
            self._reply(status, text if isinstance(text, str) else json.dumps(text))

        def _reply(self, status: int, text: str) -> None:
            message = {"role": "assistant", "content": text}
            choice = {"index": 0, "message": message, "finish_reason": endpoint.finish}
            usage = {"prompt_tokens": 100, "completion_tokens": 50, "total_tokens": 150}
            body = {"id": "x", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]}
            value = {**body, "usage": usage} if status == 200 else {"error": {"message": text}}
            raw = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(raw)))
            if status == 429:
                self.send_header("Retry-After", "0.01")
            with suppress(ConnectionError):  # a client that went; its traceback would stand in a later test's text
                self.end_headers()
                self.wfile.write(raw)

        def log_message(self, *arguments: Any) -> None:
            """Stay silent."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    endpoint.address = f"http://127.0.0.1:{server.server_address[1]}/v1"
    try:
        yield endpoint
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
