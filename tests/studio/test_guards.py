"""Nothing of serve's guards is weaker here: host, origin, size, password; and what only the studio could do wrong."""

from __future__ import annotations

import http.client
import json
import re
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest

from llava_finetune.errors import UsageError, UserError
from llava_finetune.serve.command import access_of
from llava_finetune.serve.guards import Access
from llava_finetune.studio.app import build_app
from llava_finetune.studio.buttons import Training, prepare, shown, train
from llava_finetune.studio.command import parser
from llava_finetune.studio.refusals import TEXTS, Refused
from llava_finetune.studio.shared import Studio
from llava_finetune.studio.workspace import Workspace
from tests.fixtures.adapters_and_servers import serving
from tests.studio.conftest import HEADERS, Page, fill


def test_a_foreign_host_or_origin_is_refused(page: Page) -> None:
    assert httpx.get(page.url, headers={"host": "evil.example"}).status_code == 403
    assert page.post("state", headers={"origin": "http://evil.example"}).status_code == 403
    port = page.url.rpartition(":")[2]
    assert page.post("state", headers={"origin": f"http://127.0.0.1:{port}"}).status_code == 200


def test_a_change_without_the_pages_own_header_is_refused(page: Page) -> None:
    body = {"name": "colours.csv", "images": "photos", "roles": {}}
    assert httpx.post(f"{page.url}/api/take", json=body).status_code == 403
    text = httpx.post(f"{page.url}/api/take", content="{}", headers={**HEADERS, "content-type": "text/plain"})
    assert text.status_code == 400
    assert not (page.folder / "answers.csv").exists()


def test_a_name_that_leads_in_a_circle_or_is_no_text_is_no_failure_of_the_server(page: Page) -> None:
    (page.folder / "loop").symlink_to("loop")
    for name in ("loop", "loop/x", "\ud800"):
        told = httpx.post(
            f"{page.url}/api/look",
            content=json.dumps({"name": name}),
            headers={**HEADERS, "content-type": "application/json"},
        )
        assert told.status_code == 400, told.text
    assert httpx.get(f"{page.url}/picture/:/loop").status_code in (400, 404)


@pytest.mark.parametrize("name", ["/etc/passwd", "../secret.csv", "photos/../../secret.csv", "link.csv"])
def test_paths_lead_only_below_the_workspace(page: Page, name: str) -> None:
    (page.folder.parent / "secret.csv").write_text("image,answer\na.png,secret\n")
    if not (page.folder / "link.csv").is_symlink():
        (page.folder / "link.csv").symlink_to(page.folder.parent / "secret.csv")
    refused = page.post("look", {"name": name})
    assert refused.status_code == 400 and "secret" not in refused.text.replace(name, "")
    for kind in ("thumbnail", "picture"):
        assert httpx.get(f"{page.url}/{kind}/:/{name}").status_code == 404
    for path in ("/static/..%2fapp.py", "/texts/..%2f..%2fcli.py", "/report/..%2f..%2f"):
        assert httpx.get(page.url + path).status_code in (400, 404)


def test_a_body_that_is_too_large_is_refused_before_it_is_read(page: Page) -> None:
    connection = http.client.HTTPConnection(page.url.removeprefix("http://"))
    connection.putrequest("POST", "/api/edit")
    for name, value in {**HEADERS, "content-type": "application/json", "content-length": "900000000"}.items():
        connection.putheader(name, value)
    connection.endheaders()
    assert connection.getresponse().status == 413
    connection.close()


