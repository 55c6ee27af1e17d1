"""What a hostile caller, page or file may not do: read files, reach networks, fill memory, run code, learn secrets."""

from __future__ import annotations

import base64
import contextlib
import http.server
import io
import socket
import struct
import threading
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from llava_finetune.errors import UsageError, UserError
from llava_finetune.serve.command import access_of, is_loopback, parser
from llava_finetune.serve.guards import Access
from llava_finetune.serve.limits import Limits
from llava_finetune.serve.pictures import picture_from_bytes, picture_from_url
from llava_finetune.serve.remote import fetch, is_public


def ask(api: Any, url: str, **more: Any) -> httpx.Response:
    """A question with one picture URL."""
    content = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "What?"}]
    body = {"model": "tiny", "messages": [{"role": "user", "content": content}], "max_tokens": 2}
    return httpx.post(f"{api.url}/v1/chat/completions", json=body, timeout=60, **more)


def message_of(response: httpx.Response) -> str:
    return str(response.json()["error"]["message"])


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few kilobytes that claims a vast picture."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0" * 100_000))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("file:///etc/passwd", "image_url with scheme 'file': send a data URL"),
        ("/etc/passwd", "image_url with scheme 'none'"),
        ("../../etc/passwd", "image_url with scheme 'none'"),
        ("ftp://example.com/a.png", "image_url with scheme 'ftp'"),
        ("gopher://127.0.0.1:6379/_x", "image_url with scheme 'gopher'"),
        ("http://127.0.0.1:22/", "pictures from the web are off; send a data URL"),
        ("http://169.254.169.254/latest/meta-data/", "pictures from the web are off"),
        ("https://example.com/a.png", "pictures from the web are off"),
        ("data:text/html;base64,PGgxPg==", "image_url with scheme 'data'"),
        ("data:image/png;base64,@@@@", "the picture's base64 is malformed"),
        ("data:image/png;base64,iVBOR", "the picture's base64 is malformed"),
        ("data:image/png;base64,", "is not a picture of a known kind"),
        ("data:image/svg+xml;base64," + base64.b64encode(b"<svg/>").decode(), "is not a picture of a known kind"),
        (
            "data:image/png;base64," + base64.b64encode(b"%!PS-Adobe-3.0 EPSF").decode(),
            "is not a picture of a known kind",
        ),
        ("data:image/png;base64," + base64.b64encode(b"\x89PNG\r\n\x1a\n junk").decode(), "damaged"),
        ("data:image/png;base64," + base64.b64encode(bomb(50_000, 50_000)).decode(), "more than the 4,000,000 allowed"),
        ("data:image/png;base64," + base64.b64encode(bomb(3000, 3000)).decode(), "3000 x 3000 pixels, more than"),
    ],
)
def test_a_bad_picture_is_refused_with_its_reason(api: Any, url: str, message: str) -> None:
    response = ask(api, url)
    assert response.status_code == 400
    assert message in message_of(response)
    assert "root:" not in response.text


