"""What patches of upstream's evaluation and serving programs are for, with stand-ins for the model.

Each test is named by one patch (`proven_by`) and fails without it: `python -m patches prove NAME`.
"""

import builtins
import importlib
import json
import logging
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image

from llava_finetune.errors import UserError
from llava_finetune.upstream import templates

SCRIPTS = ("model_vqa", "model_vqa_loader", "model_vqa_mmbench", "model_vqa_science")


class Reached(Exception):
    """Raised by a stand-in where a test needs no more of upstream's function."""


def reach(*_: Any, **__: Any) -> None:
    """A stand-in that ends the function."""
    raise Reached


@pytest.fixture(autouse=True)
def quiet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Upstream's servers write a log into the working folder and take over stdout when they are imported.

    Its evaluation scripts switch torch's initialisation of weights off for the whole process: models that later tests
    made in this process held whatever was in memory.
    """
    monkeypatch.chdir(tmp_path)
    for layer in (torch.nn.Linear, torch.nn.LayerNorm):
        monkeypatch.setattr(layer, "reset_parameters", layer.reset_parameters)
    utils = importlib.import_module("llava.utils")
    monkeypatch.setattr(utils, "build_logger", lambda name, _: logging.getLogger(name))


def test_the_old_page_names_what_replaces_it() -> None:
    with pytest.raises(ImportError, match=r"is not supported: .* use `llava-finetune serve MODEL`"):
        importlib.import_module("llava.serve.gradio_web_server")


def test_the_evaluation_scripts_import_without_shortuuid(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "shortuuid", None)
    for name in (*SCRIPTS, "model_qa"):
        monkeypatch.delitem(sys.modules, f"llava.eval.{name}", raising=False)
        assert importlib.import_module(f"llava.eval.{name}").eval_model


def stand_in_model(**values: Any) -> SimpleNamespace:
    """What upstream's programs read of a model."""
    config = SimpleNamespace(mm_use_im_start_end=False, image_aspect_ratio="pad", tokenizer_model_max_length=99)
    return SimpleNamespace(device=torch.device("cpu"), dtype=torch.float32, config=config, **values)


def evaluation(name: str, monkeypatch: pytest.MonkeyPatch, **flags: Any) -> tuple[Any, SimpleNamespace]:
    """One of the evaluation scripts with a stand-in model, and its flags."""
    module = importlib.import_module(f"llava.eval.{name}")
    loaded = (SimpleNamespace(), stand_in_model(), SimpleNamespace(), 2048)
    monkeypatch.setattr(module, "load_pretrained_model", lambda *_, **__: loaded)
    lines = [json.dumps({"question_id": number, "image": "0.png", "text": "Color?"}) for number in range(2)]
    Path("questions.jsonl").write_text("\n".join(lines) + "\n")
    values = {
        "model_path": "model",
        "model_base": None,
        "device": "cpu",
        "dtype": "float32",
        "conv_mode": None,
        "question_file": "questions.jsonl",
        "answers_file": "answers.jsonl",
        "image_folder": ".",
        "num_chunks": 1,
        "chunk_idx": 0,
        "temperature": 0,
        "top_p": None,
        "num_beams": 1,
        **flags,
    }
    return module, SimpleNamespace(**values)


