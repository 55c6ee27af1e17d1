"""The API through the official OpenAI client, and what the protocol promises beside it."""

from __future__ import annotations

import asyncio
import json
import re
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import openai
import pytest


@pytest.fixture
def client(api: Any) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{api.url}/v1", api_key="unused", max_retries=0, timeout=60)


def pictured(kit: SimpleNamespace, count: int = 1, text: str = "What is it?") -> list[dict[str, Any]]:
    parts = [{"type": "image_url", "image_url": {"url": kit.data_url(kit.noise(60 + n, 40, n))}} for n in range(count)]
    return [{"role": "user", "content": [*parts, {"type": "text", "text": text}]}]


def test_a_question_with_a_picture_is_answered_as_in_the_terminal(
    client: openai.OpenAI, loaded: Any, kit: SimpleNamespace
) -> None:
    from llava_finetune.serve.engine import Engine, Text
    from llava_finetune.serve.prompts import Message
    from llava_finetune.serve.sampling import Sampling

    out = client.chat.completions.create(model="tiny", messages=pictured(kit), max_tokens=12)
    engine = Engine(loaded).start()
    ticket = engine.submit(engine.prompt([Message("user", "What is it?", (kit.noise(60, 40, 0),))]), Sampling(12))
    expected = "".join(event.text for event in ticket if isinstance(event, Text))
    engine.close()
    assert out.choices[0].message.content == expected != ""
    assert out.choices[0].finish_reason == "length"
    assert out.usage.completion_tokens == 12
    assert out.usage.total_tokens == out.usage.prompt_tokens + 12


