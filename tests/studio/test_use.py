"""Before and after a training: will it fit, what is made of a run, a talk beside the base, and what is taught next."""

from __future__ import annotations

import http.server
import json
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llava_finetune.machine import Gpu
from llava_finetune.studio import jobs, run_calls
from llava_finetune.studio.app import CALLS, TEXTS
from llava_finetune.studio.jobs import Step
from llava_finetune.studio.table import read_table
from llava_finetune.studio.uploads import ENDINGS_TAKEN
from tests.studio.conftest import Page

PAGE = TEXTS.parent / "page"


def texts(name: str) -> dict[str, str]:
    return dict(json.loads((TEXTS / f"{name}.json").read_text(encoding="utf-8")))


@pytest.mark.parametrize("language", ["de", "zh"])
def test_every_text_is_there_in_every_language_with_the_same_places(language: str) -> None:
    english, other = texts("en"), texts(language)
    assert {key for key in english if not key.endswith(".one")} <= other.keys() <= english.keys()
    for key, text in other.items():
        assert set(re.findall(r"{\w+}", text)) == set(re.findall(r"{\w+}", english[key])), key


def test_every_text_that_the_page_asks_for_exists() -> None:
    source = "\n".join(path.read_text(encoding="utf-8") for path in PAGE.iterdir() if path.suffix in (".js", ".html"))
    asked = set(re.findall(r'\bt\("([\w.]+)"', source)) | set(re.findall(r'data-t="([\w.]+)"', source))
    assert len(asked) > 80 and asked <= texts("en").keys()


def test_the_page_sends_every_kind_of_file_that_is_taken() -> None:
    pattern = re.search(r"const TAKEN = /(.+)/i;", (PAGE / "data.js").read_text(encoding="utf-8"))
    assert pattern is not None
    assert [ending for ending in sorted(ENDINGS_TAKEN) if not re.search(pattern[1], f"a{ending}")] == []


def test_every_call_that_the_page_makes_exists() -> None:
    source = "\n".join(path.read_text(encoding="utf-8") for path in PAGE.glob("*.js"))
    assert set(re.findall(r'\bcall\("([\w-]+)"', source)) <= CALLS.keys()


def test_whether_a_model_fits_is_plans_own_answer(page: Page) -> None:
    fits = page.ask("fit", model="liuhaotian/llava-v1.5-7b", recipe="lora", card=24)
    assert fits["fits"] and 0 < fits["spare"] < 24 and "llava-finetune plan --model" in fits["command"]
    refused = page.post("fit", {"model": "nobody/nothing", "card": 24})
    assert refused.status_code == 400 and "nobody/nothing" in refused.json()["error"]


def test_models_and_cards_of_this_machine_are_offered(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("own", "models/first-merged", "models/first-transformers", "runs/first"):
        (page.folder / name).mkdir(parents=True)
        (page.folder / name / "config.json").write_text("{}")
    found: list[Gpu] = []
    monkeypatch.setattr(run_calls, "gpus", lambda: found)
    seen = page.ask("models")
    names = [one["name"] for one in seen["models"] if one["where"] == "workspace"]
    assert seen["cards"] == [] and names == ["own", "models/first-merged"]
    found.append(Gpu(0, "NVIDIA GeForce RTX 4090", 24_564 * 2**20))
    assert page.ask("models")["cards"] == [{"name": "NVIDIA GeForce RTX 4090", "memory": 24}]


def test_what_is_made_of_a_run_are_commands_of_ours(filled: Page) -> None:
    run = filled.folder / "runs/one"
    run.mkdir(parents=True)
    (run / "adapter_config.json").write_text("{}")
    both = filled.ask("make", name="one", kind="gguf", dry=True)["command"].splitlines()[1:]
    assert both == [
        "llava-finetune merge runs/one models/one-merged",
        "llava-finetune export models/one-merged models/one-gguf --format gguf --type q8_0",
    ]
    (filled.folder / "models/one-merged").mkdir(parents=True)
    assert "already" in filled.post("make", {"name": "one", "kind": "merge"}).json()["error"]
    (command,) = filled.ask("make", name="one", kind="export", dry=True)["command"].splitlines()[1:]
    assert command == "llava-finetune export models/one-merged models/one-transformers"
    seen = {one["kind"]: one["path"] for one in filled.ask("products", name="one")["products"]}
    assert seen == {"merge": "models/one-merged", "export": None, "gguf": None, "certify": None}
    for name in ("..", "", "../one", "one/../..", "two"):
        assert filled.post("make", {"name": name, "kind": "merge", "dry": True}).status_code == 400


def test_a_loss_that_is_no_number_and_links_in_runs_leave_the_page_whole(page: Page) -> None:
    run = page.folder / "runs/one"
    run.mkdir(parents=True)
    rows = '{"step": 1, "loss": NaN, "seconds_left": NaN}\n{"step": 2, "lo\n{"step": 3, "loss": 1.5}\n'
    (run / "log.jsonl").write_text(rows)
    (run.parent / "file").write_text("x")
    (run.parent / "gone").symlink_to(page.folder / "nowhere")
    (page.folder.parent / "elsewhere").mkdir()
    (run.parent / "outside").symlink_to(page.folder.parent / "elsewhere")
    assert [one["name"] for one in page.ask("runs")["runs"]] == ["one"]
    seen = page.ask("run", name="one")
    assert (seen["step"], seen["state"]) == (3, "unknown") and 0 <= seen["silent"] < 600, "from a terminal"


class Model(http.server.BaseHTTPRequestHandler):
    """What `llava-finetune serve` answers, without a model."""

    key: str | None = None

    def do_GET(self) -> None:
        Model.key = self.headers.get("authorization")
        self.answer({"data": [{"id": "one"}, {"id": "base (base)"}]})

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        picture, text = asked["messages"][0]["content"]
        assert picture["image_url"]["url"].startswith("data:image/png;base64,")
        self.answer({"choices": [{"message": {"content": f" {asked['model']} hears {text['text']}"}}]})

    def answer(self, value: object) -> None:
        body = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def served(filled: Page) -> Iterator[Page]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Model)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    step = Step(("python", "-c", "import time; time.sleep(60)"))
    job = jobs.start(filled.studio.space, "serve", "one", [step], name="one", port=server.server_address[1])
    while jobs.look(job).state == "waiting":
        pass
    yield filled
    jobs.stop(job, now=True)
    server.shutdown()
    server.server_close()


