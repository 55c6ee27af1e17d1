"""llama.cpp, through the Python package that carries its server, or through a server that runs already.

with llama_cpp(Path("gguf"), log) as engine: engine.answer(question, max_new_tokens=16)
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from data_prep.records.marks import IMAGE_TOKEN_INDEX
from llava_finetune.engines.answers import Answer, Question
from llava_finetune.engines.http import post, started
from llava_finetune.environments import engine_python
from llava_finetune.saved.manifest import read_manifest

RUNNER = Path(__file__).with_name("runners") / "llama_cpp.py"
NUM_LIKELY = 20
_MARK = re.compile(r"<__media\w*__>")


@dataclass(frozen=True)
class LlamaCpp:
    """A running server and what it calls itself."""

    url: str
    version: str

    def answer(self, question: Question, max_new_tokens: int) -> Answer:
        """Ask greedily, as any client would."""
        body = {
            "messages": question.openai_messages(),
            "max_tokens": max_new_tokens,
            "temperature": 0,
            "logprobs": True,
            "top_logprobs": NUM_LIKELY,
        }
        reply = post(self.url, "/v1/chat/completions", body)
        choice = reply["choices"][0]
        told = (choice.get("logprobs") or {}).get("content") or []
        first = {each["id"]: each["logprob"] for each in told[0]["top_logprobs"]} if told else {}
        usage = reply["usage"]["prompt_tokens"]
        return Answer(choice["message"]["content"] or "", usage, first, self.prompt_ids(question))

    def prompt_ids(self, question: Question) -> list[int]:
        """The ids that the engine makes of the prompt, each stretch between pictures by itself, -200 for a picture."""
        prompt = post(self.url, "/apply-template", {"messages": question.openai_messages()})["prompt"]
        ids: list[int] = []
        for number, stretch in enumerate(_MARK.split(prompt)):
            if number:
                ids.append(IMAGE_TOKEN_INDEX)
            ids += self.ids(stretch)
        return ids

    def ids(self, text: str) -> list[int]:
        """The ids of a text, special tokens in it recognised."""
        body = {"content": text, "add_special": False, "parse_special": True}
        return [int(token) for token in post(self.url, "/tokenize", body)["tokens"]]


@contextmanager
def llama_cpp(folder: Path, log: Path, context: int = 4096) -> Iterator[LlamaCpp]:
    """Serve a folder that `export --format gguf` wrote, on a port of this machine, inside the block."""
    files = read_manifest(folder)
    job = {
        "model": str(folder / files["model"]),
        "mmproj": str(folder / files["mmproj"]),
        "context": context,
        "threads": int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1),
    }
    with started([engine_python("llama.cpp"), str(RUNNER), json.dumps(job)], "llama.cpp", log) as address:
        yield LlamaCpp(address["url"], address["version"])
