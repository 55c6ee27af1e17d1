"""The terminal chat: once, several turns, pictures, commands, and a record that training reads."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from llava_finetune.cli import main as cli
from llava_finetune.errors import UserError
from llava_finetune.serve import chat as module
from llava_finetune.serve.chat import Chat, _piped, converse, main
from llava_finetune.serve.engine import Engine
from llava_finetune.serve.sampling import Sampling


@pytest.fixture
def chat(loaded: Any) -> Iterator[Chat]:
    engine = Engine(loaded, max_batch=1).start()
    yield Chat(engine, Sampling(max_new_tokens=6), out=io.StringIO())
    engine.close()


@pytest.fixture
def picture(tmp_path: Path, kit: SimpleNamespace) -> Path:
    kit.noise(70, 40).save(tmp_path / "a picture.png")
    return tmp_path / "a picture.png"


def talk(chat: Chat, monkeypatch: pytest.MonkeyPatch, *lines: str) -> str:
    """Type lines, then the end of input; returns what was printed."""
    typed = iter(lines)

    def reads(prompt: str) -> str:
        try:
            return next(typed)
        except StopIteration:
            raise EOFError from None

    monkeypatch.setattr("builtins.input", reads)
    assert converse(chat) == 0
    return chat.out.getvalue()  # type: ignore[attr-defined]


def test_once_prints_only_the_answer_and_the_cost_beside_it(
    adapter: Path, picture: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [str(adapter), "--image", str(picture), "--once", "What?", "--max-new-tokens", "5", "--dtype", "fp32"]
    assert main(command) == 0
    first = capsys.readouterr()
    assert main(command) == 0
    assert capsys.readouterr().out == first.out != "\n"
    assert "tokens/s, ended by length" in first.err
    assert re.search(
        r"loaded \S+ in \d+\.\d s: float32 on cpu, \d\.\d\d GB of weights, .*, template vicuna_v1", first.err
    )


def test_once_reads_a_question_from_stdin(
    adapter: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("What is this?\n"))
    assert main([str(adapter), "--once", "-", "--max-new-tokens", "3"]) == 0
    assert capsys.readouterr().out.strip()


def test_of_a_stdin_without_end_no_more_is_read_than_the_model_could_take(monkeypatch: pytest.MonkeyPatch) -> None:
    with Path("/dev/zero").open(encoding="utf-8") as endless:
        monkeypatch.setattr("sys.stdin", endless)
        assert len(_piped(2048)) == 2048 * 32 + 1
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"what \xff?"), encoding="utf-8"))
    with pytest.raises(UserError, match="stdin is no text in utf-8"):
        _piped(2048)


@pytest.mark.parametrize("bits", ["4", "8"])
def test_quantised_models_answer(adapter: Path, bits: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(adapter), "--bits", bits, "--once", "Hi", "--max-new-tokens", "3"]) == 0
    assert f"{bits}-bit, " in capsys.readouterr().err


def test_a_conversation_keeps_its_turns_and_pictures(
    chat: Chat, picture: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    out = talk(
        chat, monkeypatch, f'/image "{picture}"', "What is it?", "Sure?", f"/save {tmp_path / 'kept.json'}", "/history"
    )
    assert "1 picture(s) for the next message" in out
    assert "you> [1 picture(s)] What is it?" in out
    (record,) = json.loads((tmp_path / "kept.json").read_text())
    assert [turn["from"] for turn in record["conversations"]] == ["human", "gpt", "human", "gpt"]
    assert record["conversations"][0]["value"] == "<image>\nWhat is it?"
    assert record["image"] == str(picture)


def test_several_pictures_go_with_one_message(
    chat: Chat, picture: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kit: SimpleNamespace
) -> None:
    kit.noise(30, 80, 5).save(tmp_path / "b.png")
    out = talk(chat, monkeypatch, f'/image "{picture}" {tmp_path / "b.png"}', "Compare", f"/save {tmp_path}/two.jsonl")
    assert "2 picture(s) for the next message" in out
    record = json.loads((tmp_path / "two.jsonl").read_text())
    assert record["conversations"][0]["value"] == "<image>\n<image>\nCompare"
    assert record["image"] == [str(picture), str(tmp_path / "b.png")]


class Watched(io.StringIO):
    """What is printed, piece by piece."""

    def __init__(self) -> None:
        super().__init__()
        self.pieces: list[str] = []

    def write(self, text: str) -> int:
        self.pieces.append(text)
        return super().write(text)


def test_an_answer_is_printed_as_it_comes(chat: Chat) -> None:
    chat.out = out = Watched()
    chat.say("Hello")
    pieces = [piece for piece in out.pieces if piece.strip()]
    assert len(pieces) > 2
    assert "".join(pieces) == chat.messages[-1].text


class Interrupted:
    """A ticket whose reader presses Ctrl-C after the first piece."""

    def __init__(self, ticket: Any) -> None:
        self.ticket, self.events, self.count = ticket, iter(ticket), 0

    def __iter__(self) -> Interrupted:
        return self

    def __next__(self) -> Any:
        self.count += 1
        if self.count == 2:
            raise KeyboardInterrupt
        return next(self.events)

    def cancel(self) -> None:
        self.ticket.cancel()


def test_ctrl_c_stops_the_answer_and_the_chat_goes_on(
    chat: Chat, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    submit = chat.engine.submit
    monkeypatch.setattr(chat.engine, "stops", set())
    with monkeypatch.context() as patch:
        patch.setattr(chat.engine, "submit", lambda prompt, _: Interrupted(submit(prompt, Sampling(1500))))
        chat.say("Tell me everything")
    assert "ended by cancel]" in capsys.readouterr().err
    stopped = chat.messages[-1]
    assert stopped.role == "assistant" and stopped.text
    talk(chat, monkeypatch, "And now?")
    assert [message.role for message in chat.messages] == ["user", "assistant"] * 2


def test_reset_forgets_and_retry_answers_again(chat: Chat, monkeypatch: pytest.MonkeyPatch) -> None:
    talk(chat, monkeypatch, "Hello", "/retry")
    assert [message.role for message in chat.messages] == ["user", "assistant"]
    out = talk(chat, monkeypatch, "/reset", "/history")
    assert "conversation forgotten" in out
    assert chat.messages == []


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("/nothing", "error: /nothing: no such command, or something is missing after it; /help lists the commands"),
        ("/image", "error: /image: no such command, or something is missing after it"),
        ("/image /nowhere.png", "error: /nowhere.png: no such picture"),
        ("/save", "error: /save: no such command, or something is missing after it"),
        ("/save here.json", "error: nothing to save yet"),
        ("/retry", "error: nothing was asked yet"),
        ('/image "half', "put a path with spaces between quotes"),
        ("look: <image>", "attach pictures, do not write it"),
        ("/image ~nobody-of-this-name/x.png", "error: "),
    ],
)
def test_a_mistake_is_told_and_the_chat_goes_on(
    line: str, message: str, chat: Chat, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = talk(chat, monkeypatch, line, "Hello")
    assert message in out
    assert [entry.role for entry in chat.messages] == ["user", "assistant"]


def test_a_file_that_exists_is_not_overwritten(chat: Chat, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "mine.json").write_text("[]")
    out = talk(chat, monkeypatch, "Hello", f"/save {tmp_path / 'mine.json'}")
    assert "exists; give another name" in out
    assert (tmp_path / "mine.json").read_text() == "[]"


def test_nothing_but_plain_text_is_printed(chat: Chat, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "\x1b" not in talk(chat, monkeypatch, "Hello", "/help", "/history")


def test_a_missing_picture_ends_with_a_message_before_the_model_is_loaded(
    adapter: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "load_model", lambda choice: pytest.fail("loaded for nothing"))
    assert cli(["chat", str(adapter), "--image", "/nowhere.png", "--once", "What?"]) == 1
    assert capsys.readouterr().err.startswith("error: /nowhere.png: no such picture")


def test_wrong_numbers_are_wrong_use(adapter: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli(["chat", str(adapter), "--temperature", "-1", "--once", "x"])
    assert ended.value.code == 2
    assert "--temperature: expected a number from 0 to 100" in capsys.readouterr().err
