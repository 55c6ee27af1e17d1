"""The commands' help: examples, exit codes, and no heavy import before they are needed."""

from __future__ import annotations

import importlib
import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from llava_finetune.cli import COMMANDS, main

HEAVY = ("torch", "transformers", "gradio", "fastapi", "peft")


@pytest.mark.parametrize("name", ["merge", "export", "import", "chat", "serve"])
def test_help_has_examples_and_loads_nothing_heavy(name: str, root: Path) -> None:
    code = (
        "import sys\nfrom llava_finetune.cli import main\n"
        f"try:\n    main(['{name}', '--help'])\nexcept SystemExit as end:\n    assert end.code == 0\n"
        f"print('heavy:', sorted(set(sys.modules) & set({HEAVY!r})))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert f"usage: llava-finetune {name}" in done.stdout
    assert "examples:" in done.stdout
    assert done.stdout.rstrip().endswith("heavy: []")


def test_the_commands_that_are_printed_work_one_after_the_other(
    adapter: Path, held_out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As at the end of the quickstart: merge prints the export, and chat and evaluate take the merged folder."""
    monkeypatch.chdir(tmp_path)
    run = held_out / "records.json"
    assert main(["merge", str(adapter), "merged", "--records", str(run), "--images", str(held_out)]) == 0
    out = capsys.readouterr().out
    assert "greedy answers: 8 of 8 identical" in out
    printed = out.rsplit("next: ", 1)[1].split()
    assert printed[0] == "llava-finetune"
    assert main(printed[1:]) == 0
    assert "serve it: vllm serve exported" in capsys.readouterr().out
    for model in (str(adapter), "merged"):
        words = ["chat", model, "--image", str(held_out / "0.png"), "--once", "What?", "--max-new-tokens", "4"]
        assert main(words) == 0
    answers = capsys.readouterr().out.splitlines()
    assert len(answers) == 2 and answers[0] == answers[1] != ""


def test_the_quickstarts_last_lines_are_commands_with_flags_that_exist(root: Path) -> None:
    end = (root / "scripts/quickstart.sh").read_text(encoding="utf-8").split("cat <<END", 1)[1]
    commands = [shlex.split(line, comments=True) for line in end.splitlines() if line.strip().startswith("llava-fin")]
    assert [words[1] for words in commands] == ["chat", "serve", "export"]
    for words in commands:
        module = COMMANDS[words[1]].module
        parser = importlib.import_module(f"{module}.command" if module.endswith("serve") else module).parser()
        assert parser.parse_args(words[2:]).model


def spoiled(source: Path, folder: Path, how: str) -> Path:
    """A copy of a model folder that lacks its weights, or half of them, or is of an architecture nobody knows."""
    shutil.copytree(source, folder)
    weights = folder / "model.safetensors"
    if not weights.is_file():
        weights = sorted(folder.glob("model-*.safetensors"))[0]
    if how == "no weights":
        for file in folder.glob("model*"):
            file.unlink()
    elif how == "half a shard":
        weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])
    else:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, "model_type": "unheard_of"}))
    return folder


@pytest.mark.parametrize("how", ["no weights", "half a shard", "unknown architecture"])
@pytest.mark.parametrize("name", ["export", "import", "chat"])
def test_a_spoiled_folder_is_refused_by_name_and_nothing_is_written(
    name: str,
    how: str,
    family: Callable[[str], Path],
    exported: Callable[[str], Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    source = exported("llava-1.5") if name == "import" else family("llava-1.5")
    folder = spoiled(source, tmp_path / "spoiled", how)
    rest = ["--once", "Hi"] if name == "chat" else [str(tmp_path / "out")]
    assert main([name, str(folder), *rest]) == 1
    error = capsys.readouterr().err
    expected = {
        "no weights": rf"{folder}: no (model )?weights",
        "half a shard": rf"{folder}/model\S*\.safetensors: the shard is not whole \(.* its header promises",
        "unknown architecture": r"unheard_of",
    }
    assert re.search(expected[how], error), error
    assert "Traceback" not in error
    assert [path.name for path in tmp_path.iterdir()] == ["spoiled"]


@pytest.mark.parametrize(
    "words", [["merge"], ["export", "only-one"], ["import"], ["chat"], ["serve", "--port", "x", "m"]]
)
def test_wrong_use_ends_with_2(words: list[str], root: Path) -> None:
    command = [sys.executable, "-m", "llava_finetune", *words]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
