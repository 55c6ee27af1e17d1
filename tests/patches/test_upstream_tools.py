"""Upstream's own programs run as published: run_llava, model_vqa, model_vqa_loader, cli, controller and worker."""

import base64
import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import requests
import torch
from PIL import Image

from llava_finetune.launching.processes import free_port
from tests.warm import run_module


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two pictures and a file of two questions."""
    folder = tmp_path_factory.mktemp("pictures")
    lines = []
    for number, color in enumerate(("red", "blue")):
        Image.new("RGB", (90, 60 + number), color).save(folder / f"{number}.png")
        lines.append(json.dumps({"question_id": number, "image": f"{number}.png", "text": "What color is it?"}))
    (folder / "questions.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def expected_answer(model_path: Path, picture: Path, query: str) -> str:
    """Three greedy tokens from the loader and the template, without any of upstream's programs."""
    from llava.conversation import conv_templates
    from llava.mm_utils import process_images, tokenizer_image_token
    from llava.model.builder import load_pretrained_model

    tokenizer, model, processor, _ = load_pretrained_model(str(model_path), None, "", dtype="bf16", device="cpu")
    conversation = conv_templates["vicuna_v1"].copy()
    conversation.append_message(conversation.roles[0], f"<image>\n{query}")
    conversation.append_message(conversation.roles[1], None)
    ids = tokenizer_image_token(conversation.get_prompt(), tokenizer, return_tensors="pt").unsqueeze(0)
    image = Image.open(picture).convert("RGB")
    pixels = process_images([image], processor, model.config).to(model.dtype)
    out = model.generate(ids, images=pixels, image_sizes=[image.size], do_sample=False, max_new_tokens=3)
    return str(tokenizer.decode(out[0], skip_special_tokens=True)).strip()


def test_run_llava_answers_about_one_and_two_pictures(tiny: Path, pictures: Path) -> None:
    files = ",".join(str(pictures / f"{number}.png") for number in range(2))
    for image in (pictures / "0.png", files):
        arguments = ("--model-path", tiny / "llava-1.5", "--image-file", image, "--max_new_tokens", 3)
        query = "<image-placeholder> <image-placeholder> Which?" if "," in str(image) else "Color?"
        numbers = ("--temperature", 0, "--dtype", "bf16", "--device", "cpu")
        done = run_module("llava.eval.run_llava", *arguments, "--query", query, *numbers)
        assert done.returncode == 0, done.stderr[-2000:]
        if image == pictures / "0.png":
            assert done.stdout.strip() == expected_answer(tiny / "llava-1.5", image, query)


@pytest.mark.parametrize("module", ["model_vqa", "model_vqa_loader"])
def test_the_vqa_scripts_write_one_answer_per_question(tiny: Path, pictures: Path, tmp_path: Path, module: str) -> None:
    family = "1.6-mistral" if module == "model_vqa" else "llava-1.5"
    limit = ("--max_new_tokens", 3) if module == "model_vqa_loader" else ()
    done = run_module(
        f"llava.eval.{module}",
        *("--model-path", tiny / family, "--image-folder", pictures, "--question-file", pictures / "questions.jsonl"),
        *("--answers-file", tmp_path / "answers.jsonl", "--temperature", 0, *limit),
    )
    assert done.returncode == 0, done.stderr[-2000:]
    answers = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    assert [each["question_id"] for each in answers] == [0, 1]
    assert len({each["answer_id"] for each in answers}) == 2


def test_mmbench_answers_a_table_with_pictures_in_it_over_all_rounds(
    tiny: Path, pictures: Path, tmp_path: Path
) -> None:
    """Two rows of options A to B and A to C, each asked once per option with the options turned."""
    # A name with "plain" in it: upstream chose the template by it.
    model = tmp_path / "plain-model"
    model.symlink_to(tiny / "llava-1.5")
    columns = ("index", "question", "hint", "A", "B", "C", "D", "image")
    picture = base64.b64encode((pictures / "0.png").read_bytes()).decode()
    rows = [("7", "What color?", "nan", "red", "blue", "nan", "nan"), ("8", "Which?", "Look.", "a", "b", "c", "nan")]
    table = "\n".join("\t".join(row) for row in [columns, *((*row, picture) for row in rows)])
    (tmp_path / "table.tsv").write_text(table + "\n")
    done = run_module(
        "llava.eval.model_vqa_mmbench",
        *("--model-path", model, "--question-file", tmp_path / "table.tsv", "--single-pred-prompt", "--all-rounds"),
        *("--answers-file", tmp_path / "answers.jsonl", "--temperature", 0, "--dtype", "bf16", "--device", "cpu"),
    )
    assert done.returncode == 0, done.stderr[-2000:]
    answers = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    assert [(each["question_id"], each["round_id"]) for each in answers] == [(7, 0), (7, 1), (8, 0), (8, 1), (8, 2)]
    assert answers[1]["options"] == ["blue", "red"]
    assert answers[0]["prompt"] == "What color?\nA. red\nB. blue"
    assert "mmtag" not in done.stdout


