"""What run.json and the report say to repeat a run is the command that started it: the launcher's, where one did."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from llava_finetune.launching import launch, repeat_command
from llava_finetune.report.page import run_page
from llava_finetune.report.run_folder import read_run
from tests.training.conftest import Flags
from tests.training.forked import train


def test_the_launchers_command_is_what_the_manifest_and_the_report_say(
    flags: Flags, tiny: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    started: list[tuple[list[str], dict[str, str]]] = []

    def run(command: Any, environment: Any, *_: Any) -> int:
        started.append((list(command), dict(environment)))
        return 0

    monkeypatch.setattr(launch, "run_until_it_fits", run)
    given = {"MODEL": tiny, "DATA": data / "train.json", "IMAGES": data, "OUTPUT": tmp_path / "run", "NUM_GPUS": 2}
    for name, value in {**given, "DEEPSPEED_CONFIG": "zero2", "LAUNCH_CHECKS": "off"}.items():
        monkeypatch.setenv(name, str(value))
    assert launch.main(["lora", "--lora_enable", "True"]) == 0
    command, environment = started[0]
    assert command[:1] == ["deepspeed"] and command[command.index("--num_gpus") + 1] == "2"

    monkeypatch.setenv(repeat_command.VARIABLE, environment[repeat_command.VARIABLE])
    code, text = train(flags("lora", tmp_path / "run", "--max_steps 1"), tmp_path / "out")
    assert code == 0, text
    assert json.loads((tmp_path / "run" / "run.json").read_text())["command"] == command
    assert "deepspeed --no_local_rank" in run_page(read_run(tmp_path / "run"))


def test_without_a_launcher_it_is_the_train_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(repeat_command.VARIABLE, raising=False)
    assert repeat_command.command(["--max_steps", "3"]) == ["llava-finetune", "train", "--max_steps", "3"]
