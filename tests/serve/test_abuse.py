"""What a request may cost: text, values, pictures, headers and time are bounded; a bad request harms no other."""

from __future__ import annotations

import socket
import time
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from PIL import Image

from llava_finetune.serve.api import Server, build_app
from llava_finetune.serve.engine import Done, Engine, Failed
from llava_finetune.serve.limits import Limits
from llava_finetune.serve.prompts import Message
from llava_finetune.serve.sampling import Sampling

JSON = {"content-type": "application/json"}


def post(api: Any, **change: Any) -> httpx.Response:
    body = {"model": "tiny", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2, **change}
    return httpx.post(f"{api.url}/v1/chat/completions", json=body, timeout=60)


def post_text(api: Any, text: str | bytes) -> httpx.Response:
    return httpx.post(f"{api.url}/v1/chat/completions", content=text, headers=JSON, timeout=60)


def problem(response: httpx.Response) -> str:
    return str(response.json()["error"]["message"])


@pytest.mark.parametrize(
    "change",
    [
        {"logit_bias": {"5": 10}},
        {"frequency_penalty": 0.5},
        {"presence_penalty": -1},
        {"repetition_penalty": 1.2},
        {"top_k": 5},
        {"min_p": 0.1},
        {"best_of": 3},
        {"top_logprobs": 2},
        {"tools": [{"type": "function"}]},
        {"tool_choice": {"type": "function"}},
        {"response_format": {"type": "json_object"}},
        {"guided_json": {}},
        {"modalities": ["audio"]},
    ],
    ids=lambda change: next(iter(change)),
)
def test_what_would_change_an_answer_is_refused_by_its_name(api: Any, change: dict[str, Any]) -> None:
    response = post(api, **change)
    assert response.status_code == 400
    assert problem(response).startswith(f"{next(iter(change))} is not supported here; serve the exported model with")


def test_fields_at_their_neutral_values_and_fields_that_change_nothing_are_taken(api: Any) -> None:
    neutral = {"logit_bias": {}, "frequency_penalty": 0, "presence_penalty": 0.0, "top_k": -1, "n": 1, "tools": []}
    ignored = {"user": "me", "metadata": {"a": "b"}, "store": False, "tool_choice": "auto", "logprobs": None}
    assert post(api, **neutral, **ignored).status_code == 200


@pytest.mark.parametrize("path", ["responses", "completions", "embeddings", "chat", "audio/speech"])
def test_what_is_not_served_is_a_404_that_names_what_is(api: Any, path: str) -> None:
    response = httpx.post(f"{api.url}/v1/{path}", json={"model": "tiny", "input": "Hi", "prompt": "Hi"})
    assert response.status_code == 404
    assert problem(response) == f"there is no /v1/{path} here; ask /v1/chat/completions, or see /v1/models"


