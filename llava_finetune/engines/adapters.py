"""Each engine asked the same questions: the model in torch, transformers' own classes, vLLM, our API, llama.cpp.

asked = ASK["llama.cpp"](task)
"""

from __future__ import annotations

import gc
import json
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy
import torch

from llava_finetune.engines.answers import Answer, Question
from llava_finetune.engines.conversions import Conversions
from llava_finetune.engines.http import LOAD_SECONDS, post, started
from llava_finetune.engines.judging import Asked, collapsed
from llava_finetune.engines.llama_cpp import llama_cpp
from llava_finetune.engines.reference import NUM_LIKELY, TorchModel
from llava_finetune.environments import engine_python
from llava_finetune.errors import UserError
from llava_finetune.saved.manifest import read_manifest, write_json

RUNNERS = Path(__file__).with_name("runners")
NUM_PIXELS = 8
"""Of how many questions the pixel values are compared."""


@dataclass(frozen=True)
class EngineTask:
    """What is asked of every engine: the questions, answers of at most so many tokens; pixel values to compare with."""

    conversions: Conversions
    questions: Sequence[Question]
    max_new_tokens: int
    pixels: Sequence[Sequence[torch.Tensor]]
    context: int

    @property
    def work(self) -> Path:
        """Folder for logs and jobs."""
        return self.conversions.work


def ask_merged(task: EngineTask) -> Asked:
    """The merged folder, loaded as evaluate loads it: in its own dtype."""
    return ask_torch("merged", str(task.conversions.merged()), task)


def ask_adapter(task: EngineTask) -> Asked:
    """The model as given (an adapter beside its base), in its own dtype."""
    return ask_torch("as trained", task.conversions.model, task)


def ask_torch(name: str, folder: str, task: EngineTask) -> Asked:
    """A folder of upstream's layout in its own dtype, one question at a time."""
    from llava_finetune.model.loading import load

    model = TorchModel(load(folder))
    answers = [model.answer(question, task.max_new_tokens) for question in task.questions]
    dtype = str(model.loaded.dtype).removeprefix("torch.")
    del model
    gc.collect()
    return Asked(name, f"torch {torch.__version__}", dtype, answers)


def ask_transformers(task: EngineTask) -> Asked:
    """transformers' own model and processor on the exported folder, in a process of its own."""
    folder = task.conversions.exported()
    dtype = str(read_manifest(folder)["dtype"])
    pictures, pixels = task.work / "pictures", task.work / "pixels"
    for place in (pictures, pixels):
        place.mkdir(parents=True, exist_ok=True)
    asked = []
    for number, question in enumerate(task.questions):
        paths = [pictures / f"{number}-{index}.png" for index in range(len(question.pictures))]
        for path, picture in zip(paths, question.pictures, strict=True):
            picture.save(path)
        asked.append({"text": question.turns[-1].text, "pictures": [str(path) for path in paths]})
    job = {
        "model": str(folder), "dtype": dtype, "max_new_tokens": task.max_new_tokens, "likely": NUM_LIKELY,
        "pixels": str(pixels), "num_pixels": len(task.pixels), "questions": asked,
    }  # fmt: skip
    write_json(task.work / "transformers.json", job)
    head, *rows = _run_job("transformers", "transformers_answers.py", task.work)
    answers = [
        Answer(row["text"], len(ids := row["prompt_ids"]), dict(row["first"]), collapsed(ids, head["image_token"]))
        for row in rows
    ]
    return Asked("transformers", head["version"], dtype, answers, _pixel_difference(task, pixels))


def _run_job(engine: str, runner: str, work: Path) -> list[dict[str, Any]]:
    """Run an engine's program on WORK/ENGINE.json; the JSON lines that it wrote."""
    out, log = work / f"{engine}.jsonl", work / f"{engine}.log"
    out.unlink(missing_ok=True)
    command = [engine_python(engine), str(RUNNERS / runner), str(work / f"{engine}.json"), str(out)]
    with log.open("wb") as file, subprocess.Popen(command, stdout=file, stderr=file) as process:
        try:
            code = _wait(process, out, engine)
        except BaseException:
            process.kill()
            raise
    if code:
        said = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        raise UserError(f"{engine}: ended with exit code {code}: {said[-1][:300] if said else ''} (all of it: {log})")
    return [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]


