"""`certify` on tiny models: the certificate, the page, the card, exit codes, and what it says when it cannot."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from llava_finetune import environments
from llava_finetune.cli import main as cli
from llava_finetune.convert.probes import noise
from llava_finetune.engines import certificate
from llava_finetune.engines.class_token import class_token_last
from llava_finetune.engines.command import main
from llava_finetune.engines.conversions import Conversions
from llava_finetune.engines.reference import TorchModel
from llava_finetune.errors import UsageError, UserError
from llava_finetune.model.loading import load
from llava_finetune.saved.manifest import NAME, weights_sha256
from tests.engines.models import make_model
from tests.tiny import IMAGE_SIZE
from tests.warm import fork, wait_for

NUM_QUESTIONS = 5


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """model/, records.json and pictures/, and a page and card that wait for a certificate."""
    root = tmp_path_factory.mktemp("certify")
    model = make_model(root / "model", "sentencepiece")
    state = load_file(model / "model.safetensors")
    state["lm_head.weight"] *= 8  # as sure of its answers as a trained model is
    save_file(state, model / "model.safetensors", metadata={"format": "pt"})
    (root / "pictures").mkdir()
    records = []
    for number in range(NUM_QUESTIONS):
        noise(IMAGE_SIZE, IMAGE_SIZE, number).save(root / "pictures" / f"{number}.png")
        turns = [{"from": "human", "value": f"<image>\nIs {number} red?"}, {"from": "gpt", "value": "no"}]
        records.append({"id": f"r{number}", "image": f"{number}.png", "conversations": turns})
    (root / "records.json").write_text(json.dumps(records))
    (root / "model" / "report.html").write_text("")
    (root / "model" / "README.md").write_text("")
    return root


@pytest.fixture(scope="module")
def model(folder: Path) -> TorchModel:
    return TorchModel(load(str(folder / "model"), dtype="fp32"))


def certify(folder: Path, *more: str) -> int:
    given = [str(folder / "model"), "--records", str(folder / "records.json"), "--images", str(folder / "pictures")]
    return main([*given, "--max-new-tokens", "6", *more])


def test_engines_are_asked_judged_and_shown(
    folder: Path, capsys: pytest.CaptureFixture[str], note: Callable[[str], None]
) -> None:
    code = certify(folder, "--engines", "adapter", "transformers", "llama.cpp", "--gguf-type", "f32")
    said = capsys.readouterr().out
    found = json.loads((folder / "model" / "certificate.json").read_text())
    note("\n".join(line for line in said.splitlines() if " of " in line))
    assert code == (0 if found["fine"] else 1)
    adapter, own, engine = found["engines"]
    for result in (adapter, own):
        assert (result["verdict"], result["identical"], result["count"]) == ("same", NUM_QUESTIONS, NUM_QUESTIONS)
        assert (result["prompt_ids"], result["first_token"] < 1e-3) == ("equal", True)
    assert own["version"].startswith("transformers ")
    assert own["pixels"] < 1e-5
    assert engine["version"].startswith("xllamacpp ")
    assert engine["prompt_ids"] == "equal"
    assert engine["verdict"] != "different", said
    assert any("class token" in text for text in engine["notes"])
    page, card = (folder / "model" / "report.html").read_text(), (folder / "model" / "README.md").read_text()
    assert "In other engines" in page
    assert "xllamacpp" in page
    assert "| llama.cpp | xllamacpp" in card
    for made in ("exported", "gguf-f32"):
        beside = folder / "model-certify" / made
        assert (beside / "certificate.json").read_bytes() == (folder / "model" / "certificate.json").read_bytes()
        assert "| llama.cpp | xllamacpp" in (beside / "README.md").read_text()


class Forked:
    """The part of Popen that an engine is run by; `python -m llava_finetune` in a child that has imported it."""

    def __init__(self, command: list[str], stdin: int, stdout: int, stderr: IO[bytes]) -> None:
        given, written = os.pipe()
        read, said = os.pipe()
        self.args, self.returncode = command, 0
        self.pid = fork(lambda: cli(command[3:]), [given, said, stderr.fileno()])
        os.close(given)
        os.close(said)
        self.stdin, self.stdout = os.fdopen(written, "wb"), os.fdopen(read, "rb")

    def __enter__(self) -> Forked:
        return self

    def __exit__(self, *error: object) -> None:
        self.stdout.close()

    def wait(self, seconds: float) -> None:
        self.returncode = wait_for(self.pid, seconds)

    def terminate(self) -> None:
        os.kill(self.pid, signal.SIGTERM)

    kill = terminate


def test_the_api_and_the_merged_folder_of_an_adapter_answer_as_the_adapter_does(
    adapter: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ready_to_fork: None
) -> None:
    """The server is the real one, asked over HTTP; it only has its imports from here."""
    import uvicorn  # noqa: F401

    monkeypatch.setattr("llava_finetune.engines.http.subprocess.Popen", Forked)
    out = tmp_path / "certificate.json"
    given = [str(adapter), "--records", str(folder / "records.json"), "--images", str(folder / "pictures")]
    more = ["--answers", "1", "--max-new-tokens", "4", "--work", str(tmp_path / "work"), "--out", str(out)]
    assert main([*given, *more, "--engines", "api", "merged"]) == 0
    api, merged = json.loads(out.read_text())["engines"]
    assert [row["verdict"] for row in (api, merged)] == ["same", "same"]
    assert [row["identical"] for row in (api, merged)] == [1, 1]
    assert (api["prompt_ids"], merged["prompt_ids"]) == ("as many", "equal")


def test_an_engine_that_answers_otherwise_ends_with_1(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from llava_finetune.engines import adapters
    from llava_finetune.engines.answers import Answer
    from llava_finetune.engines.judging import Asked

    def asked(task: adapters.EngineTask) -> Asked:
        return Asked("other", "0.1", "float32", [Answer("something else") for _ in task.questions])

    monkeypatch.setattr(adapters, "ASK", {"merged": asked})
    monkeypatch.setattr("llava_finetune.engines.certificate.ASK", {"merged": asked})
    out = tmp_path / "certificate.json"
    assert certify(folder, "--engines", "merged", "--answers", "2", "--out", str(out)) == 1
    said = capsys.readouterr().out
    assert "first of 2 differences (0 within rounding): question r0/0: " in said
    assert json.loads(out.read_text())["engines"][0]["verdict"] == "different"


def test_an_engine_that_breaks_off_is_a_row_and_the_others_are_asked(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from llava_finetune.engines import adapters

    def broken(task: adapters.EngineTask) -> Any:
        raise UserError("transformers: ended with exit code 1")

    asks = {"transformers": broken, "merged": adapters.ASK["merged"]}
    monkeypatch.setattr("llava_finetune.engines.certificate.ASK", asks)
    monkeypatch.setattr("llava_finetune.engines.command._at_hand", lambda asked: (["transformers", "merged"], {}))
    out = tmp_path / "certificate.json"
    assert certify(folder, "--engines", "transformers", "merged", "--answers", "1", "--out", str(out)) == 1
    assert "transformers: failed: transformers: ended with exit code 1" in capsys.readouterr().out
    assert [row["verdict"] for row in json.loads(out.read_text())["engines"]] == ["failed", "same"]


def test_the_class_token_last_is_another_model_and_only_inside_the_block(folder: Path, model: TorchModel) -> None:
    from llava_finetune.engines.questions import read_questions

    (question,) = read_questions(folder / "records.json", folder / "pictures", 1)
    before = model.first(question)
    with class_token_last(model.loaded.model):
        assert (model.first(question) - before).abs().max() > 1e-3
    assert torch.equal(model.first(question), before)


def test_an_engine_that_is_named_and_not_installed_is_told_with_the_command(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLAVA_ENGINES", str(tmp_path))
    with pytest.raises(UserError, match=r"vllm: not installed \(no .*\); install it with: bash scripts/engines"):
        certify(folder, "--engines", "vllm")


def test_an_environment_of_its_own_comes_before_what_is_installed_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLAVA_ENGINES", str(tmp_path))
    python = tmp_path / "llama.cpp" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.touch()
    with pytest.raises(UserError, match="was not made to its end: bash scripts/engines"):
        environments.engine_python("llama.cpp")
    (tmp_path / "llama.cpp" / ".ready").touch()
    assert environments.engine_python("llama.cpp") == str(python)


def test_an_engine_of_another_version_than_the_pinned_one_is_said(root: Path) -> None:
    script = (root / "scripts" / "engines.sh").read_text()
    assert [pinned for pinned in environments.PINNED.values() if pinned not in script] == []
    for engine, version in (("vllm", "vllm 0.32.0+cpu"), ("transformers", "transformers 5.24.0, torch 2.13.0")):
        assert environments.note_on_version(engine, version) is None
    assert environments.note_on_version("adapter", "torch 2.13.0") is None
    said = environments.note_on_version("transformers", "transformers 5.23.0, torch 2.13.0, LlavaImageProcessorPil")
    assert said and said.startswith("this is version 5.23.0; scripts/engines.sh pins transformers 5.24.0, which")


def test_an_engine_that_falls_silent_is_ended_and_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It writes one line, and no second one."""
    from llava_finetune.engines import adapters

    (tmp_path / "mute.py").write_text(
        "import sys, time; f = open(sys.argv[2], 'w'); f.write('{}'); f.flush(); time.sleep(99)"
    )
    (tmp_path / "transformers.jsonl").write_text("of an earlier call")
    monkeypatch.setattr(adapters, "RUNNERS", tmp_path)
    monkeypatch.setattr(adapters, "LOAD_SECONDS", 0.3)
    monkeypatch.setattr(adapters, "engine_python", lambda _: sys.executable)
    with pytest.raises(UserError, match=r"transformers: silent for 0 s, and ended for that"):
        adapters._run_job("transformers", "mute.py", tmp_path)


