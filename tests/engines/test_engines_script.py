"""scripts/engines.sh without a download: help, what it refuses, what it leaves as it is, the commands of its check."""

from __future__ import annotations

import importlib
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from llava_finetune.environments import MODULES, PINNED


def engines(root: Path, place: Path, *words: str, python: str = sys.executable) -> subprocess.CompletedProcess[str]:
    command = ["bash", str(root / "scripts" / "engines.sh"), *words]
    environment = {**os.environ, "LLAVA_ENGINES": str(place), "PYTHON": python}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)


def test_its_help_names_every_engine_and_the_check(root: Path, tmp_path: Path) -> None:
    done = engines(root, tmp_path / "place", "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert [name for name in (*MODULES, "lmms-eval", "check RUN", "--dry-run") if name not in done.stdout] == []
    assert not (tmp_path / "place").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nothing"], "no engine nothing; there are llama.cpp, llama-quantize, transformers, vllm and lmms-eval"),
        (["check", "runs/mine"], "check: expected RUN RECORDS IMAGES, such as: check runs/mine test.json pictures"),
        (["check", "no-run", "a.json", "b"], "check: no-run: no such folder; give what training or merge wrote"),
    ],
)
def test_wrong_use_is_one_line(words: list[str], said: str, root: Path, tmp_path: Path) -> None:
    done = engines(root, tmp_path, *words)
    assert (done.returncode, done.stderr) == (1, f"engines: {said}\n")


def test_what_is_ready_stays_and_what_broke_off_is_made_again(root: Path, tmp_path: Path) -> None:
    (tmp_path / "llama.cpp").mkdir()
    (tmp_path / "llama.cpp" / ".ready").write_text(PINNED["llama.cpp"] + "\n")
    done = engines(root, tmp_path, "llama.cpp")
    assert (done.returncode, done.stdout) == (0, f"llama.cpp: ready ({PINNED['llama.cpp']})\n")
    (tmp_path / "llama.cpp" / ".ready").write_text("xllamacpp==1.0\n")
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho no module named venv; exit 1\n")
    python.chmod(0o755)
    done = engines(root, tmp_path, "llama.cpp", python=str(python))
    assert (done.returncode, done.stderr) == (1, "engines: llama.cpp: no environment: no module named venv\n")
    assert not (tmp_path / "llama.cpp").exists()


def test_the_check_asks_by_commands_that_parse(root: Path, tmp_path: Path) -> None:
    (tmp_path / "my run").mkdir()
    done = engines(root, tmp_path, "check", str(tmp_path / "my run"), "test.json", "pictures", "--dry-run")
    assert (done.returncode, done.stderr) == (0, "")
    commands = [shlex.split(line) for line in done.stdout.splitlines()]
    assert commands[0][-4:] == ["llama.cpp", "transformers", "vllm", "lmms-eval"]
    modules = {
        "certify": "engines.command", "evaluate": "evaluation.evaluate", "lmms-task": "evaluation.lmms_task",
        "serve": "serve.command",
    }  # fmt: skip
    ours = [words[3:] for words in commands if words[1:3] == ["-m", "llava_finetune"]]
    assert [words[0] for words in ours] == ["certify", "evaluate", "lmms-task", "serve"]
    for name, *words in ours:
        importlib.import_module(f"llava_finetune.{modules[name]}").parser().parse_args(words)
    assert "model_version=my run,base_url=http://127.0.0.1:8000/v1,num_concurrent=8,timeout=600" in commands[-2]
    assert list((tmp_path).iterdir()) == [tmp_path / "my run"], "a dry run makes nothing"


def test_answers_of_lmms_eval_are_held_against_those_of_evaluate(root: Path, tmp_path: Path) -> None:
    """Samples as lmms-eval 0.7.3 writes them: the question's number without its row, an answer that is no list."""
    rows = [{"id": "a", "turn": turn, "answer": "red"} for turn in range(3)]
    for name in ("questions.jsonl", "predictions.jsonl"):
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    script = str(root / "scripts" / "same_answers.py")
    command = [sys.executable, script, *(str(tmp_path / name) for name in ("", "questions.jsonl", "predictions.jsonl"))]
    (tmp_path / "model").mkdir()
    written = tmp_path / "model" / "20261201_120000_samples_own.jsonl"

    def compared(*said: str) -> tuple[int, str]:
        samples = [
            {"doc_id": number, "target": "red", "filtered_resps": text, "exact_match": float(text.strip() == "red")}
            for number, text in enumerate(said)
        ]
        written.write_text("".join(json.dumps(one) + "\n" for one in reversed(samples)))
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout + done.stderr

    said = "lmms-eval: 3 of 3 answers are those of evaluate; exact match 1.0000\n"
    assert compared("red", " red", "red\n") == (0, said)
    said = "lmms-eval: 1 of 3 answers are those of evaluate; exact match 0.5000\n"
    assert compared("red", "blue") == (1, f"{said}first: ('a', 1): 'red' became 'blue'\n")
    code, said = compared("red", "red", "[LMMS_EVAL_REQUEST_FAILED after 5 retries] Request timed out.")
    assert (code, said.splitlines()[0]) == (
        1,
        "1 of 3 questions got no answer, the first: [LMMS_EVAL_REQUEST_FAILED after 5 retries] Request timed out.",
    )
    written.unlink()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, "lmms-eval ends with exit code 0 also where it failed" in done.stderr) == (1, True)
