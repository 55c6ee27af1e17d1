"""An engine that speaks OpenAI's chat protocol: started as a process, asked over HTTP on this machine, ended.

with started([python, runner, job], "llama.cpp", log) as address: ...
"""

from __future__ import annotations

import http.client
import json
import re
import subprocess
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from llava_finetune.errors import UserError

LOAD_SECONDS = 1800.0
ANSWER_SECONDS = 600.0
ADDRESS = re.compile(rb"on (http://[\w.:]+)")


@contextmanager
def started(
    command: Sequence[str], engine: str, log: Path, *, ends_with_input: bool = True
) -> Iterator[dict[str, Any]]:
    """Run a program that prints one JSON line, or its address, when it is ready; it ends with the block.

    `ends_with_input`: it ends by itself when its standard input does; one that does not is told at once. Its other
    output goes to `log`, whose last line is in the UserError when it does not come up.
    """
    with (
        log.open("wb") as errors,
        subprocess.Popen(list(command), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors) as process,
    ):
        watch = threading.Timer(LOAD_SECONDS, process.kill)
        watch.start()
        try:
            yield _ready(process, engine, log)
        finally:
            watch.cancel()
            if not ends_with_input:
                process.terminate()
            _end(process)


def _ready(process: subprocess.Popen[bytes], engine: str, log: Path) -> dict[str, Any]:
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith(b"{"):
            found: dict[str, Any] = json.loads(line)
            return found
        if address := ADDRESS.search(line):
            return {"url": address[1].decode()}
    said = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    raise UserError(f"{engine}: it did not start: {said[-1][:300] if said else 'it said nothing'} (all of it: {log})")


def _end(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None
    process.stdin.close()
    for stop in (process.terminate, process.kill):
        try:
            process.wait(10)
            return
        except subprocess.TimeoutExpired:
            stop()


def post(url: str, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
    """Send JSON, get JSON. Raises UserError with what the engine says when it refuses."""
    request = urllib.request.Request(url + path, json.dumps(body).encode(), {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=ANSWER_SECONDS) as reply:
            found: dict[str, Any] = json.load(reply)
            return found
    except urllib.error.HTTPError as error:
        said = error.read().decode("utf-8", "replace")[:300]
        raise UserError(f"{url}{path}: the engine answers {error.code}: {said}") from None
    except (urllib.error.URLError, TimeoutError, ConnectionError, http.client.HTTPException) as error:
        raise UserError(f"{url}{path}: the engine is gone or silent ({error or type(error).__name__})") from None
