"""A hub on this machine that takes uploads: repositories are made, large files sent by LFS, commits applied.

with UploadHub(tmp_path / "hub") as hub:
    hub.run([sys.executable, "-m", "data_prep", "push", ...])
    hub.files("datasets/owner/name")     # what was committed
"""

import base64
import hashlib
import json
import os
import subprocess
import threading
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

COMMIT = "c0ffee" + 34 * "0"


class Handler(BaseHTTPRequestHandler):
    """The parts of the hub's API that sending a folder needs."""

    def __init__(self, hub: "UploadHub", *words: Any) -> None:
        self.hub = hub
        super().__init__(*words)

    def do_GET(self) -> None:
        repository, tree, _ = urlsplit(self.path).path.partition("/tree/")
        if tree:
            files = self.hub.files(repository.removeprefix("/api/"))
            self._answer([{"type": "file", "path": one, "size": 1, "oid": COMMIT} for one in files])
            return
        self._answer({"id": "owner/name", "sha": COMMIT, "siblings": [], "tags": [], "private": True})

    def do_PUT(self) -> None:
        name = urlsplit(self.path).path.rsplit("/", 1)[1]
        body = self._body()
        if self.hub.failures and len(self.hub.sent) >= self.hub.taken:
            self.hub.failures -= 1
            self._answer({"error": "the storage is away"}, 403)
            return
        assert hashlib.sha256(body).hexdigest() == name
        self.hub.sent.append(name)
        (self.hub.folder / "lfs").mkdir(parents=True, exist_ok=True)
        (self.hub.folder / "lfs" / name).write_bytes(body)
        self._answer({})

    def do_POST(self) -> None:
        path = urlsplit(self.path).path
        body = self._body()
        self.hub.asked.append((path, self.headers.get("authorization")))
        if self.headers.get("authorization") != "Bearer token-that-may-write":
            self._answer({"error": "Invalid username or password."}, 401)
        elif path == "/api/repos/create":
            self.hub.created.append(json.loads(body))
            self._answer({"url": f"{self.hub.address}/{json.loads(body)['organization']}/{json.loads(body)['name']}"})
        elif "/preupload/" in path:
            files = json.loads(body)["files"]
            large = (".parquet", ".safetensors", ".bin", ".gguf")
            modes = ["lfs" if one["path"].endswith(large) else "regular" for one in files]
            kept = zip(files, modes, strict=True)
            self._answer({"files": [{"path": f["path"], "uploadMode": m, "shouldIgnore": False} for f, m in kept]})
        elif path.endswith("/info/lfs/objects/batch"):
            self._answer({"transfer": "basic", "objects": [self._place(one) for one in json.loads(body)["objects"]]})
        elif "/commit/" in path:
            self._commit(path.split("/commit/")[0].removeprefix("/api/"), body)
            self._answer({"commitOid": COMMIT, "commitUrl": f"{self.hub.address}/owner/name/commit/{COMMIT}"})
        else:
            self._answer({})

    def _place(self, one: dict[str, Any]) -> dict[str, Any]:
        """Where an object goes; one that is there needs no upload."""
        known = (self.hub.folder / "lfs" / one["oid"]).is_file()
        actions = {} if known else {"actions": {"upload": {"href": f"{self.hub.address}/lfs/{one['oid']}"}}}
        return {**one, **actions}

    def _commit(self, repository: str, body: bytes) -> None:
        for line in body.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "file":
                content = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                content = (self.hub.folder / "lfs" / value["oid"]).read_bytes()
            else:
                if entry["key"] == "deletedFile":
                    (self.hub.folder / repository / value["path"]).unlink()
                continue
            target = self.hub.folder / repository / value["path"]
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _answer(self, value: Any, status: int = 200) -> None:
        raw = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def log_message(self, *words: object) -> None:
        """Stay silent."""


class UploadHub:
    """The server, what it was asked for, and what it holds. `failures`: uploads refused, after `taken` others."""

    def __init__(self, folder: Path, failures: int = 0, taken: int = 0) -> None:
        self.folder, self.failures, self.taken = folder, failures, taken
        self.created: list[dict[str, Any]] = []
        self.asked: list[tuple[str, str | None]] = []
        self.sent: list[str] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, self))
        self.address = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> "UploadHub":
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def files(self, repository: str) -> list[str]:
        """Names of the files of a repository, such as datasets/owner/name."""
        root = self.folder / repository
        return sorted(one.relative_to(root).as_posix() for one in root.rglob("*") if one.is_file())

    def is_the_hub(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Let this process take it for the hub."""
        from huggingface_hub import constants

        monkeypatch.setattr(constants, "ENDPOINT", self.address)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setenv("HF_TOKEN", "token-that-may-write")

    def run(self, command: list[str], token: str | None = "token-that-may-write") -> subprocess.CompletedProcess[str]:
        """Run a command where this is the hub."""
        variables = {**os.environ, "HF_ENDPOINT": self.address, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}
        variables |= {"HF_HOME": str(self.folder / "home"), "PYTHONPATH": str(Path(__file__).parents[2])}
        variables |= {"HF_TOKEN": token} if token else {}
        return subprocess.run(command, env=variables, capture_output=True, text=True, check=False, timeout=300)