def test_the_model_and_its_base_answer_side_by_side_and_a_right_answer_is_taught(served: Page) -> None:
    talk = served.ask("talk", name="one")
    assert talk["models"] == ["one", "base (base)"] and talk["seconds"] >= 0
    got = served.ask("say", name="one", image="001.png", question="Which colour?")
    assert got["answers"] == {name: f"{name} hears Which colour?" for name in ("one", "base (base)")}

    (served.folder / "asked").mkdir()
    (served.folder / "photos/002.png").rename(served.folder / "asked/new.png")
    taught = served.ask("teach", image=":/asked/new.png", question="Which colour?", answer="blue")
    assert taught == {"image": "asked/new.png"} and (served.folder / "photos/asked/new.png").is_file()
    served.ask("teach", image="001.png", question="Which colour?", answer="leaf green")
    rows = read_table(served.folder / "answers.csv").rows
    assert (len(rows), rows[1]["answer"], rows[-1]["answer"]) == (21, "leaf green", "blue")
    refused = served.post("say", {"name": "one", "image": ":/../secret.png", "question": "What?"})
    assert refused.status_code == 400


def test_a_server_that_asks_for_the_key_is_given_it(served: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLAVA_API_KEY", "secret")
    served.ask("talk", name="one")
    assert Model.key == "Bearer secret"


def test_a_picture_of_the_same_name_never_takes_the_place_of_one_that_a_row_names(filled: Page) -> None:
    names = []
    for number, place in enumerate(("here", "there")):
        (filled.folder / place).mkdir()
        (filled.folder / f"photos/00{number}.png").rename(filled.folder / place / "x.png")
        taught = filled.ask("teach", image=f":/{place}/x.png", question="Which colour?", answer=place)
        names.append(taught["image"])
    assert names == ["asked/x.png", "asked/x-2.png"]
    first, second = ((filled.folder / "photos" / name).read_bytes() for name in names)
    assert first != second and (filled.folder / "there/x.png").read_bytes() == second


def test_two_products_of_a_run_merge_it_once(filled: Page) -> None:
    run = filled.folder / "runs/one"
    run.mkdir(parents=True)
    (run / "adapter_config.json").write_text("{}")
    steps = [Step(("python", "-c", "import time; time.sleep(60)")), Step(("llava-finetune", "merge", "--help"))]
    job = jobs.start(filled.studio.space, "gguf", "one", steps, queued=True, name="one")
    (command,) = filled.ask("make", name="one", kind="export", dry=True)["command"].splitlines()[1:]
    assert command == "llava-finetune export models/one-merged models/one-transformers"
    assert "already" in filled.post("make", {"name": "one", "kind": "gguf"}).json()["error"]
    jobs.stop(job, now=True)


def test_the_page_of_what_it_learns_is_shown_in_a_sandbox(page: Page) -> None:
    import httpx

    assert httpx.get(f"{page.url}/learned").status_code == 404
    Path(page.folder / "show.html").write_text("<p>tokens</p>")
    answer = httpx.get(f"{page.url}/learned")
    assert answer.headers["content-security-policy"].startswith("sandbox") and "tokens" in answer.text
    refused = page.post("show", {"model": "liuhaotian/llava-v1.5-7b"})
    assert refused.status_code == 400 and "step 1" in refused.json()["error"]


def test_a_report_is_shown_as_it_is_now_and_a_certificate_is_said_in_words(filled: Page) -> None:
    run = filled.folder / "runs/one"
    run.mkdir(parents=True)
    assert filled.ask("products", name="one")["report"] is None
    (run / "report.html").write_text("<p>1</p>")
    first = filled.ask("products", name="one")["report"]
    (run / "report.html.new").write_text("<p>2</p>")
    (run / "report.html.new").replace(run / "report.html")
    assert first and filled.ask("products", name="one")["report"] not in (None, first)
    engines: list[dict[str, Any]] = [{"engine": "merged", "verdict": "same", "count": 5, "identical": 5, "notes": []}]
    (run / "certificate.json").write_text(json.dumps({"engines": engines, "fine": True}))
    told = filled.ask("products", name="one")["products"][-1]["verdicts"]
    assert told == [{"engine": "merged", "verdict": "same", "count": 5, "identical": 5}]
    engines += [{"engine": "transformers", "verdict": "same", "count": 5, "identical": 5}]
    engines += [{"engine": "llama.cpp", "verdict": "different", "count": 5, "identical": 2}]
    (run / "certificate.json").write_text(json.dumps({"engines": engines}))
    told = {one["kind"]: one["verdicts"] for one in filled.ask("products", name="one")["products"]}
    assert (told["merge"], told["export"], len(told["certify"])) == ([], [], 3)
    assert told["gguf"] == engines[2:], "who makes its files sees that its program answers otherwise"
    (run / "certificate.json").write_text("[")
    assert filled.ask("products", name="one")["products"][-1]["verdicts"] == []