def test_science_questions_with_and_without_a_picture_are_answered(tiny: Path, pictures: Path, tmp_path: Path) -> None:
    questions = [
        {"id": "1", "image": "0.png", "conversations": [{"from": "human", "value": "<image>\nWhat color?\nA. red"}]},
        {"id": "2", "conversations": [{"from": "human", "value": "Two and two?\nA. four\nB. five"}]},
    ]
    (tmp_path / "questions.json").write_text(json.dumps(questions))
    done = run_module(
        "llava.eval.model_vqa_science",
        *(
            "--model-path",
            tiny / "llava-1.5",
            "--image-folder",
            pictures,
            "--question-file",
            tmp_path / "questions.json",
        ),
        *("--answers-file", tmp_path / "answers.jsonl", "--temperature", 0, "--single-pred-prompt", "--dtype", "bf16"),
    )
    assert done.returncode == 0, done.stderr[-2000:]
    answers = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    assert [each["question_id"] for each in answers] == ["1", "2"]
    assert answers[0]["prompt"].startswith("<image>\nWhat color?")
    assert "<image>" not in answers[1]["prompt"]


def test_the_text_only_evaluation_answers_with_a_language_model(tiny: Path, tmp_path: Path) -> None:
    lines = [json.dumps({"question_id": number, "text": "Two and two?", "category": "math"}) for number in range(2)]
    (tmp_path / "questions.jsonl").write_text("\n".join(lines) + "\n")
    done = run_module(
        "llava.eval.model_qa",
        *("--model-name", tiny / "language", "--question-file", tmp_path / "questions.jsonl"),
        *("--answers-file", tmp_path / "answers.jsonl"),
    )
    assert done.returncode == 0, done.stderr[-2000:]
    answers = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    assert [each["question_id"] for each in answers] == [0, 1]
    assert all(each["text"] for each in answers)


@pytest.mark.parametrize("width", [(), ("--load-4bit",)], ids=["16", "4"])
def test_the_terminal_chat_takes_a_second_question(tiny: Path, pictures: Path, width: tuple[str, ...]) -> None:
    arguments = ("--model-path", tiny / "llava-1.5", "--image-file", pictures / "0.png", "--debug", *width)
    done = run_module(
        "llava.serve.cli", *arguments, "--max-new-tokens", 4, "--temperature", 0, input="Color?\nSure?\n\n"
    )
    assert done.returncode == 0, done.stderr[-2000:]
    turns = [line for line in done.stdout.splitlines() if "'prompt'" in line]
    assert len(turns) == 2, done.stdout
    assert "Sure?" in turns[1]
    first = eval(turns[0])["outputs"]
    assert f"ASSISTANT: {first}</s>USER: Sure?" in eval(turns[1])["prompt"]


def test_an_unknown_template_is_refused_with_the_known_ones(tiny: Path, pictures: Path) -> None:
    arguments = ("--model-path", tiny / "llava-1.5", "--image-file", pictures / "0.png", "--query", "Color?")
    done = run_module("llava.eval.run_llava", *arguments, "--conv-mode", "no_such_template")
    assert done.returncode != 0
    assert "--conv-mode no_such_template: no such template; known: " in done.stderr