def test_pages_load_from_here_alone_and_reports_in_a_sandbox(page: Page) -> None:
    policy = httpx.get(page.url).headers["content-security-policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy and "http" not in policy
    (page.folder / "runs/a").mkdir(parents=True)
    (page.folder / "runs/a/report.html").write_text("<script>1</script>")
    report = httpx.get(f"{page.url}/report/a")
    assert report.headers["content-security-policy"].startswith("sandbox allow-scripts; default-src 'none'")
    assert report.headers["x-content-type-options"] == "nosniff"


def test_no_flag_that_names_files_or_sends_data_comes_from_the_page(tmp_path: Path) -> None:
    space = Workspace.open(fill(tmp_path / "w"))
    space.keep(images="photos")
    (space.folder / "data").mkdir()
    (space.folder / "data/train.json").write_text('[{"id": "1"}]')
    (space.folder / "tiny").mkdir()
    (line,) = train(space, Training("a", "tiny", flags={"--learning_rate": "1e-3"}))
    assert line.text.startswith("MODEL=tiny DATA=data/train.json IMAGES=photos OUTPUT=runs/a ")
    assert line.text.endswith("--learning_rate 1e-3 --resume auto")
    names = ("--output_dir", "--output-dir", "--output_di", "--data-path", "--hub-token", "--report_t", "-x", "--x;y")
    bad = [{name: "x"} for name in names] + [{"--lora_r": "--output_dir"}, {"--lora_r": "1\n2"}]
    numbers = [
        {"--max_steps": "2.5"},
        {"--lora_r": "1e3"},
        {"--lora_r": "1_0"},
        {"--learning_rate": "nan"},
        {"--max_steps": "0"},
    ]
    for flags in [*bad, *numbers, {"--learning_rate": "-1"}, {"--max_steps": "many"}]:
        with pytest.raises(UserError):
            train(space, Training("a", "tiny", flags=flags))
    for name in ("../a", "-a", "", "a/b", "a b"):
        with pytest.raises(UserError, match="a run's name"):
            train(space, Training(name, "tiny"))
    for model in ("/etc", "../x", "--help", "", "a/b/c"):
        with pytest.raises(UserError):
            train(space, Training("a", model))


def test_names_of_folders_are_never_flags_nor_words_of_the_shell(tmp_path: Path) -> None:
    space = Workspace.open(fill(tmp_path / "my $(id) pictures"))
    space.keep(images="--fix")
    steps = prepare(space, 0.2, mend=False)
    assert all("--fix" not in step.argv and "./--fix" in step.argv for step in steps)
    assert shown(steps, space).startswith(f"cd '{space.folder}'\n")


def test_no_other_site_takes_in_what_is_here(page: Page) -> None:
    for path in ("/", "/static/main.js", "/thumbnail/:/photos/000.png"):
        assert httpx.get(page.url + path).headers["cross-origin-resource-policy"] == "same-origin"


def test_a_refusal_has_a_text_in_every_language_of_the_page(page: Page) -> None:
    told = page.post("run", {"name": "gone"}).json()
    assert told == {
        "error": "there is no run gone in this workspace",
        "key": "refused.no_run",
        "values": {"name": "gone"},
    }
    texts = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(TEXTS.glob("*.json"))]
    raised = [
        key
        for path in TEXTS.parent.glob("*.py")
        for key in re.findall(r'(?:Refused|Gone|while_made)\(\s*"(\w+)"', path.read_text())
    ]
    kept = {key for key in texts[0] if key.startswith("refused.")}
    assert len(texts) == 3 and {f"refused.{key}" for key in raised} == kept
    for key in kept:
        assert len({frozenset(re.findall(r"{\w+}", one[key])) for one in texts}) == 1, key
    assert str(Refused("too_large", name="a.zip", bytes=1234567, most=9)) == (
        "a.zip: 1,234,567 bytes; at most 9 are taken here"
    )


def test_with_a_password_nothing_is_seen_without_it(tmp_path: Path) -> None:
    studio = Studio(Workspace.open(fill(tmp_path / "w")), Access(user="me", password="secret", hosts=None))
    with serving(SimpleNamespace(engines={}, under_way=0), build_app(studio)) as running:
        for path in ("/", "/static/main.js", "/thumbnail/:/photos/000.png", "/texts/en.json"):
            refused = httpx.get(running.url + path)
            assert refused.status_code == 401 and refused.headers["www-authenticate"].startswith("Basic")
            assert httpx.get(running.url + path, auth=("me", "secret")).status_code == 200
        assert httpx.post(f"{running.url}/api/state", json={}, headers=HEADERS).status_code == 401


def test_another_address_than_loopback_needs_a_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LLAVA_SERVE_PASSWORD", raising=False)
    with pytest.raises(UsageError, match="can be reached by others"):
        access_of(parser().parse_args(["space", "--host", "0.0.0.0", "--user", "me"]))