def _wait(process: subprocess.Popen[bytes], out: Path, engine: str) -> int:
    """The exit code. Raises UserError when LOAD_SECONDS pass without one more answer in `out`."""
    size = 0
    while True:
        try:
            return process.wait(LOAD_SECONDS)
        except subprocess.TimeoutExpired:
            before, size = size, out.stat().st_size if out.is_file() else 0
            if size == before:
                raise UserError(f"{engine}: silent for {LOAD_SECONDS:.0f} s, and ended for that") from None


def _pixel_difference(task: EngineTask, folder: Path) -> float | None:
    """The largest difference of pixel values of the first questions; infinite where shapes differ."""
    worst: float | None = None
    for number, ours in enumerate(task.pixels):
        if not ours:
            continue
        theirs = numpy.load(folder / f"{number}.npy")
        for own, other in zip(ours, theirs, strict=True):
            cut = other[: len(own)] if own.ndim == 4 else other
            apart = float(numpy.abs(own.numpy() - cut).max()) if own.shape == cut.shape else float("inf")
            worst = max(worst or 0.0, apart)
    return worst


def ask_llama_cpp(task: EngineTask) -> Asked:
    """llama.cpp on the GGUF files."""
    folder = task.conversions.gguf()
    with llama_cpp(folder, task.work / "llama.cpp.log", task.context) as engine:
        answers = [engine.answer(question, task.max_new_tokens) for question in task.questions]
        version = engine.version
    answers = [Answer(each.text.strip(), each.num_prompt, each.first, each.prompt_ids) for each in answers]
    return Asked("llama.cpp", version, str(read_manifest(folder)["dtype"]), answers)


def ask_vllm(task: EngineTask) -> Asked:
    """vLLM's server on the exported folder, asked as a client that sends no temperature asks."""
    folder = task.conversions.exported()
    dtype = str(read_manifest(folder)["dtype"])
    job = {"model": str(folder), "dtype": dtype, "context": task.context, "port": _free_port()}
    command = [engine_python("vllm"), str(RUNNERS / "vllm_server.py"), json.dumps(job)]
    with started(command, "vllm", task.work / "vllm.log") as address:
        url, version = address["url"], address["version"]
        more = {"logprobs": True, "top_logprobs": NUM_LIKELY, "return_tokens_as_token_ids": True, "model": str(folder)}
        answers = [_ask_vllm(url, question, task.max_new_tokens, more, folder) for question in task.questions]
    return Asked("vllm", version, dtype, answers)


def _ask_vllm(url: str, question: Question, limit: int, more: Mapping[str, Any], folder: Path) -> Answer:
    messages = question.openai_messages()
    reply = post(url, "/v1/chat/completions", {"messages": messages, "max_tokens": limit, **more})
    choice = reply["choices"][0]
    told = choice["logprobs"]["content"][0]["top_logprobs"]
    first = {int(each["token"].removeprefix("token_id:")): each["logprob"] for each in told}
    ids = post(url, "/tokenize", {"model": str(folder), "messages": messages, "add_generation_prompt": True})["tokens"]
    picture = json.loads((folder / "config.json").read_text(encoding="utf-8"))["image_token_index"]
    usage = reply["usage"]["prompt_tokens"]
    return Answer(choice["message"]["content"].strip(), usage, first, collapsed(ids, picture))


def ask_api(task: EngineTask) -> Asked:
    """`llava-finetune serve` on the model as given, over HTTP."""
    import llava_finetune

    port = _free_port()
    command = [sys.executable, "-m", "llava_finetune", "serve", task.conversions.model, "--port", str(port)]
    command += ["--no-page", "--no-compare", "--max-pictures", "64"]
    with started(command, "our API", task.work / "api.log", ends_with_input=False) as address:
        answers = []
        for question in task.questions:
            body = {"model": Path(task.conversions.model).resolve().name, "messages": question.openai_messages()}
            reply = post(address["url"], "/v1/chat/completions", {**body, "max_tokens": task.max_new_tokens})
            answers.append(Answer(reply["choices"][0]["message"]["content"].strip(), reply["usage"]["prompt_tokens"]))
    return Asked("our API", f"llava-finetune {llava_finetune.__version__}", task.conversions.dtype(), answers)


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


ASK: Mapping[str, Callable[[EngineTask], Asked]] = MappingProxyType(
    {
        "adapter": ask_adapter,
        "merged": ask_merged,
        "transformers": ask_transformers,
        "api": ask_api,
        "llama.cpp": ask_llama_cpp,
        "vllm": ask_vllm,
    }
)