def test_a_cut_picture_is_refused(api: Any, kit: SimpleNamespace) -> None:
    out = io.BytesIO()
    kit.noise(80, 80).save(out, "PNG")
    half = base64.b64encode(out.getvalue()[: len(out.getvalue()) // 2]).decode()
    assert ask(api, f"data:image/png;base64,{half}").status_code == 400


def test_a_picture_beyond_its_bytes_is_refused_before_it_is_decoded(api: Any) -> None:
    response = ask(api, "data:image/png;base64," + "A" * 1_500_000)
    assert response.status_code == 400
    assert "at most 1,000,000 are taken" in message_of(response)


def test_too_many_pictures_are_refused(api: Any, kit: SimpleNamespace) -> None:
    part = {"type": "image_url", "image_url": {"url": kit.data_url(kit.noise(8, 8))}}
    body = {"model": "tiny", "messages": [{"role": "user", "content": [part] * 5}]}
    response = httpx.post(f"{api.url}/v1/chat/completions", json=body)
    assert (response.status_code, message_of(response)) == (400, "5 pictures in one request, at most 4 are taken")


def test_an_oversize_body_is_refused_by_its_header(api: Any) -> None:
    response = httpx.post(
        f"{api.url}/v1/chat/completions", content=b"x" * 3_000_001, headers={"content-type": "application/json"}
    )
    assert response.status_code == 413
    assert message_of(response) == "the request is larger than 3,000,000 bytes"


def test_an_oversize_body_without_a_length_is_refused_while_it_comes(api: Any) -> None:
    def endless() -> Iterator[bytes]:
        for _ in range(100):
            yield b" " * 100_000

    try:
        response = httpx.post(
            f"{api.url}/v1/chat/completions", content=endless(), headers={"content-type": "application/json"}
        )
    except (httpx.WriteError, httpx.ReadError):
        return  # the server hung up in the middle of the upload, which is as good
    assert response.status_code == 413


@pytest.mark.parametrize(
    ("content", "kind", "status"),
    [
        (b"{", "application/json", 400),
        (b"[" * 100_000, "application/json", 400),
        (b"\xff\xfe", "application/json", 400),
        (b"null", "application/json", 400),
        (b"{}", "text/plain", 415),
        (b"model=tiny", "application/x-www-form-urlencoded", 415),
    ],
)
def test_what_is_not_a_request_is_refused(api: Any, content: bytes, kind: str, status: int) -> None:
    response = httpx.post(f"{api.url}/v1/chat/completions", content=content, headers={"content-type": kind})
    assert response.status_code == status
    assert response.json()["error"]["type"] == "invalid_request_error"


def test_another_host_name_is_refused_so_that_a_rebound_name_reads_nothing(api: Any) -> None:
    response = httpx.get(f"{api.url}/v1/models", headers={"host": "evil.example"})
    assert response.status_code == 403
    assert "does not answer to the host name 'evil.example'" in message_of(response)


def test_a_request_from_another_web_site_is_refused(api: Any) -> None:
    body = {"model": "tiny", "messages": [{"role": "user", "content": "Hi"}]}
    response = httpx.post(f"{api.url}/v1/chat/completions", json=body, headers={"origin": "https://evil.example"})
    assert (response.status_code, message_of(response)) == (403, "requests from other web sites are refused")


def test_every_answer_tells_the_browser_to_load_and_send_nothing_elsewhere(api: Any) -> None:
    for path in ("/health", "/v1/models", "/nowhere"):
        headers = httpx.get(f"{api.url}{path}").headers
        assert "connect-src 'self'" in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.0.1",
     "255.255.255.255", "::1", "::", "fe80::1", "fe80::1%eth0", "fc00::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1",
     "2002:7f00:0001::", "ff02::1", "::127.0.0.1", "64:ff9b::10.0.0.1", "64:ff9b::169.254.169.254", "240.0.0.1"],
)  # fmt: skip
def test_private_addresses_are_not_public(address: str) -> None:
    assert not is_public(address)


def test_public_addresses_are_public() -> None:
    assert is_public("93.184.215.14")
    assert is_public("2606:2800:21f:cb07:6820:80da:af6b:8b2c")


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("http://localhost:9/a.png", "localhost leads into a private network; it is not fetched"),
        ("http://127.0.0.1:9/a.png", "leads into a private network"),
        ("http://169.254.169.254/latest/meta-data/", "169.254.169.254 leads into a private network"),
        ("http://[::ffff:169.254.169.254]/a.png", "leads into a private network"),
        ("http://2130706433/a.png", "pictures from 2130706433 are not allowed"),
        (
            "http://example.org/a.png",
            r"pictures from example\.org are not allowed; allowed: .*127\.0\.0\.1, .*localhost",
        ),
        ("http://localhost@example.org/a.png", r"pictures from example\.org are not allowed"),
        ("http://me:pw@localhost/a.png", "an address with a user name in it is not fetched"),
        ("http://localhost:notaport/a.png", "the address has no valid port"),
        ("http:///a.png", "pictures from no host are not allowed"),
    ],
)
def test_an_allowed_host_still_leads_into_no_private_network(url: str, message: str) -> None:
    link_local = {"169.254.169.254", "::ffff:169.254.169.254"}
    limits = Limits(remote_hosts=frozenset({"localhost", "127.0.0.1", *link_local}))
    with pytest.raises(UserError, match=message):
        picture_from_url(url, limits)