def test_a_merged_folder_of_an_adapter_that_was_trained_on_is_refused(tmp_path: Path) -> None:
    adapter = tmp_path / "run"
    adapter.mkdir()
    weights = {"a": torch.zeros(2)}
    save_file(weights, adapter / "adapter_model.safetensors")
    (adapter / "adapter_config.json").write_text("{}")
    made = tmp_path / "work" / "merged"
    made.mkdir(parents=True)
    (made / NAME).write_text(json.dumps({"merged_from": str(adapter), "merged_sha256": weights_sha256(adapter)}))
    assert Conversions(str(adapter), made.parent).merged() == made
    save_file({"a": torch.ones(2)}, adapter / "adapter_model.safetensors")
    with pytest.raises(UserError, match="made of another model, or of this one before it changed"):
        Conversions(str(adapter), made.parent).merged()


def test_wrong_use_is_told(folder: Path) -> None:
    with pytest.raises(UsageError, match="--answers 0: at least one question is needed"):
        certify(folder, "--answers", "0")
    with pytest.raises(UserError, match="nowhere: no such folder; give what training or merge wrote"):
        main(["nowhere"])
    with pytest.raises(UsageError, match="names no test file that is still there; give one with --records"):
        main([str(folder / "model")])


def test_an_engine_that_sends_something_odd_is_a_row_that_failed(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def odd(_: Any) -> Any:
        raise KeyError("choices")

    monkeypatch.setattr(certificate, "ASK", {**certificate.ASK, "api": odd})
    out = folder / "odd.json"
    assert certify(folder, "--engines", "api", "adapter", "--answers", "1", "--out", str(out)) == 1
    api, own = json.loads(out.read_text())["engines"]
    (note,) = api["notes"]
    assert api["verdict"] == "failed" and note.startswith("failed: KeyError: 'choices'; its answer is odd, or a fault")
    details = Path(note.partition("the details are in ")[2])
    assert "in odd" in details.read_text(), "the traceback is kept"
    details.unlink()
    assert own["verdict"] == "same"


@pytest.mark.parametrize("flag", ["--out", "--work"])
def test_a_place_that_cannot_be_written_is_told_before_the_model_is_asked(flag: str, folder: Path) -> None:
    with pytest.raises(UserError, match=r"/dev/null: is a device|/dev/null is no folder"):
        certify(folder, flag, "/dev/null")


@pytest.mark.parametrize(
    ("last", "shift", "aspect_ratio", "said"),
    [
        (False, 0.0, "pad", "class token first, as CLIP has it"),
        (True, 0.0, "pad", "puts CLIP's class token last"),
        (True, 0.5, "square", "cannot be told: .*image_aspect_ratio square.* Certify again with records of square"),
        (True, 0.5, "pad", "cannot be told: .* llama.cpp resizes them first"),
        (True, None, "pad", "cannot be told: no question with a picture"),
    ],
)
def test_the_order_of_the_class_token_is_told_where_one_fits_and_only_there(
    last: bool,
    shift: float | None,
    aspect_ratio: str,
    said: str,
    folder: Path,
    model: TorchModel,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An engine's answers, simulated: of either order, farther from both than f32 rounds, and without likelihoods."""
    from llava_finetune.engines.judging import Asked, Reference
    from llava_finetune.engines.questions import read_questions

    questions = read_questions(folder / "records.json", folder / "pictures", 2)
    own = [model.answer(question, 4) for question in questions]
    with class_token_last(model.loaded.model) if last else contextlib.nullcontext():
        answers = [model.answer(question, 4) for question in questions]
    for index, answer in enumerate(answers):
        best = max(answer.first.values())
        first = {} if shift is None else {k: v - shift * (v < best) * (1 + k % 2) for k, v in answer.first.items()}
        answers[index] = replace(answer, first=first)
    monkeypatch.setattr(model.loaded.model.config, "image_aspect_ratio", aspect_ratio)
    asked = Asked("llama.cpp", "1.0", "f32", answers)
    result = certificate._judge_llama_cpp(asked, Reference(questions, own, model.gap), model, 4)
    assert re.search(said, result.notes[0]), result.notes
    assert ("No file can mend it: use another engine" in result.notes[-1]) == ("class token last" in said)


def test_vllm_computes_in_the_dtype_of_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package that stands in for vLLM prints what it was started with, and ends."""
    from llava_finetune.engines import adapters

    package = tmp_path / "vllm" / "entrypoints" / "openai"
    package.mkdir(parents=True)
    (package / "api_server.py").write_text("import sys; sys.exit(' '.join(sys.argv[1:]))")
    (tmp_path / NAME).write_text(json.dumps({"dtype": "float32"}))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(adapters, "engine_python", lambda _: sys.executable)
    monkeypatch.setattr(Conversions, "exported", lambda self: self.work)
    with pytest.raises(UserError, match="vLLM ended with exit code 1"):
        adapters.ask_vllm(adapters.EngineTask(Conversions("mine", tmp_path), [], 4, [], 64))
    assert "--dtype float32 " in (tmp_path / "vllm.log").read_text()