def test_streaming_gives_the_same_text_in_pieces_and_the_usage(client: openai.OpenAI, kit: SimpleNamespace) -> None:
    asked = {"model": "tiny", "messages": pictured(kit, 2), "max_completion_tokens": 20}
    whole = client.chat.completions.create(**asked).choices[0].message.content
    chunks = list(client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
    pieces = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    assert "".join(pieces) == whole
    assert sum(bool(piece) for piece in pieces) > 3
    assert chunks[-2].choices[0].finish_reason == "length"
    assert chunks[-1].usage.completion_tokens == 20


def test_several_turns_pictures_and_a_system_message_are_taken(client: openai.OpenAI, kit: SimpleNamespace) -> None:
    messages = [{"role": "system", "content": "Be brief."}, *pictured(kit, 3)]
    messages += [{"role": "assistant", "content": "A box."}, {"role": "user", "content": "Sure?"}]
    out = client.chat.completions.create(
        model="tiny", messages=messages, max_tokens=3, temperature=0.7, top_p=0.9, seed=3
    )
    again = client.chat.completions.create(
        model="tiny", messages=messages, max_tokens=3, temperature=0.7, top_p=0.9, seed=3
    )
    assert out.choices[0].message.content == again.choices[0].message.content


def test_stop_texts_end_an_answer(client: openai.OpenAI) -> None:
    asked = {"model": "tiny", "messages": [{"role": "user", "content": "Say"}], "max_tokens": 30}
    whole = client.chat.completions.create(**asked).choices[0].message.content
    stop = whole[len(whole) // 2 : len(whole) // 2 + 2]
    out = client.chat.completions.create(**asked, stop=[stop]).choices[0]
    assert out.message.content == whole[: whole.find(stop)].rstrip()
    assert out.finish_reason == "stop"


def test_the_client_in_the_docs_is_answered(
    api: Any,
    root: Path,
    kit: SimpleNamespace,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", (root / "docs/chat.md").read_text(), re.DOTALL)
    code = code.replace("http://127.0.0.1:8000", api.url).replace('model="mine"', 'model="tiny", max_tokens=5')
    monkeypatch.chdir(tmp_path)
    kit.noise(60, 40).save("dog.jpg")
    exec(compile(code, "docs/chat.md", "exec"), {})
    assert capsys.readouterr().out.strip()


def test_models_are_listed_and_an_unknown_one_is_an_error(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["tiny"]
    assert client.models.retrieve("tiny").id == "tiny"
    with pytest.raises(openai.NotFoundError, match="no model 'gpt-5' here; there is tiny"):
        client.chat.completions.create(model="gpt-5", messages=[{"role": "user", "content": "Hi"}])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n": 2}, "n is not supported here; serve the exported model with vLLM"),
        ({"logprobs": True}, "logprobs is not supported here"),
        ({"temperature": 3}, "temperature: Input should be less than or equal to 2"),
        ({"max_tokens": 0}, "max_tokens: Input should be greater than or equal to 1"),
        ({"stop": ["a", "b", "c", "d", "e"]}, "stop: at most 4 texts"),
        ({"messages": []}, "messages: List should have at least 1 item"),
    ],
)
def test_what_is_not_done_is_refused_not_ignored(client: openai.OpenAI, change: dict[str, Any], message: str) -> None:
    asked = {"model": "tiny", "messages": [{"role": "user", "content": "Hi"}], **change}
    with pytest.raises(openai.BadRequestError, match=message):
        client.chat.completions.create(**asked)


def test_concurrent_requests_are_batched_and_answered_as_alone(
    client: openai.OpenAI, api: Any, kit: SimpleNamespace
) -> None:
    def ask(number: int) -> str:
        messages = pictured(kit, number % 2 + 1, f"Number {number}")
        return client.chat.completions.create(model="tiny", messages=messages, max_tokens=40).choices[0].message.content

    alone = [ask(number) for number in range(6)]
    engine = api.server.engines["tiny"]
    engine.largest_batch = 0
    with ThreadPoolExecutor(6) as pool:
        together = list(pool.map(ask, range(6)))
    assert together == alone
    assert engine.largest_batch > 1


def test_a_thousand_requests_at_once_are_answered_or_told_to_wait(api: Any) -> None:
    body = {"model": "tiny", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 30}

    async def ask_all() -> list[httpx.Response]:
        anything = httpx.Limits(max_connections=None, max_keepalive_connections=0)
        async with httpx.AsyncClient(timeout=120, limits=anything) as session:
            url = f"{api.url}/v1/chat/completions"
            return await asyncio.gather(*(session.post(url, json=body) for _ in range(1000)))

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # both ends of each connection are in this process
    try:
        responses = asyncio.run(ask_all())
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    refused = [response for response in responses if response.status_code == 429]
    assert {response.status_code for response in responses} == {200, 429}
    assert len(responses) - len(refused) >= api.server.engines["tiny"].max_queue
    assert {response.headers["retry-after"] for response in refused} == {"1"}
    told = {response.json()["error"]["message"] for response in refused}
    assert all(text.endswith("requests are waiting already; ask again later") for text in told)
    assert len(api.server.engines["tiny"].waiting) == 0
    assert httpx.get(f"{api.url}/health").json()["status"] == "ok"


def test_an_abandoned_stream_stops_the_answer(api: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = api.server.engines["tiny"]
    monkeypatch.setattr(engine, "stops", set())  # it would go on to its last token
    body = {"model": "tiny", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1500, "stream": True}
    body |= {"temperature": 2.0, "seed": 7}
    with httpx.stream("POST", f"{api.url}/v1/chat/completions", json=body, timeout=60) as response:
        next(response.iter_lines())
    before, deadline = engine.tokens, time.monotonic() + 20
    while engine.busy:
        assert time.monotonic() < deadline, "the answer goes on although nobody reads it"
        time.sleep(0.05)
    assert engine.tokens - before < 1500


def test_an_error_in_the_model_is_told_in_openai_form(
    client: openai.OpenAI, api: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(prompts: object) -> None:
        raise RuntimeError("out of ideas")

    monkeypatch.setattr(api.server.engines["tiny"].batch, "join", broken)
    with pytest.raises(openai.InternalServerError, match="RuntimeError: out of ideas"):
        client.chat.completions.create(model="tiny", messages=[{"role": "user", "content": "Hi"}])


def test_metrics_count_requests_and_tokens_and_hold_no_words(client: openai.OpenAI, api: Any) -> None:
    def value(name: str) -> float:
        lines = httpx.get(f"{api.url}/metrics").text.splitlines()
        return next((float(line.split()[-1]) for line in lines if line.startswith(name)), 0.0)

    before = value('llava_completion_tokens_total{model="tiny"}')
    client.chat.completions.create(
        model="tiny", messages=[{"role": "user", "content": "zyzzyva secret question"}], max_tokens=5
    )
    assert value('llava_completion_tokens_total{model="tiny"}') == before + 5
    text = httpx.get(f"{api.url}/metrics").text
    for name in (
        "llava_requests_total",
        "llava_waiting_requests",
        "llava_first_token_seconds_bucket",
        "llava_largest_batch",
    ):
        assert name in text
    assert "zyzzyva" not in text


def start_server(adapter: Path, *flags: str, **environment: str) -> tuple[subprocess.Popen[str], str, list[str]]:
    """`llava-finetune serve` in its own process; returns it, its address and the lines it printed."""
    import os

    command = [sys.executable, "-m", "llava_finetune", "serve", str(adapter), "--port", "0", "--dtype", "fp32", *flags]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=Path(__file__).parents[2],
        env={**os.environ, **environment},
    )
    lines: list[str] = []
    assert process.stdout is not None
    for line in process.stdout:
        lines.append(line)
        if " on http://" in line:
            return process, line.rsplit(" ", 1)[-1].strip().removesuffix("/v1"), lines
    raise AssertionError("".join(lines))


def test_sigterm_finishes_the_answer_under_way_and_refuses_new_ones(adapter: Path) -> None:
    secrets = {"LLAVA_API_KEY": "s3cr3t-key", "LLAVA_SERVE_PASSWORD": "pw-77c"}
    process, url, lines = start_server(adapter, "--no-page", "--no-compare", "--user", "me", **secrets)
    reader = threading.Thread(target=lambda: lines.extend(process.stdout or []), daemon=True)
    reader.start()
    body = {"model": "run", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1500, "stream": True}
    body |= {"temperature": 1.9, "seed": 11}
    headers = {"Authorization": "Bearer s3cr3t-key"}
    assert httpx.get(f"{url}/v1/models", auth=("me", "wr0ng-pw")).status_code == 401
    assert httpx.get(f"{url}/v1/models", auth=("me", "pw-77c")).status_code == 200
    with httpx.stream("POST", f"{url}/v1/chat/completions", json=body, headers=headers, timeout=120) as response:
        assert response.status_code == 200
        events = response.iter_lines()
        next(events)
        process.send_signal(signal.SIGTERM)
        rest = [line for line in events if line]
    assert rest[-1] == "data: [DONE]"
    reason = json.loads(rest[-2].removeprefix("data: "))["choices"][0]["finish_reason"]
    assert reason in ("length", "stop")
    assert process.wait(30) == 0
    reader.join(5)
    output = "".join(lines)
    assert "stopped" in output
    assert re.search(r"run: \d+ tokens answered, \d+\.\d tokens/s", output)
    assert not any(secret in output for secret in (*secrets.values(), "wr0ng-pw"))
    assert "Traceback" not in output
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{url}/health")


def test_a_busy_port_is_told_at_once(adapter: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from llava_finetune.cli import main

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert main(["serve", str(adapter), "--port", str(port)]) == 1
    assert f"cannot listen on 127.0.0.1:{port}" in capsys.readouterr().err