@pytest.fixture
def web(kit: SimpleNamespace) -> Iterator[tuple[str, list[str]]]:
    """A small web server on loopback and the paths it was asked for."""
    seen: list[str] = []
    out = io.BytesIO()
    kit.noise(20, 20).save(out, "PNG")

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append(self.path)
            if self.path.startswith("/drip"):
                self.drip(b"HTTP/1.1 200 OK\r\nX-A: " if self.path == "/drip-head" else b"HTTP/1.0 200 OK\r\n\r\n")
                return
            if self.path == "/moved":
                self.send_response(302)
                self.send_header("location", "http://127.0.0.1/secret")
                self.end_headers()
                return
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"x" * 2_000_000 if self.path == "/large" else out.getvalue())

        def drip(self, head: bytes) -> None:
            """A byte now and then, for as long as somebody listens."""
            self.wfile.write(head)
            with contextlib.suppress(OSError):
                while True:
                    self.wfile.write(b"x")
                    time.sleep(0.02)

        def log_message(self, *args: object) -> None:
            """Quiet."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", seen
    server.shutdown()


def test_an_allowed_picture_is_fetched_once_without_redirects_and_within_its_bytes(web: tuple[str, list[str]]) -> None:
    url, seen = web
    limits = Limits(picture_bytes=1_000_000, remote_hosts=frozenset({"127.0.0.1"}))
    data = fetch(f"{url}/a.png", limits, allowed=lambda address: True)
    assert picture_from_bytes(data, limits).size == (20, 20)
    with pytest.raises(UserError, match="answered 302; redirects are not followed"):
        fetch(f"{url}/moved", limits, allowed=lambda address: True)
    with pytest.raises(UserError, match=r"127.0.0.1 sent a picture of more than 1,000,000 bytes"):
        fetch(f"{url}/large", limits, allowed=lambda address: True)
    assert seen == ["/a.png", "/moved", "/large"]


@pytest.mark.parametrize("path", ["/drip-head", "/drip-body"])
def test_a_host_that_drips_bytes_is_hung_up_on(
    web: tuple[str, list[str]], path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each byte renews a socket's own time limit, so the whole fetch has one of its own."""
    monkeypatch.setattr("llava_finetune.serve.remote.TIMEOUT", 0.5)
    limits = Limits(picture_bytes=1_000_000, remote_hosts=frozenset({"127.0.0.1"}))
    with pytest.raises(UserError, match=r"127\.0\.0\.1 took longer than 0\.5 s"):
        fetch(f"{web[0]}{path}", limits, allowed=lambda address: True)


def test_a_name_with_one_private_address_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def two(host: str, port: int, **_: object) -> list[Any]:
        return [(2, 1, 6, "", ("93.184.215.14", port)), (2, 1, 6, "", ("10.0.0.8", port))]

    monkeypatch.setattr(socket, "getaddrinfo", two)
    with pytest.raises(UserError, match="leads into a private network"):
        fetch("http://pictures.example/a.png", Limits(remote_hosts=frozenset({"pictures.example"})))


def arguments(*flags: str) -> Any:
    return parser().parse_args(["model", *flags])


