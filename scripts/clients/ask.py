"""Ask a server through the clients that people use: openai, litellm, langchain-openai and llm; all must hear the same.

    python scripts/clients/ask.py http://127.0.0.1:8123/v1 build/clients/ask.mjs

Run by scripts/clients.sh in an environment of its own. Exit codes: 0 every client heard the same, 1 one did not.
"""

from __future__ import annotations

import base64
import json
import os
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

TURNS = [("user", "What is it?"), ("assistant", "a box"), ("user", "Which colour?")]


def chunk(kind: bytes, data: bytes) -> bytes:
    """A PNG chunk."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def picture() -> bytes:
    """A PNG of 32 x 32 coloured pixels, made without Pillow."""
    rows = b"".join(
        b"\0" + bytes((x * 8, y * 8, (x ^ y) * 8)[c] for x in range(32) for c in range(3)) for y in range(32)
    )
    header = struct.pack(">IIBBBBB", 32, 32, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


URL = "data:image/png;base64," + base64.b64encode(picture()).decode()
PICTURED = [
    {
        "role": "user",
        "content": [{"type": "image_url", "image_url": {"url": URL}}, {"type": "text", "text": "What is it?"}],
    }
]
CONVERSATION = [{"role": role, "content": text} for role, text in TURNS]


def with_openai(url: str, model: str) -> list[str]:
    """A picture, a conversation, and a stream."""
    from openai import OpenAI

    client = OpenAI(base_url=url, api_key="none")
    asked: dict[str, Any] = {"model": model, "max_tokens": 12}
    answers = [
        client.chat.completions.create(messages=messages, **asked).choices[0].message.content
        for messages in (PICTURED, CONVERSATION)
    ]
    stream = client.chat.completions.create(messages=PICTURED, stream=True, **asked)
    return [*answers, "".join(each.choices[0].delta.content or "" for each in stream if each.choices)]


def with_litellm(url: str, model: str) -> list[str]:
    """The same through litellm."""
    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # else it asks the web for prices at import
    import litellm

    asked: dict[str, Any] = {"model": f"openai/{model}", "api_base": url, "api_key": "none", "max_tokens": 12}
    answers = [
        litellm.completion(messages=messages, **asked).choices[0].message.content
        for messages in (PICTURED, CONVERSATION)
    ]
    stream = litellm.completion(messages=PICTURED, stream=True, **asked)
    return [*answers, "".join(each.choices[0].delta.content or "" for each in stream)]


def with_langchain(url: str, model: str) -> list[str]:
    """The same through langchain-openai."""
    from langchain_openai import ChatOpenAI

    chat = ChatOpenAI(base_url=url, api_key="none", model=model, max_tokens=12)
    answers = [str(chat.invoke(messages).content) for messages in (PICTURED, CONVERSATION)]
    return [*answers, "".join(str(each.content) for each in chat.stream(PICTURED))]


def with_llm(url: str, model: str) -> list[str]:
    """The same through Simon Willison's llm, whose own words for a conversation are its Conversation."""
    import llm
    from llm.default_plugins.openai_models import Chat

    chat = Chat("served", model_name=model, api_base=url, vision=True)
    chat.needs_key = None
    attachment = llm.Attachment(type="image/png", content=picture())
    pictured = chat.prompt("What is it?", attachments=[attachment], max_tokens=12, stream=False).text()
    streamed = "".join(chat.prompt("What is it?", attachments=[attachment], max_tokens=12, stream=True))
    return [pictured, "", streamed]


def with_node(script: Path, url: str) -> list[str]:
    """The same through OpenAI's client for Node (ask.mjs)."""
    image = script.with_name("picture.png")
    image.write_bytes(picture())
    done = subprocess.run(["node", script.name, url, image.name], cwd=script.parent, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"node {script}: {done.stderr[-1000:]}")
    return list(json.loads(done.stdout))


CLIENTS: dict[str, Callable[[str, str], list[str]]] = {
    "litellm": with_litellm,
    "langchain-openai": with_langchain,
    "llm": with_llm,
}


def main(url: str, script: Path) -> int:
    """Ask through each client and compare with openai's answers; "" stands for what a client has no word for."""
    from openai import OpenAI

    model = OpenAI(base_url=url, api_key="none").models.list().data[0].id
    expected = with_openai(url, model)
    print(f"openai {version('openai')}: {expected}", flush=True)
    heard = {f"{name} {version(name)}": ask(url, model) for name, ask in CLIENTS.items()}
    heard["openai for Node"] = with_node(script, url)
    wrong = {
        name: said for name, said in heard.items() if [a or b for a, b in zip(said, expected, strict=True)] != expected
    }
    for name in heard:
        print(f"{name}: {wrong.get(name, 'the same answers')}", flush=True)
    return int(bool(wrong) or not all(expected))


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1], Path(sys.argv[2])))
