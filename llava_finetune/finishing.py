"""The end of a run: its result put into the run's folder, whole, with model card, report and `result.json`.

`result.json` is written last: a run that has it is finished, and `--resume auto` leaves it alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llava_finetune.checkpoints import STAGING, copy_result, publish_result, step_of, sweep
from llava_finetune.examine import refresh_report
from llava_finetune.manifest import read_json, write_json
from llava_finetune.model_card import write_model_card
from llava_finetune.resume import differences

RESULT = "result.json"


def prepare_result(output: Path) -> Path:
    """An empty folder for the result's files, aside."""
    sweep(output)
    staging = output / STAGING / "result"
    staging.mkdir(parents=True)
    return staging


def complete(output: Path, staging: Path, step: int, result_step: int, settings: Mapping[str, Any]) -> None:
    """Publish the staged result and say that the run is finished."""
    publish_result(staging, output)
    sweep(output)
    write_model_card(output)
    refresh_report(output, curves=True)
    write_json(output / RESULT, {"step": step, "result_step": result_step, "settings": dict(settings)})


def was_finished(output: Path, checkpoint: Path, settings: Mapping[str, Any]) -> bool:
    """Whether this run, with these settings, has written its result."""
    if not (output / RESULT).is_file():
        return False
    result = read_json(output / RESULT)
    return bool(result["step"] == step_of(checkpoint)) and not differences(result["settings"], settings)


def finish_from(output: Path, checkpoint: Path, settings: Mapping[str, Any], keep_best: bool) -> bool:
    """Complete a run that was killed between its last checkpoint and its result; False when steps are left."""
    state = read_json(checkpoint / "trainer_state.json")
    if state["global_step"] < state["max_steps"]:
        return False
    best = state.get("best_global_step") if keep_best else None
    source = output / f"checkpoint-{best}" if best else checkpoint
    staging = prepare_result(output)
    copy_result(source, staging)
    complete(output, staging, state["global_step"], step_of(source), settings)
    return True