@pytest.fixture
def no_secrets(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in ("LLAVA_API_KEY", "LLAVA_SERVE_PASSWORD"):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.5", "::", "example.com"])
def test_another_address_needs_a_user_and_a_password(host: str, no_secrets: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        UsageError, match="can be reached by others: give --user NAME and the password in LLAVA_SERVE_PASSWORD"
    ):
        access_of(arguments("--host", host))
    no_secrets.setenv("LLAVA_SERVE_PASSWORD", "pw")
    with pytest.raises(UsageError, match="give --user NAME"):
        access_of(arguments("--host", host))
    access = access_of(arguments("--host", host, "--user", "me"))
    assert access.asks
    assert access.admits_login("me", "pw")
    assert not access.admits_login("me", "")


def test_a_user_without_a_password_is_refused_and_not_served_to_everybody(no_secrets: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="no password; put it into LLAVA_SERVE_PASSWORD"):
        access_of(arguments("--user", "me"))
    no_secrets.setenv("LLAVA_SERVE_PASSWORD", "pw")
    assert access_of(arguments("--user", "me")).asks


@pytest.mark.parametrize(
    ("host", "loopback"), [("127.0.0.1", True), ("::1", True), ("localhost", True), ("10.0.0.1", False)]
)
def test_loopback_is_told_from_other_addresses(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback


def test_a_key_file_or_variable_closes_the_api(tmp_path: Path, no_secrets: pytest.MonkeyPatch) -> None:
    assert not access_of(arguments()).asks
    (tmp_path / "key").write_text("k1\n")
    assert access_of(arguments("--api-key-file", str(tmp_path / "key"))).admits("Bearer k1")
    no_secrets.setenv("LLAVA_API_KEY", "k2")
    access = access_of(arguments())
    assert access.admits("Bearer k2")
    for wrong in (
        "",
        "Bearer",
        "Bearer k1",
        "Bearer k2x",
        "Basic k2",
        "k2",
        "Basic " + base64.b64encode(b"x:k2").decode(),
    ):
        assert not access.admits(wrong)


def test_a_closed_api_answers_401_and_health_stays_open(loaded: Any, kit: SimpleNamespace) -> None:
    from llava_finetune.serve.api import Server, build_app
    from llava_finetune.serve.engine import Engine

    server = Server({"tiny": Engine(loaded).start()}, access=Access(api_key="k", user="me", password="pw"))
    with kit.serving(server, build_app(server)) as running:
        assert httpx.get(f"{running.url}/health").status_code == 200
        for path in ("/v1/models", "/metrics"):
            assert httpx.get(f"{running.url}{path}").status_code == 401
            assert httpx.get(f"{running.url}{path}", headers={"authorization": "Bearer k"}).status_code == 200
            assert httpx.get(f"{running.url}{path}", auth=("me", "pw")).status_code == 200
            assert httpx.get(f"{running.url}{path}", auth=("me", "no")).status_code == 401
        refused = httpx.post(f"{running.url}/v1/chat/completions", json={})
        assert message_of(refused) == "a valid key is needed: Authorization: Bearer KEY"


def test_the_secrets_are_in_no_manifest(adapter: Path, tmp_path: Path, no_secrets: pytest.MonkeyPatch) -> None:
    from llava_finetune.convert.export import export
    from llava_finetune.merge.command import merge

    secrets = {
        "LLAVA_API_KEY": "key-3f9",
        "LLAVA_SERVE_PASSWORD": "pw-77c",
        "HF_TOKEN": "hf_secret",
        "WANDB_API_KEY": "wb-1",
    }
    for name, value in secrets.items():
        no_secrets.setenv(name, value)
    merge(str(adapter), tmp_path / "merged")
    export(str(tmp_path / "merged"), tmp_path / "exported")
    for file in [*tmp_path.rglob("*.json"), *tmp_path.rglob("*.jinja")]:
        text = file.read_text(encoding="utf-8")
        assert not any(value in text for value in secrets.values()), file


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["train", "--hub_token", "hf_x", "--seed", "7"], ["train", "--hub_token", "<hidden>", "--seed", "7"]),
        (["train", "--mm_use_im_patch_token", "False"], ["train", "--mm_use_im_patch_token", "False"]),
        (["train", "--hub-token=hf_x"], ["train", "--hub-token=<hidden>"]),
        (["train", "--wandb_api_key", "k"], ["train", "--wandb_api_key", "<hidden>"]),
        (["train", "--max_new_tokens", "5"], ["train", "--max_new_tokens", "5"]),
    ],
)
def test_the_command_in_a_runs_manifest_hides_secrets(words: list[str], expected: list[str]) -> None:
    from llava_finetune.saved.manifest import run_manifest

    assert run_manifest(words, {})["command"] == expected