def test_a_delta_of_a_bf16_model_stays_bf16_and_gives_the_model_back(tiny: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    from tests.tiny import make_tiny_language_model

    target = tmp_path / "target"
    base = make_tiny_language_model(tmp_path / "base", seed=7)
    places = ("--base-model-path", base, "--delta-path", tmp_path / "delta", "--target-model-path", target)
    for step in (
        ("consolidate", "--src", tiny / "llava-llama-2", "--dst", target, "--dtype", "bfloat16"),
        ("make_delta", *places),
        ("apply_delta", *places[:4], "--target-model-path", tmp_path / "again"),
    ):
        done = run_module(f"llava.model.{step[0]}", *step[1:])
        assert done.returncode == 0, done.stderr[-2000:]
    wanted, delta, again = (load_file(tmp_path / name / "model.safetensors") for name in ("target", "delta", "again"))
    assert {value.dtype for value in (*wanted.values(), *delta.values(), *again.values())} == {torch.bfloat16}
    assert wanted.keys() == again.keys()
    assert all(torch.allclose(again[name].float(), value.float(), atol=2e-3) for name, value in wanted.items())
    head = "lm_head.weight"
    assert not torch.allclose(delta[head].float(), wanted[head].float(), atol=1e-2)


@contextmanager
def running(folder: Path, module: str, *arguments: object) -> Iterator[None]:
    """A server process, ended at the end; it must then go within 20 seconds."""
    environment = {**os.environ, "LOGDIR": str(folder)}
    with (folder / f"{module}.log").open("w") as log:
        command = [sys.executable, "-m", module, *map(str, arguments)]
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, env=environment)
        try:
            yield
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                raise AssertionError(f"{module} did not end") from None


def wait_for(url: str, payload: dict[str, str], wanted: str, seconds: float = 120) -> None:
    """Post until the answer holds the wanted text."""
    end = time.monotonic() + seconds
    answer = ""
    while time.monotonic() < end:
        try:
            answer = requests.post(url, json=payload, timeout=10).text
            if wanted in answer:
                return
        except requests.ConnectionError:
            answer = "no connection"
        time.sleep(0.3)
    raise AssertionError(f"{url}: {answer}")


def test_controller_and_worker_serve_an_answer_and_a_clear_error(tiny: Path, pictures: Path, tmp_path: Path) -> None:
    controller, worker = (f"http://127.0.0.1:{free_port()}" for _ in range(2))
    picture = io.BytesIO()
    Image.new("RGB", (60, 60), "red").save(picture, "PNG")
    question = {
        "model": "tiny",
        "prompt": "USER: <image>\nColor? ASSISTANT:",
        "images": [base64.b64encode(picture.getvalue()).decode()],
        "temperature": 0,
        "max_new_tokens": 3,
        "stop": "</s>",
    }
    with ExitStack() as stack:
        port = controller.rsplit(":", 1)[1]
        stack.enter_context(running(tmp_path, "llava.serve.controller", "--host", "127.0.0.1", "--port", port))
        wait_for(f"{controller}/list_models", {}, "models")
        arguments = ("--host", "127.0.0.1", "--port", worker.rsplit(":", 1)[1], "--worker-address", worker)
        model = ("--controller-address", controller, "--model-path", tiny / "llava-1.5", "--model-name", "tiny")
        arguments += ("--load-8bit", "--dtype", "bf16", "--device", "cpu")
        stack.enter_context(running(tmp_path, "llava.serve.model_worker", *arguments, *model))
        wait_for(f"{controller}/list_models", {}, "tiny")
        wait_for(f"{controller}/get_worker_address", {"model": "tiny"}, worker)
        wait_for(f"{worker}/worker_get_status", {}, "queue_length")
        url = f"{worker}/worker_generate_stream"
        good = requests.post(url, json=question, timeout=60).content.split(b"\0")
        bad = requests.post(url, json={**question, "images": question["images"] * 2}, timeout=60).content  # type: ignore[operator]
    assert json.loads(good[0])["error_code"] == 0, good
    assert json.loads(good[-2])["text"].startswith("USER: <image>")
    assert (
        "ValueError: Number of images does not match number of <image> tokens"
        in json.loads(bad.split(b"\0")[0])["text"]
    )


def test_the_old_page_and_mpt_name_their_replacement_in_one_sentence() -> None:
    page = run_module("llava.serve.gradio_web_server")
    assert page.returncode == 1
    assert page.stderr.strip().splitlines()[-1] == (
        "llava.serve.gradio_web_server is not supported: it is written for an old Gradio; "
        "use `llava-finetune serve MODEL`, a page and an API in one process"
    )
    serve = run_module("llava_finetune", "serve", "--help")
    assert serve.returncode == 0
    assert "A web page and an OpenAI-compatible API for a model." in serve.stdout
    code = "from llava.model import LlavaMptForCausalLM"
    mpt = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert mpt.stderr.strip().splitlines()[-1].startswith("ImportError: MPT models are not supported: ")
    assert "use a Llama, Vicuna or Mistral based LLaVA" in mpt.stderr


def test_a_failing_import_of_a_model_class_shows_its_own_error() -> None:
    code = (
        "import sys; sys.modules['llava.model.multimodal_projector.builder'] = None\n"
        "from llava.model import LlavaLlamaForCausalLM"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "import of llava.model.multimodal_projector.builder halted" in done.stderr
