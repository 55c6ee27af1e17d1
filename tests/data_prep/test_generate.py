"""Data written by a language model: what is sent, what is kept, what is refused, and that nothing is asked twice."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from data_prep.__main__ import main
from data_prep.generate import endpoint as endpoint_module
from data_prep.generate.endpoint import Pace
from data_prep.generate.scenes import read_scenes
from data_prep.generate.validate import Invalid, turns_of
from data_prep.records.record import DataError, read_records
from tests.data_prep.conftest import draw
from tests.data_prep.endpoint import ANSWERS, WORDS, Endpoint, serve, style_of, valid


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[Endpoint]:
    for name in ("OPENAI_API_KEY", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    with serve() as started:
        yield started


@pytest.fixture
def coco(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three pictures with captions and boxes in COCO's files."""
    monkeypatch.chdir(tmp_path)
    images = [{"id": n, "file_name": f"{n}.jpg", "width": 80, "height": 60} for n in range(3)]
    for n in range(3):
        draw(tmp_path / f"coco/{n}.jpg", n)
    captions = [{"image_id": n % 3, "caption": f"a thing {n}"} for n in range(6)]
    boxes = [{"image_id": 0, "category_id": 1, "bbox": [8, 6, 40, 30]}]
    (tmp_path / "captions.json").write_text(json.dumps({"images": images, "annotations": captions}))
    instances = {"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "dog"}]}
    (tmp_path / "instances.json").write_text(json.dumps(instances))
    return tmp_path


def command(endpoint: Endpoint, *more: str) -> list[str]:
    return [
        "generate", "--captions", "captions.json", "--boxes", "instances.json", "--image-folder", "coco",
        "--endpoint", endpoint.address, "--model", "m", "--output", "g.json", "--allow-drops", "1", *more,
    ]  # fmt: skip


def test_three_styles_become_records_that_pass_the_check(
    coco: Path, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MY_KEY", "secret-1")
    assert main(command(endpoint, "--yes", "--key-variable", "MY_KEY", "--price-in", "2", "--price-out", "8")) == 0
    records = read_records("g.json")
    assert [item["id"] for item in records][:4] == [
        "generated-0-conversation", "generated-0-detail", "generated-0-reasoning", "generated-1-conversation",
    ]  # fmt: skip
    turns = records[0]["conversations"]
    assert [turn["value"] for turn in turns] == [
        "<image>\nWhat animal is on the grass?", "A small brown dog.", "What lies beside it?", "A red ball.",
    ]  # fmt: skip
    sent = [item["messages"][1]["content"] for item in endpoint.requests if style_of(item) == "conversation"]
    assert sorted(sent) == [  # requests go out together: they come in any order
        "Captions:\n- a thing 0\n- a thing 3\n\n"
        "Objects, each with left, top, right, bottom:\n- dog: 0.100 0.100 0.600 0.600",
        "Captions:\n- a thing 1\n- a thing 4",
        "Captions:\n- a thing 2\n- a thing 5",
    ]
    assert set(endpoint.keys) == {"Bearer secret-1"}
    assert not any("secret-1" in path.read_text() for path in coco.iterdir() if path.is_file())
    out = capsys.readouterr().out
    assert "estimate: 9 requests about 3 pictures" in out
    assert "used: 900 tokens in, 450 out, 0.01 at your prices" in out
    meta = json.loads(Path("g.meta.json").read_text())
    assert meta["counts"]["in"] == 9
    assert set(meta["choices"]["prompts"]) == {*ANSWERS, "detail_questions"}


def test_without_yes_only_the_estimate_is_printed(
    coco: Path, endpoint: Endpoint, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command(endpoint)) == 0
    out = capsys.readouterr().out
    assert "nothing was sent" in out
    assert "(at most 18,432)" in out  # 9 requests x 1024 tokens x 2 attempts
    assert endpoint.requests == []
    assert not Path("g.json").exists()


def test_limits_and_failures_for_now_are_waited_out(coco: Path, endpoint: Endpoint) -> None:
    endpoint.answer = lambda request, number: (429, "slow down") if number in {1, 2} else (200, valid(request))
    assert main(command(endpoint, "--yes", "--concurrency", "1", "--limit", "1")) == 0
    assert len(endpoint.requests) == 5
    assert len(read_records("g.json")) == 3


def test_requests_go_out_together_but_never_more_than_asked_for(coco: Path, endpoint: Endpoint) -> None:
    def slow(request: dict[str, object], number: int) -> tuple[int, str]:
        time.sleep(0.1)
        return 200, valid(request)

    endpoint.answer = slow
    assert main(command(endpoint, "--yes", "--concurrency", "3")) == 0
    assert 2 <= endpoint.most_at_once <= 3


@pytest.mark.parametrize(
    ("pace", "starts"),
    [
        (Pace(60, None), [0, 1, 2]),
        (Pace(None, 600), [0, 10, 20]),
        (Pace(60, 600), [0, 10, 20]),
        (Pace(None, None), [0] * 3),
    ],
)
def test_the_pace_spaces_requests_by_number_and_by_tokens(
    monkeypatch: pytest.MonkeyPatch, pace: Pace, starts: list[float]
) -> None:
    now = [0.0]

    async def sleep(seconds: float) -> None:
        now[0] += seconds

    async def take() -> list[float]:
        times = []
        for _ in starts:
            await pace.turn(100)
            times.append(now[0])
        return times

    clock = SimpleNamespace(get_running_loop=lambda: SimpleNamespace(time=lambda: now[0]), sleep=sleep)
    monkeypatch.setattr(endpoint_module, "asyncio", clock)
    assert asyncio.run(take()) == starts


def test_an_answer_that_is_not_valid_is_asked_for_again_and_then_dropped(
    coco: Path, endpoint: Endpoint, capsys: pytest.CaptureFixture[str]
) -> None:
    def answer(request: dict[str, object], number: int) -> tuple[int, str]:
        bad = style_of(request) == "detail" or number == 1
        return 200, '{"description": "The captions say it is a dog."}' if bad else valid(request)

    endpoint.answer = answer
    words = command(endpoint, "--yes", "--limit", "1", "--concurrency", "1")
    assert main(words) == 0
    assert len(endpoint.requests) == 5  # the first twice, the description twice, reasoning once
    meta = json.loads(Path("g.meta.json").read_text())
    assert meta["counts"]["dropped"] == {"generated text not valid": 1}
    assert "'captions' in" in meta["counts"]["first_dropped"]["generated text not valid"][0]
    endpoint.answer = lambda request, number: (200, valid(request))
    assert main(words) == 0
    assert len(endpoint.requests) == 5, "what is in the journal is not asked again"
    assert main([*words, "--again"]) == 0
    assert len(endpoint.requests) == 6
    assert len(read_records("g.json")) == 3


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system has no SIGKILL")
def test_a_killed_run_goes_on_and_asks_nothing_twice(coco: Path, endpoint: Endpoint, root: Path) -> None:
    endpoint.answer = lambda request, number: (200, valid(request)) if number <= 4 else (time.sleep(30), (200, ""))[1]
    words = command(endpoint, "--yes", "--concurrency", "1")
    environment = {**os.environ, "PYTHONPATH": str(root)}
    process = subprocess.Popen([sys.executable, "-m", "data_prep", *words], env=environment, stdout=subprocess.DEVNULL)
    while len(endpoint.requests) < 5 and process.poll() is None:
        time.sleep(0.05)
    process.kill()
    process.wait()
    assert not Path("g.json").exists()
    journal = Path("g.journal.jsonl")
    assert len(journal.read_text().splitlines()) == 4
    with journal.open("a") as stream:
        stream.write('{"key": "half')  # as a kill in the middle of a line leaves it
    endpoint.answer = lambda request, number: (200, valid(request))
    assert main(words) == 0
    assert len(read_records("g.json")) == 9
    assert len(endpoint.requests) == 5 + 5


def test_a_changed_prompt_is_asked_anew(coco: Path, endpoint: Endpoint) -> None:
    assert main(["generate", "--write-prompts", "prompts"]) == 0
    words = command(endpoint, "--yes", "--limit", "1", "--prompts", "prompts")
    assert main(words) == 0
    path = Path("prompts/detail.txt")
    path.write_text(path.read_text() + "\nWrite in the present tense.")
    assert main(words) == 0
    assert [style_of(item) for item in endpoint.requests].count("detail") == 2
    assert len(endpoint.requests) == 4
    assert endpoint.requests[-1]["messages"][0]["content"].endswith("Write in the present tense.")
    with pytest.raises(DataError, match="is there already and may be edited"):
        from data_prep.generate.prompts import write_prompts

        write_prompts(Path("prompts"))


@pytest.mark.parametrize(
    ("answer", "more", "message"),
    [
        ((401, "bad key"), (), "status 401, model 'm': the key is refused; set the variable that --key-variable names"),
        ((404, "no model"), (), "no such address or model; see --endpoint"),
        ((500, "down"), ("--retries", "0"), "5 requests in a row without an answer"),
        ((200, "{}"), ("--budget", "0.0002", "--price-in", "2"), "the budget of 0.0002 is spent (0.00)"),
    ],
)
def test_what_stops_a_run_is_said_and_what_was_answered_is_kept(
    coco: Path, endpoint: Endpoint, capsys: pytest.CaptureFixture[str], answer: tuple[int, str], more: tuple[str, ...],
    message: str,
) -> None:  # fmt: skip
    endpoint.answer = lambda request, number: (200, valid(request)) if number == 1 and answer[0] != 200 else answer
    assert main(command(endpoint, "--yes", "--concurrency", "1", *more)) == 1
    assert message in capsys.readouterr().err
    assert not Path("g.json").exists()
    assert Path("g.journal.jsonl").is_file()


def test_a_request_without_an_answer_is_counted_and_asked_again_next_time(
    coco: Path, endpoint: Endpoint, capsys: pytest.CaptureFixture[str]
) -> None:
    endpoint.answer = lambda request, number: (500, "down") if number == 2 else (200, valid(request))
    words = command(endpoint, "--yes", "--concurrency", "1", "--retries", "0")
    assert main(words) == 1
    assert "1 requests had no answer; the same command asks them again" in capsys.readouterr().out
    assert len(read_records("g.json")) == 8
    assert main(words) == 0
    assert len(read_records("g.json")) == 9


def test_a_refused_request_drops_its_row_only(coco: Path, endpoint: Endpoint) -> None:
    endpoint.answer = lambda request, number: (400, "too long") if number == 1 else (200, valid(request))
    assert main(command(endpoint, "--yes", "--concurrency", "1", "--limit", "1")) == 0
    meta = json.loads(Path("g.meta.json").read_text())
    assert "status 400" in meta["counts"]["first_dropped"]["generated text not valid"][0]


def test_two_runs_do_not_share_a_journal(coco: Path, endpoint: Endpoint, capsys: pytest.CaptureFixture[str]) -> None:
    from data_prep.generate.journal import Journal

    pytest.importorskip("fcntl", reason="this system has no flock")
    with Journal(Path("g.journal.jsonl")):
        assert main(command(endpoint, "--yes")) == 1
    assert "another run writes it" in capsys.readouterr().err
    assert endpoint.requests == []


@pytest.mark.parametrize(
    ("style", "text", "reason"),
    [
        ("detail", "I cannot see it", "no JSON object"),
        ("detail", json.dumps({"description": "A dog."}), "2 words, expected at least 25"),
        ("detail", json.dumps({"description": WORDS + "0.10 0.25 0.50 0.75 of it in all"}), "'0.10 0.25' in"),
        ("conversation", json.dumps({"turns": ANSWERS["conversation"]["turns"][:1]}), "1 turns, expected 2 to 10"),
        ("conversation", json.dumps({"turns": ["a", "b"]}), "a turn without question or answer"),
        ("conversation", json.dumps({"turns": ANSWERS["conversation"]["turns"] * 2}), "a question stands twice"),
        ("conversation", '{"talk": []}', 'no list "turns"'),
        ("reasoning", json.dumps({"question": "Why <image>?", "answer": WORDS}), "<image> in a text"),
        ("reasoning", json.dumps({"question": "Why?", "answer": WORDS + "</s>"}), "'</s>' in"),
        ("reasoning", json.dumps({"question": "Why?", "answer": "As an AI " + WORDS}), "'As an AI' in"),
        ("reasoning", json.dumps({"question": "Why?", "answer": None}), "a turn without question or answer"),
    ],
)
def test_what_must_not_be_learned_is_refused(style: str, text: str, reason: str) -> None:
    found = turns_of(text, style, "stop", "Describe it.")
    assert isinstance(found, Invalid)
    assert reason in found.reason


def test_an_answer_that_was_cut_off_is_refused() -> None:
    assert "cut off" in turns_of(json.dumps(ANSWERS["detail"]), "detail", "length", "Describe it.")[0]


def test_tables_give_the_scenes_that_coco_gives(coco: Path) -> None:
    rows = "".join(f"{n % 3}.jpg,a thing {n}\n" for n in range(6))
    Path("c.csv").write_text("image,caption\n" + rows)
    Path("b.csv").write_text("image,label,x,y,width,height\n0.jpg,dog,8,6,40,30\n")
    from_tables = read_scenes(Path("c.csv"), Path("b.csv"), Path("coco"))
    assert from_tables == read_scenes(Path("captions.json"), Path("instances.json"), Path("coco"))


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("b.csv", "image,label,x,y,width,height\n0.jpg,dog,8,six,40,30\n", "line 2: a box is four numbers"),
        ("b.csv", "image,label,x,y,width,height\n9.jpg,dog,8,6,40,30\n", "line 2: 9.jpg: no such picture"),
        ("b.csv", "image,label,x,y,widht,height\n", "nothing"),
        ("b.csv", "image,label,x,y,widht,height\n0.jpg,dog,1,2,3,4\n", 'did you mean "widht"?'),
        ("b.json", '{"images": []}', 'no list "annotations" in it, only images'),
        ("b.json", '{"images": [], "annotations": [{"image_id": 1}]}', 'annotations, entry 1: no "category_id"'),
        (
            "b.json",
            '{"images": [], "annotations": [{"image_id": 1, "category_id": 2, "bbox": []}]}',
            'annotations, entry 1: picture 1 is not under "images"',
        ),
    ],
)
def test_a_bad_source_is_refused_by_file_and_entry(coco: Path, name: str, text: str, message: str) -> None:
    Path(name).write_text(text)
    if message == "nothing":
        assert read_scenes(None, Path(name), Path("coco")) == []
        return
    with pytest.raises(DataError) as error:
        read_scenes(None, Path(name), Path("coco"))
    assert message in str(error.value)
    assert str(error.value).startswith(name)