def test_code_in_a_model_folder_does_not_run(adapter: Path, family: Any, tmp_path: Path) -> None:
    """`trust_remote_code` is never on by itself: a config that names its own classes is refused or ignored."""
    import json
    import shutil

    from llava_finetune.convert.export import export
    from llava_finetune.model.loading import load

    folder = tmp_path / "model"
    shutil.copytree(family("llava-1.5"), folder)
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {"AutoConfig": "evil.EvilConfig", "AutoModelForCausalLM": "evil.EvilModel"}
    (folder / "config.json").write_text(json.dumps(config))
    tokenizer = json.loads((folder / "tokenizer_config.json").read_text())
    tokenizer["auto_map"] = {"AutoTokenizer": ["evil.EvilTokenizer", None]}
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    for attempt in (lambda: load(str(folder)), lambda: export(str(folder), tmp_path / "out")):
        try:
            attempt()
        except (UserError, ValueError) as error:
            assert "trust_remote_code" in str(error) or "custom code" in str(error)
        assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["../secret.png", "/etc/passwd", "sub/../../secret.png"])
def test_records_cannot_name_pictures_outside_their_folder(
    adapter: Path, held_out: Path, tmp_path: Path, name: str
) -> None:
    import json

    from llava_finetune.merge.command import HeldOut, merge

    turns = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "x"}]
    (tmp_path / "records.json").write_text(json.dumps([{"id": "r", "image": name, "conversations": turns}]))
    with pytest.raises(Exception, match="leaves the image folder"):
        merge(str(adapter), tmp_path / "out", held_out=HeldOut(tmp_path / "records.json", held_out))
    assert not (tmp_path / "out").exists()


def test_a_link_out_of_the_image_folder_is_refused_when_merging(
    adapter: Path, tmp_path: Path, kit: SimpleNamespace
) -> None:
    import json

    from llava_finetune.merge.command import HeldOut, merge

    (tmp_path / "images").mkdir()
    kit.noise(9, 9).save(tmp_path / "secret.png")
    (tmp_path / "images" / "a.png").symlink_to(tmp_path / "secret.png")
    turns = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "x"}]
    (tmp_path / "records.json").write_text(json.dumps([{"id": "r", "image": "a.png", "conversations": turns}]))
    with pytest.raises(Exception, match="leads out of the image folder"):
        merge(str(adapter), tmp_path / "out", held_out=HeldOut(tmp_path / "records.json", tmp_path / "images"))
    assert not (tmp_path / "out").exists()


def test_a_link_out_of_the_image_folder_is_refused_for_the_pages_examples(tmp_path: Path, kit: SimpleNamespace) -> None:
    import json

    from llava_finetune.serve.examples import load_examples

    (tmp_path / "images").mkdir()
    kit.noise(9, 9).save(tmp_path / "secret.png")
    (tmp_path / "images" / "a.png").symlink_to(tmp_path / "secret.png")
    turns = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "x"}]
    (tmp_path / "records.json").write_text(json.dumps([{"id": "r", "image": "a.png", "conversations": turns}]))
    with pytest.raises(UserError, match="leads out of the image folder"):
        load_examples(tmp_path, tmp_path / "records.json", tmp_path / "images", tmp_path / "scratch")
