"""A hub on this machine: one data set, OWNER/NAME, its files read in ranges as those of huggingface.co are.

with Hub(Path("folder"), Path("cache")) as hub:
    hub.run("hf", "owner/name", "--output", "r.json")
    hub.fetched(".parquet")      # the requests
"""

import json
import os
import subprocess
import sys
import threading
from contextlib import suppress
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

COMMIT = "c0ffee" + 34 * "0"


class Handler(BaseHTTPRequestHandler):
    """The parts of the hub's API that reading a data set needs (huggingface.co/docs/hub/api)."""

    def __init__(self, folder: Path, asked: list[str], *words: Any) -> None:
        self.folder, self.asked = folder, asked
        super().__init__(*words)

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        self.asked.append(f"{self.command} {path}")
        if path.startswith("/datasets/owner/name/resolve/"):
            self._send_file(self.folder / path.split("/", 6)[6])
        elif path in {
            "/api/datasets/owner/name",
            *(f"/api/datasets/owner/name/revision/{r}" for r in ("main", COMMIT)),
        }:
            names = [{"rfilename": one.relative_to(self.folder).as_posix()} for one in self.folder.rglob("*.*")]
            about = {"id": "owner/name", "sha": COMMIT, "siblings": names, "tags": [], "private": False}
            self._send_json({**about, "downloads": 0, "likes": 0, "lastModified": "2026-01-01T00:00:00.000Z"})
        elif path.startswith(f"/api/datasets/owner/name/tree/{COMMIT}"):
            below = self.folder / path.removeprefix(f"/api/datasets/owner/name/tree/{COMMIT}").strip("/")
            recursive = "recursive=true" in self.path.lower()
            self._send_json([self._entry(one) for one in sorted(below.rglob("*") if recursive else below.glob("*"))])
        else:
            self._refuse()

    do_HEAD = do_GET

    def do_POST(self) -> None:
        path = urlsplit(self.path).path
        self.asked.append(f"{self.command} {path}")
        body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
        if path == f"/api/datasets/owner/name/paths-info/{COMMIT}":
            names = json.loads(body)["paths"] if body.startswith("{") else parse_qs(body)["paths"]
            self._send_json([self._entry(self.folder / name) for name in names if (self.folder / name).exists()])
        else:
            self._refuse()

    def _entry(self, path: Path) -> dict[str, Any]:
        name = {"path": path.relative_to(self.folder).as_posix(), "oid": "0" * 40}
        return {**name, "type": "directory"} if path.is_dir() else {**name, "type": "file", "size": path.stat().st_size}

    def _send_file(self, file: Path) -> None:
        if not file.is_file():
            self._refuse()
            return
        size = file.stat().st_size
        first, last = self.headers.get("Range", "bytes=0-").removeprefix("bytes=").split("-")
        begin, end = int(first), min(int(last or size), size - 1) + 1
        self.send_response(206 if "Range" in self.headers else 200)
        self.send_header("Content-Range", f"bytes {begin}-{end - 1}/{size}")
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", '"0"')
        with file.open("rb") as stream:
            stream.seek(begin)
            self._send(stream.read(end - begin))

    def _send_json(self, value: Any) -> None:
        self.send_response(200)
        self._send(json.dumps(value).encode())

    def _refuse(self) -> None:
        self.send_response(404)
        self.send_header("X-Error-Code", "EntryNotFound")
        self._send(b"")

    def _send(self, raw: bytes) -> None:
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        if self.command != "HEAD":
            with suppress(ConnectionError):
                self.wfile.write(raw)

    def log_message(self, *words: object) -> None:
        """Stay silent."""


class Hub:
    """Serves a folder as the data set owner/name, and runs our commands where that is the hub."""

    def __init__(self, folder: Path, cache: Path) -> None:
        self._asked: list[str] = []
        self._cache = cache
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, folder, self._asked))

    def __enter__(self) -> "Hub":
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def environment(self) -> dict[str, str]:
        """Variables of a process that shall find it."""
        address = f"http://127.0.0.1:{self._server.server_address[1]}"
        return {"HF_ENDPOINT": address, "HF_HUB_OFFLINE": "0", "HF_DATASETS_OFFLINE": "0", "HF_HOME": str(self._cache)}

    def run(self, *words: str, code: int = 0) -> str:
        """Run `python -m data_prep`; return what it says."""
        variables = {**os.environ, **self.environment, "PYTHONPATH": str(Path(__file__).parents[2])}
        command = [sys.executable, "-m", "data_prep", *words]
        done = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
        assert done.returncode == code, done.stderr
        return done.stdout + done.stderr

    def fetched(self, ending: str) -> list[str]:
        """The requests for the bytes of files whose names end so."""
        return [one for one in self._asked if one.startswith("GET /datasets") and one.endswith(ending)]
