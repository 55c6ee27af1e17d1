"""A server under load and abuse: clients that ask well beside requests that are wrong, and what it holds in memory.

    llava-finetune serve runs/quickstart/merged --no-compare --no-page --port 8123 &
    python benchmarks/soak.py --url http://127.0.0.1:8123 --pid $! --minutes 10 --clients 32 --bad 200

Prints a line a minute (answers, errors of the good ones, resident memory) and a table at the end. Only asks servers of
this machine. Exit codes: 0 every good request was answered or told to wait, and every bad one was refused; 1 not.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import io
import itertools
import json
import random
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import urlsplit

import httpx
import psutil
from PIL import Image


def picture(width: int, height: int) -> dict[str, Any]:
    """A part with a noisy picture."""
    out = io.BytesIO()
    Image.effect_noise((width, height), 60).convert("RGB").save(out, "JPEG")
    return {
        "type": "image_url",
        "image_url": {"url": f"data:image/jpeg;base64,{base64.b64encode(out.getvalue()).decode()}"},
    }


def asked(model: str, content: Any, **more: Any) -> dict[str, Any]:
    """The body of a request."""
    return {"model": model, "messages": [{"role": "user", "content": content}], "max_tokens": 16, **more}


def bad_bodies(model: str) -> Iterator[bytes]:
    """Wrong requests of every kind, again and again."""

    def text(**change: Any) -> bytes:
        return json.dumps(asked(model, "Hi", **change)).encode()

    def raw(content: str) -> bytes:
        return ('{"model": "' + model + '", "messages": [{"role": "user", "content": ' + content + "}]}").encode()

    kinds = [
        lambda: b"{",
        lambda: b"[" * 50_000,
        lambda: text(messages=[{"role": "user", "content": "a" * 40_000_000}]),
        lambda: raw("[" + '{"type":"text"},' * 2_000_000 + "{}]"),
        lambda: json.dumps(asked(model, [picture(6000, 6000)] * 8)).encode(),
        lambda: raw('"\\ud800"'),
        lambda: text(temperature=-1),
        lambda: text(logit_bias={"1": 2}),
        lambda: text(stop=["x" * 1000]),
        lambda: json.dumps({"model": "another", "messages": []}).encode(),
        lambda: json.dumps(asked(model, [{"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}])).encode(),
        lambda: json.dumps(asked(model, [picture(22_000, 1)] * 2)).encode(),
    ]
    yield from (kind() for kind in itertools.cycle(kinds))


async def good_client(session: httpx.AsyncClient, url: str, model: str, end: float, seen: Counter[str]) -> None:
    """Ask, wait, ask again until `end`."""
    while time.monotonic() < end:
        content = [picture(random.randint(50, 400), random.randint(50, 400)), {"type": "text", "text": "What is it?"}]
        began = time.monotonic()
        try:
            status = (await session.post(f"{url}/v1/chat/completions", json=asked(model, content))).status_code
        except httpx.HTTPError as error:
            seen[type(error).__name__] += 1
            continue
        seen[str(status)] += 1
        seen["milliseconds"] += round((time.monotonic() - began) * 1000)
        if status == 429:
            await asyncio.sleep(1)


async def bad_client(
    session: httpx.AsyncClient, url: str, model: str, count: int, pause: float, seen: Counter[str]
) -> None:
    """Send `count` wrong requests, one after another."""
    for body in itertools.islice(bad_bodies(model), count):
        try:
            reply = await session.post(
                f"{url}/v1/chat/completions", content=body, headers={"content-type": "application/json"}
            )
            seen[str(reply.status_code)] += 1
        except httpx.HTTPError as error:
            seen[type(error).__name__] += 1  # refused while it was still being sent
        await asyncio.sleep(pause)


async def soak(options: argparse.Namespace) -> int:
    """Run the clients and tell what came."""
    # Apart, and given up before the server does: a connection that it has closed would be taken for a failed request.
    connections = httpx.Limits(max_connections=None, keepalive_expiry=2)
    async with (
        httpx.AsyncClient(timeout=300, limits=connections) as session,
        httpx.AsyncClient(timeout=300, limits=connections) as hostile,
    ):
        model = (await session.get(f"{options.url}/v1/models")).json()["data"][0]["id"]
        good: Counter[str] = Counter()
        bad: Counter[str] = Counter()
        process = psutil.Process(options.pid) if options.pid else None
        seconds = options.minutes * 60
        end = time.monotonic() + seconds
        tasks = [good_client(session, options.url, model, end, good) for _ in range(options.clients)]
        tasks.append(bad_client(hostile, options.url, model, options.bad, seconds / max(1, options.bad) / 2, bad))
        running = [asyncio.create_task(task) for task in tasks]
        memory = []
        while not all(task.done() for task in running):
            await asyncio.sleep(min(60, seconds / 10))
            memory.append(process.memory_info().rss / 1e6 if process else 0.0)
            print(f"{dict(good)} bad {dict(bad)} {memory[-1]:.0f} MB", flush=True)
        await asyncio.gather(*running)
    milliseconds = good.pop("milliseconds", 0) / max(1, sum(good.values()))
    print(f"| good requests answered | {good['200']}, {milliseconds:.0f} ms each |")
    print(f"| good requests told to wait (429) | {good['429']} |")
    wrong = {key: value for key, value in good.items() if key not in ("200", "429")}
    print(f"| good requests that failed | {wrong or 0} |")
    print(f"| bad requests | {dict(bad)} |")
    print(f"| resident memory, first to last and highest | {memory[0]:.0f}, {memory[-1]:.0f}, {max(memory):.0f} MB |")
    return int(bool(wrong) or bad["200"] > 0 or any(key.startswith("5") for key in bad))


def main(argv: Sequence[str] | None = None) -> int:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:8123")
    parser.add_argument("--pid", type=int, help="the server's process, whose memory is watched")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--bad", type=int, default=200)
    options = parser.parse_args(argv)
    if urlsplit(options.url).hostname not in ("127.0.0.1", "localhost", "::1"):
        parser.error("--url: only servers of this machine are put under load")
    return asyncio.run(soak(options))


if __name__ == "__main__":
    raise SystemExit(main())