def test_a_text_that_cannot_fit_is_refused_before_it_is_tokenised(api: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = api.server.engines["tiny"]
    monkeypatch.setattr(engine, "prompt", lambda messages: pytest.fail("the text was looked at"))
    response = post(api, messages=[{"role": "user", "content": "a" * (engine.loaded.context_length * 32 + 1)}])
    assert response.status_code == 400
    assert "characters, and the model reads" in problem(response)


@pytest.mark.parametrize(
    "text",
    ['{"model": "tiny", "messages": [{"role": "user", "content": [' + '{"type":"text"},' * 100_001 + "{}]}]}",
     '{"model": "tiny", "extra": [' + "1," * 200_000 + "1]}", '{"a":' * 100_001 + "1" + "}" * 100_001],
    ids=["parts", "numbers", "nested"],
)  # fmt: skip
def test_more_values_than_a_conversation_has_are_refused_before_they_become_objects(
    api: Any, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "llava_finetune.serve.protocol.ChatRequest.model_validate_json", lambda body: pytest.fail("the body was parsed")
    )
    response = post_text(api, text)
    assert response.status_code == 413
    assert "values, at most 100,000 are taken" in problem(response)


@pytest.mark.parametrize(
    "text",
    [
        '{"model": "tiny", "messages": [{"role": "user", "content": "\\ud800"}]}',
        '{"model": "\\udfff", "messages": [{"role": "user", "content": "Hi"}]}',
        '{"\\ud83d": 1, "model": "tiny", "messages": [{"role": "user", "content": "Hi"}]}',
        '{"model": "tiny", "stop": "\\ud800", "messages": [{"role": "user", "content": "Hi"}]}',
        '{"model": "tiny", "seed": ' + "9" * 5000 + ', "messages": [{"role": "user", "content": "Hi"}]}',
        '{"model": "tiny", "temperature": NaN, "messages": [{"role": "user", "content": "Hi"}]}',
        '{"model": "tiny", "temperature": 1e999, "messages": [{"role": "user", "content": "Hi"}]}',
        '{"model": "tiny", "max_tokens": 1.5, "messages": [{"role": "user", "content": "Hi"}]}',
        '{"model": "tiny", "messages": [{"role": "user", "content": {"type": "text"}}]}',
        '{"model": "tiny", "messages": [{"role": "user", "content": [[]]}]}',
    ],
)
def test_half_characters_and_impossible_numbers_are_the_clients_fault(api: Any, text: str) -> None:
    response = post_text(api, text)
    assert response.status_code == 400
    assert problem(response)


@pytest.mark.parametrize(
    "change",
    [{"max_tokens": 10**30}, {"temperature": 1e-320}, {"temperature": 1e-30}, {"top_p": 1e-320, "temperature": 1}],
)
def test_extreme_numbers_that_mean_something_are_answered(api: Any, change: dict[str, Any]) -> None:
    assert post(api, **{"stop": "a", "max_tokens": 3, **change}).status_code == 200


def test_the_pictures_of_a_request_share_its_pixels(api: Any, kit: SimpleNamespace) -> None:
    part = {"type": "image_url", "image_url": {"url": kit.data_url(Image.new("L", (1500, 1500)))}}
    assert post(api, messages=[{"role": "user", "content": [part]}]).status_code == 200
    response = post(api, messages=[{"role": "user", "content": [part, part]}])
    assert response.status_code == 400
    assert "(the pictures of a request share 4,000,000 pixels)" in problem(response)


def test_headers_are_bounded(api: Any) -> None:
    response = httpx.get(f"{api.url}/health", headers={"x-long": "a" * 40_000})
    assert response.status_code == 431
    try:
        status = httpx.get(f"{api.url}/health", headers={"x-long": "a" * 1_000_000}).status_code
    except (httpx.ReadError, httpx.WriteError):
        return  # the server hung up while they came, which is as good
    assert status in (400, 431)


def half_a_request(url: str, rest: bytes = b"") -> socket.socket:
    host, port = url.removeprefix("http://").split(":")
    out = socket.create_connection((host, int(port)))
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: {host}:{port}\r\ncontent-type: application/json\r\n"
    out.sendall(head.encode() + b"content-length: 1000\r\n\r\n" + b'{"model": ' + rest)
    return out


def test_a_client_that_hangs_up_in_the_middle_of_a_body_leaves_no_traceback(
    api: Any, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(5):
        half_a_request(api.url).close()
    time.sleep(0.3)
    assert post(api).status_code == 200
    assert not [record for record in caplog.records if record.exc_info]


def test_a_body_that_never_ends_is_given_up(loaded: Any, kit: SimpleNamespace) -> None:
    server = Server({"tiny": Engine(loaded).start()}, Limits(body_seconds=0.4))
    with kit.serving(server, build_app(server)) as running, half_a_request(running.url) as waiting:
        waiting.settimeout(60)
        assert b"408 Request Timeout" in waiting.recv(100)


def test_all_bodies_together_are_bounded(loaded: Any, kit: SimpleNamespace) -> None:
    def ask_until(url: Any, status: int) -> httpx.Response:
        deadline = time.monotonic() + 60
        while (response := post(url)).status_code != status:
            assert time.monotonic() < deadline, response.text
            time.sleep(0.05)
        return response

    server = Server({"tiny": Engine(loaded).start()}, Limits(body_bytes=2000, bodies_bytes=2000))
    with kit.serving(server, build_app(server)) as running:
        waiting = [half_a_request(running.url) for _ in range(2)]
        assert ask_until(running, 429).headers["retry-after"] == "1"
        for each in waiting:
            each.close()
        ask_until(running, 200)


def test_a_request_that_cannot_be_sampled_ends_alone(loaded: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from llava_finetune.serve import engine as module

    choose = module.choose

    def broken(logits: Any, sampling: Sampling, generator: Any) -> int:
        if sampling.seed == 13:
            raise RuntimeError("probability tensor contains nan")
        return choose(logits, sampling, generator)

    monkeypatch.setattr(module, "choose", broken)
    engine = Engine(loaded)
    prompt = engine.prompt([Message("user", "Hi")])
    tickets = [engine.submit(prompt, Sampling(5, seed=seed)) for seed in (1, 13, 2)]
    engine.start()
    ends = [list(ticket)[-1] for ticket in tickets]
    engine.close()
    assert isinstance(ends[1], Failed) and "contains nan" in ends[1].message
    assert isinstance(ends[0], Done) and isinstance(ends[2], Done)
