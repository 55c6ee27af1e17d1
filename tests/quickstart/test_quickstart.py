"""scripts/quickstart.sh with programs that only pretend: its steps, what a second run keeps, and a kill at any step."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
STEPS = [
    *("data", "language-model", "tower", "pretrain", "baseline", "finetune"),
    *("final", "blind", "shuffled", "merge", "report"),
]

# Notes each call; the call that KILL_AT names is killed, and the script with it, as by a power cut.
PRETEND = """#!/usr/bin/env bash
name="$(basename "$0" .sh)"
case "$name $*" in
  "python -c"*) echo "$PICTURES" && exit ;;
  "python "*) step=data ;;
  "pretrain "*) step=pretrain ;;
  "finetune_lora "*) step=finetune ;;
  *"base language-model"*) step=language-model ;;
  *"base tower"*) step=tower ;;
  *"--name baseline"*) step=baseline ;;
  *"--name final"*) step=final ;;
  *"--blind blank"*) step=blind ;;
  *"--blind shuffled"*) step=shuffled ;;
  *" merge "*) step=merge ;;
  *" report "*) step=report ;;
esac
echo "$step $*" >>"$CALLS"
case "$step" in pretrain | finetune) echo "$step $*" >>"$OUTPUT/log.jsonl" ;; esac
if [[ "$step" == "${KILL_AT:-}" ]]; then kill -9 0; fi
"""


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A checkout with the real script; set-up, launchers and programs pretend."""
    folder = tmp_path / "clone"
    (folder / "scripts").mkdir(parents=True)
    programs = tmp_path / "programs"
    programs.mkdir()
    shutil.copy(ROOT / "scripts/quickstart.sh", folder / "scripts")
    (folder / "scripts/setup.sh").write_text("")
    for path in (
        folder / "scripts/pretrain.sh",
        folder / "scripts/finetune_lora.sh",
        programs / "python",
        programs / "llava-finetune",
    ):
        path.write_text(PRETEND)
        path.chmod(0o755)
    return folder


def run(clone: Path, *arguments: str, **variables: str) -> "subprocess.CompletedProcess[str]":
    base = clone.parent
    kept = {key: value for key, value in os.environ.items() if key not in ("STEPS", "QUESTIONS", "RUN", "MODEL")}
    env = {
        **kept,
        "PATH": f"{base / 'programs'}:{os.environ['PATH']}",
        "CALLS": str(base / "calls"),
        "PICTURES": str(base / "pictures"),
        **variables,
    }
    (base / "calls").write_text("")
    return subprocess.run(
        ["bash", "scripts/quickstart.sh", *arguments],
        cwd=clone,
        env=env,
        capture_output=True,
        text=True,
        timeout=60,
        start_new_session=True,
    )


def called(clone: Path) -> list[str]:
    return [line.split()[0] for line in (clone.parent / "calls").read_text().splitlines()]


def call(clone: Path, step: str) -> str:
    return next(line for line in (clone.parent / "calls").read_text().splitlines() if line.split()[0] == step)


def test_every_step_says_what_why_and_what_is_left(clone: Path) -> None:
    done = run(clone)
    assert done.returncode == 0, done.stderr
    assert called(clone) == STEPS
    lines = [line for line in done.stdout.splitlines() if line.startswith("[")]
    assert len(lines) == len(STEPS)
    for number, (line, step) in enumerate(zip(lines, STEPS, strict=True), 1):
        assert re.fullmatch(rf"\[{number}/11\] {step}: .+; about \d+ min left", line), line
    assert "llava-finetune chat runs/quickstart/merged --image" in done.stdout
    assert "--max_steps 110" in call(clone, "finetune")


def test_a_second_run_does_nothing_again(clone: Path) -> None:
    run(clone)
    done = run(clone)
    assert done.returncode == 0 and called(clone) == []
    assert done.stdout.count(": done already") == len(STEPS)


@pytest.mark.parametrize("step", STEPS)
def test_killed_at_any_step_it_goes_on_from_there(clone: Path, step: str) -> None:
    assert run(clone, KILL_AT=step).returncode != 0
    assert called(clone)[-1] == step
    done = run(clone)
    assert done.returncode == 0, done.stderr
    assert called(clone) == STEPS[STEPS.index(step) :]
    if step in ("pretrain", "finetune"):
        begun = (clone / "runs/quickstart" / step / "log.jsonl").read_text().splitlines()
        assert len(begun) == 2, "the killed run's folder was thrown away"
        assert all("--resume auto" in line for line in begun)


def test_more_training_redoes_what_depends_on_it_and_says_what_it_removes(clone: Path) -> None:
    run(clone)
    done = run(clone, STEPS="400")
    assert called(clone) == ["finetune", "final", "blind", "shuffled", "merge", "report"]
    assert "removing runs/quickstart/finetune: it was trained with other settings" in done.stdout
    assert len((clone / "runs/quickstart/finetune/log.jsonl").read_text().splitlines()) == 1


def test_more_questions_measure_again_and_train_nothing(clone: Path) -> None:
    run(clone)
    run(clone, QUESTIONS="3000")
    assert called(clone) == ["baseline", "final", "blind", "shuffled", "report"]


def test_full_trains_longer_and_asks_every_question(clone: Path) -> None:
    run(clone, "--full")
    assert "--sample 0 " in call(clone, "final")
    assert int(re.search(r"--max_steps (\d+)", call(clone, "finetune"))[1]) > 180  # type: ignore[index]


def test_real_models_take_the_place_of_the_parts(clone: Path) -> None:
    run(clone, LANGUAGE_MODEL="lmsys/vicuna-7b-v1.5", VISION_TOWER="openai/clip-vit-large-patch14-336", VERSION="v1")
    assert called(clone) == [step for step in STEPS if step not in ("language-model", "tower")]
    assert "--vision_tower openai/clip-vit-large-patch14-336" in call(clone, "finetune")
    assert "--version v1" in call(clone, "finetune")
    assert "--learning_rate 1e-3" in call(clone, "pretrain")
    assert "--learning_rate 2e-4 --mm_projector_lr 2e-5" in call(clone, "finetune")


def test_an_unknown_argument_is_wrong_use(clone: Path) -> None:
    done = run(clone, "--fast")
    assert (done.returncode, done.stderr) == (2, "quickstart: unknown argument --fast; only --full is known\n")
    assert called(clone) == []
    assert "--full" in run(clone, "--help").stdout