def test_the_vqa_scripts_ask_the_model_for_its_template(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(templates, "choose_template", reach)
    for name in SCRIPTS:
        module, flags = evaluation(name, monkeypatch)
        with pytest.raises(Reached):
            module.eval_model(flags)


def test_an_answers_file_needs_no_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(templates, "choose_template", lambda *_: "vicuna_v1")
    module, flags = evaluation("model_vqa", monkeypatch)
    monkeypatch.setattr(module, "tokenizer_image_token", reach)
    with pytest.raises(Reached):
        module.eval_model(flags)
    assert Path("answers.jsonl").is_file()


def chat(monkeypatch: pytest.MonkeyPatch, tiny: Path, **flags: Any) -> None:
    """Upstream's terminal chat: two questions to a stand-in that answers `red` each time."""
    from transformers import AutoTokenizer

    cli = importlib.import_module("llava.serve.cli")
    tokenizer = AutoTokenizer.from_pretrained(tiny / "llava-1.5")
    answer = torch.tensor([[*tokenizer("red").input_ids, tokenizer.eos_token_id]])
    model = stand_in_model(generate=lambda *_, **__: answer)
    monkeypatch.setattr(cli, "load_pretrained_model", lambda *_, **__: (tokenizer, model, None, 2048))
    monkeypatch.setattr(cli, "load_image", lambda _: Image.new("RGB", (8, 8)))
    monkeypatch.setattr(cli, "process_images", lambda *_: torch.zeros(1, 3, 8, 8))
    questions = iter(("Color?", "Sure?", ""))
    monkeypatch.setattr(builtins, "input", lambda _: next(questions))
    values = {"model_path": "model", "model_base": None, "load_8bit": False, "load_4bit": False, "device": "cpu"}
    values |= {"dtype": "float32", "conv_mode": None, "image_file": "a.png", "temperature": 0, "max_new_tokens": 4}
    cli.main(SimpleNamespace(**{**values, "debug": True, **flags}))


def test_the_chat_refuses_an_unknown_template(monkeypatch: pytest.MonkeyPatch, tiny: Path) -> None:
    with pytest.raises(UserError, match="--conv-mode no_such_template: no such template; known: "):
        chat(monkeypatch, tiny, conv_mode="no_such_template")


def test_the_chat_remembers_its_own_answer(
    monkeypatch: pytest.MonkeyPatch, tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(templates, "choose_template", lambda *_: "vicuna_v1")
    chat(monkeypatch, tiny)
    second = [line for line in capsys.readouterr().out.splitlines() if "'prompt'" in line][1]
    assert "Color? ASSISTANT: red</s>USER: Sure? ASSISTANT:" in second


def worker(monkeypatch: pytest.MonkeyPatch, processor: object, **flags: Any) -> tuple[Any, dict[str, Any]]:
    """A model worker with a stand-in model, and what it asked the loader for."""
    module = importlib.import_module("llava.serve.model_worker")
    asked: dict[str, Any] = {}

    def keep(*_: Any, **keywords: Any) -> tuple[Any, ...]:
        asked.update(keywords)
        return SimpleNamespace(), stand_in_model(), processor, 2048

    monkeypatch.setattr(module, "load_pretrained_model", keep)
    monkeypatch.setattr(module.ModelWorker, "register_to_controller", lambda _: None)
    places = {"controller_addr": "", "worker_addr": "", "worker_id": "1", "no_register": True}
    model = {"model_path": "folder", "model_base": None, "model_name": "tiny", "load_8bit": False, "load_4bit": False}
    return module.ModelWorker(**{**places, **model, "device": "auto", **flags}), asked


def test_the_worker_loads_in_the_asked_dtype_where_the_model_is(monkeypatch: pytest.MonkeyPatch) -> None:
    made, asked = worker(monkeypatch, None, dtype="bf16")
    assert asked["dtype"] == "bf16"
    assert made.device == torch.device("cpu")


def test_the_worker_sees_when_its_model_does(monkeypatch: pytest.MonkeyPatch) -> None:
    assert worker(monkeypatch, object())[0].is_multimodal
    assert not worker(monkeypatch, None, model_name="llava-text")[0].is_multimodal


def test_the_worker_says_what_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: Any) -> None:
        raise ValueError("two pictures")

    made, _ = worker(monkeypatch, None)
    made.generate_stream = fail
    answer = json.loads(b"".join(made.generate_stream_gate({})).rstrip(b"\0"))
    assert answer["text"].endswith("(ValueError: two pictures)")


def test_the_heart_beat_keeps_no_process_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[threading.Thread] = []
    monkeypatch.setattr(threading.Thread, "start", lambda thread: made.append(thread))
    worker(monkeypatch, None, no_register=False)
    importlib.import_module("llava.serve.controller").Controller("lottery")
    assert [thread.daemon for thread in made] == [True, True]


def test_the_first_token_may_take_ten_minutes(monkeypatch: pytest.MonkeyPatch) -> None:
    made, _ = worker(monkeypatch, None)
    module, seen = sys.modules["llava.serve.model_worker"], {}

    def keep(*_: Any, **keywords: Any) -> None:
        seen.update(keywords)
        raise Reached

    monkeypatch.setattr(module, "tokenizer_image_token", lambda *_, **__: torch.tensor([1]))
    monkeypatch.setattr(module, "KeywordsStoppingCriteria", lambda *_: None)
    monkeypatch.setattr(module, "TextIteratorStreamer", keep)
    with pytest.raises(Reached):
        next(made.generate_stream({"prompt": "Color?"}))
    assert seen["timeout"] == 600
