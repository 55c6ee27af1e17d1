"""A slip of the finger is told, with the word that was meant: variables, flags, extras, runs, and the folder's flag."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from llava_finetune.config.short_help import show_short_help
from llava_finetune.errors import UsageError, UserError
from llava_finetune.evaluation import evaluate
from llava_finetune.launching.near_misses import READ, near_misses
from llava_finetune.training.closing_words import better_step, closing_words

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("slip", "meant"),
    [("IMAGE", "IMAGES"), ("GLOBALBATCH", "GLOBAL_BATCH"), ("NUM_GPU", "NUM_GPUS"), ("OUTPUTS", "OUTPUT"),
     ("DEEPSPEEDCONFIG", "DEEPSPEED_CONFIG"), ("MODELS", "MODEL"), ("PER_GPU_BATCHES", "PER_GPU_BATCH")],
)  # fmt: skip
def test_a_variable_that_is_not_read_names_the_one_that_is(slip: str, meant: str) -> None:
    assert list(near_misses({slip: "x"})) == [f"{slip} is not read by this script; {meant} is"]
    assert list(near_misses({slip: "x", meant: "y"})) == [], "who sets both knows"


def test_other_variables_are_left_alone() -> None:
    usual = [
        "PATH",
        "HOME",
        "LANG",
        "SHELL",
        "HOSTNAME",
        "LOCAL_RANK",
        "CUDA_VISIBLE_DEVICES",
        "OMP_NUM_THREADS",
        "DATE",
    ]
    assert list(near_misses(dict.fromkeys([*READ, *usual], "x"))) == []


def test_a_run_that_is_not_there_names_the_near_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "cells").mkdir(parents=True)
    with pytest.raises(UserError, match=r"--model runs/cel: no such run in runs; did you mean runs/cells\?"):
        evaluate.main(["--model", "runs/cel", "--data", "d.json"])


@pytest.mark.parametrize("flag", ["--images", "--image-folder", "--image_folder"])
def test_the_picture_folders_flag_has_every_spelling(flag: str) -> None:
    from llava_finetune.config.translation import translate
    from llava_finetune.report.command import parser as report_parser

    assert evaluate.parser().parse_args([flag, "pictures"]).image_folder == Path("pictures")
    assert report_parser().parse_args(["run", flag, "pictures"]).image_folder == Path("pictures")
    assert translate([flag, "pictures"])[0][:2] == ["--image_folder", "pictures"]
    assert translate([f"{flag}=pictures"])[0][:1] == ["--image_folder=pictures"]


@pytest.mark.parametrize("flag", ["--max_new_tokens", "--max-new-tokens"])
def test_a_flag_is_known_with_dashes_and_with_underscores(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    """`evaluate` writes its flags as training does, and `chat` as a server does: nobody has to remember which."""
    from llava_finetune.engines.command import parser as certify_parser
    from llava_finetune.serve import chat

    assert evaluate.parser().parse_args([flag, "7"]).max_new_tokens == 7
    assert chat.parser().parse_args(["m", f"{flag}=7"]).max_new_tokens == 7
    parsed, rest = evaluate.parser().parse_known_args(["--", flag])
    assert parsed.max_new_tokens == 64 and flag in rest, "what stands behind -- is another command's"
    with pytest.raises(SystemExit):
        certify_parser().parse_args([flag, "7"])
    assert "certify: error: the following arguments are required: model" in capsys.readouterr().err, "no slip is told"


def test_a_slip_in_a_flag_of_training_names_the_near_one() -> None:
    from llava_finetune.config.arguments import parse

    with pytest.raises(UsageError, match=r"^unknown flag --lerning-rate; did you mean --learning_rate\? see "):
        parse(["--model_name_or_path", "m", "--data_path", "d", "--output_dir", "o", "--lerning-rate", "1"])


def test_an_extra_that_does_not_exist_is_refused() -> None:
    done = subprocess.run(["bash", "scripts/setup.sh", "quantt"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1 and "ready" not in done.stdout
    assert "setup: no extra quantt; there are: gpu quant serve quickstart generate track dev" in done.stderr


def test_trainings_help_fits_a_screen(capsys: pytest.CaptureFixture[str]) -> None:
    assert show_short_help(["--help"]) and not show_short_help(["--help-all"])
    said = capsys.readouterr().out
    assert len(said.splitlines()) < 40 and "--help-all" in said


def test_a_runs_last_lines_name_the_better_step_the_report_and_what_to_type(tmp_path: Path) -> None:
    rows = [{"step": 7, "eval_exact_match": 0.83}, {"step": 8, "loss": 1.0}, {"step": 14, "eval_exact_match": 0.72}]
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "report.html").write_text("")
    (tmp_path / "checkpoint-7").mkdir()
    given = {"eval_data_path": "v.json", "image_folder": "p"}
    (tmp_path / "run.json").write_text(json.dumps({"arguments": given}))
    words = list(closing_words(tmp_path, "adapter", kept_best=False, last=14))
    assert words[0].startswith("step 7 was better: exact match 83.0%, 72.0% at the last step, which is the result; ")
    assert words[1:] == [
        f"report: {tmp_path / 'report.html'}",
        f"next: llava-finetune evaluate --model {tmp_path} --data v.json --images p",
    ]
    assert better_step(tmp_path, 7) is None
