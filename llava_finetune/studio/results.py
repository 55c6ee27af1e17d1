"""What can be made of a finished run: one model, files for other programs, a certificate; and a talk with it.

make(space, "first-try", "gguf")      # the steps: merge where it was not done, then export
ask(8123, "first-try", b"...", "Which piece is it?")
"""

from __future__ import annotations

import base64
import json
import os
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data_prep.records.foreign import extension_of
from llava_finetune.errors import UserError
from llava_finetune.studio.buttons import images_word, split_file
from llava_finetune.studio.jobs import Step
from llava_finetune.studio.refusals import Refused
from llava_finetune.studio.workspace import Workspace

PRODUCTS = ("merge", "export", "gguf", "certify")
SUFFIX = {"merge": "merged", "export": "transformers", "gguf": "gguf"}
ANSWERS = 20
"""Held-out questions that are asked to verify a product."""
PATIENCE = 300.0
"""Seconds that one answer may take on a slow machine."""
MOST_ANSWER = 1_000_000
KINDS = {".jpg": "jpeg", ".png": "png", ".webp": "webp", ".gif": "gif", ".bmp": "bmp", ".avif": "avif", ".heic": "heic"}


def product(space: Workspace, name: str, kind: str) -> Path:
    """Where a product of a run lies, or will lie."""
    run = run_folder(space, name)
    return run / "certificate.json" if kind == "certify" else space.below(f"models/{name}-{SUFFIX[kind]}")


def run_folder(space: Workspace, name: str) -> Path:
    """The folder of a run. Raises UserError where there is none."""
    folder = space.below(f"runs/{name}")
    if not name or "/" in name or folder.parent != space.runs or not folder.is_dir():
        raise Refused("no_run", name=name)
    return folder


def make(space: Workspace, name: str, kind: str, *, is_merging: bool = False) -> list[Step]:
    """The commands that make a product; with `is_merging` a job before it in the queue merges the run already.

    Raises UserError for an unknown product, and one that is there already.
    """
    if kind not in PRODUCTS:
        raise UserError(f"{kind[:40]!r}: there are {', '.join(PRODUCTS)}")
    run = run_folder(space, name)
    target = product(space, name, kind)
    if kind != "certify" and target.exists():
        raise Refused("made_already", name=space.name_of(target))
    source, held_out = space.name_of(run), _held_out(space)
    if kind == "certify":
        work = f"models/{name}-certify"
        words = ("llava-finetune", "certify", source, *held_out, "--answers", str(ANSWERS), "--work", work)
        return [Step(words, found=(1,))]
    is_adapter = (run / "adapter_config.json").is_file()
    merged = product(space, name, "merge")
    steps = []
    if (is_adapter or kind == "merge") and not merged.exists() and not is_merging:
        verify = (*held_out, "--answers", str(ANSWERS)) if held_out else ()
        steps.append(Step(("llava-finetune", "merge", source, space.name_of(merged), *verify)))
    if kind != "merge":
        whole = space.name_of(merged) if is_adapter else source
        more = ("--format", "gguf", "--type", "q8_0") if kind == "gguf" else ()
        steps.append(Step(("llava-finetune", "export", whole, space.name_of(target), *more)))
    return steps


def _held_out(space: Workspace) -> tuple[str, ...]:
    test, images = split_file(space, "test"), space.settings().get("images")
    if not test.is_file() or not isinstance(images, str):
        return ()
    return ("--records", space.name_of(test), "--images", images_word(images))


def serve(space: Workspace, name: str, port: int) -> list[Step]:
    """The command that answers questions, the base beside the run."""
    run = space.name_of(run_folder(space, name))
    return [Step(("llava-finetune", "serve", run, "--name", name, "--port", str(port), "--no-page"))]


def models_of(port: int) -> list[str]:
    """The models that a server of ours has ready; none before it has loaded them."""
    try:
        value = _call(port, "/v1/models", None, 5.0)
    except UserError:
        return []
    return [str(one["id"]) for one in value.get("data", [])]


def ask(port: int, model: str, picture: bytes | None, question: str) -> str:
    """One answer. Raises UserError with the server's own words."""
    content: list[dict[str, Any]] = []
    if picture is not None:
        kind = KINDS.get(extension_of(picture[:16]) or "")
        if kind is None:
            raise Refused("picture_kind", kinds=", ".join(KINDS))
        address = f"data:image/{kind};base64,{base64.b64encode(picture).decode()}"
        content.append({"type": "image_url", "image_url": {"url": address}})
    content.append({"type": "text", "text": question})
    body = {"model": model, "messages": [{"role": "user", "content": content}], "max_tokens": 128, "temperature": 0}
    value = _call(port, "/v1/chat/completions", body, PATIENCE)
    return str(value["choices"][0]["message"]["content"]).strip()


def _call(port: int, path: str, body: Mapping[str, Any] | None, seconds: float) -> dict[str, Any]:
    """Ask our own server on this machine, past any proxy."""
    data = json.dumps(body).encode() if body is not None else None
    headers = {"content-type": "application/json"}
    if key := os.environ.get("LLAVA_API_KEY"):
        headers["authorization"] = f"Bearer {key}"  # the server that was started here asks for it
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", data, headers)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=seconds) as answer:
            value = json.loads(answer.read(MOST_ANSWER))
    except urllib.error.HTTPError as error:
        raise UserError(_reason(error)) from None
    except (OSError, ValueError) as error:
        raise Refused("no_answer", problem=str(error)) from None
    return dict(value)


def _reason(error: urllib.error.HTTPError) -> str:
    """The server's own words in OpenAI's form, else its status."""
    try:
        return str(json.loads(error.read(MOST_ANSWER))["error"]["message"])
    except (OSError, ValueError, KeyError, TypeError):
        return f"the model's server answers {error}"
