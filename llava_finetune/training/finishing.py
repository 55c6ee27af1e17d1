"""The end of a run: its result put into the run's folder, whole, with model card, report and `result.json`.

A run that has `result.json` is finished, and `--resume auto` leaves it alone.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from llava_finetune.errors import UserError
from llava_finetune.report.model_card import write_model_card
from llava_finetune.saved.checkpoints import STAGING, copy_result, publish_result, read_seal, step_of, sweep
from llava_finetune.saved.manifest import read_json, write_json
from llava_finetune.training.closing_words import closing_words
from llava_finetune.training.evaluation_schedule import refresh_report
from llava_finetune.training.resume import differences

RESULT = "result.json"


def finish(
    trainer: Any, output: Path, settings: Mapping[str, Any], metric: str | None, say: Callable[[str], None]
) -> None:
    """Put the result into the run's folder, then cards and report; every rank calls.

    With a `metric` the result is the checkpoint that was best by it, else the last weights.
    """
    is_main = trainer.is_world_process_zero()
    step, best = trainer.state.global_step, trainer.best_step if metric else None
    staging = prepare_result(output) if is_main else output / STAGING / "result"
    trainer.group.wait()
    if best is not None and best != step:
        if is_main:
            copy_result(output / f"checkpoint-{best}", staging)
    else:
        trainer.model.config.use_cache = True
        trainer.save_weights(staging)
    trainer.group.wait()
    if is_main:
        trainer.state.save_to_json(str(output / "trainer_state.json"))
        complete(output, staging, step, best or step, settings)
    if trainer.num_cut:
        say(f"WARNING: {trainer.num_cut} records were longer than --model_max_length and lost their end (this rank)")
    for tracker in trainer.plan.trackers:
        tracker.finish()
    where = f" of step {best}, best by {metric}" if best is not None else ""
    say(f"saved {trainer.plan.writer.kind}{where} in {output}")
    if is_main:
        for line in closing_words(output, trainer.plan.writer.kind, kept_best=best is not None, last=step):
            say(line)


def prepare_result(output: Path) -> Path:
    """An empty folder for the result's files, aside."""
    sweep(output)
    staging = output / STAGING / "result"
    staging.mkdir(parents=True)
    return staging


def complete(output: Path, staging: Path, step: int, result_step: int, settings: Mapping[str, Any]) -> None:
    """Publish the staged result and say that the run is finished; then what shows it."""
    publish_result(staging, output)
    sweep(output)
    keep_as_final(output, result_step)
    write_json(output / RESULT, {"step": step, "result_step": result_step, "settings": dict(settings)})
    show(output)


def keep_as_final(output: Path, step: int) -> None:
    """Copy the evaluation of the result's step to the names of a final one, where there was an evaluation."""
    for source in (output / f"predictions-eval-{step}.jsonl", output / f"scores-eval-{step}.json"):
        if source.is_file():
            target = output / source.name.replace(f"eval-{step}", "final")
            temporary = target.with_name(f".{target.name}.tmp")
            shutil.copyfile(source, temporary)
            temporary.replace(target)


def show(output: Path) -> None:
    """Write the model card and the report of a finished run."""
    write_model_card(output)
    refresh_report(output, curves=True)


def was_finished(output: Path, checkpoint: Path | None, settings: Mapping[str, Any]) -> bool:
    """Whether this run, with these settings, has written its result; the last checkpoint may be gone.

    Raises UserError where there is no checkpoint to go on from and the result is one of other settings.
    """
    if not (output / RESULT).is_file():
        return False
    result = read_json(output / RESULT)
    found = differences(result["settings"], settings)
    if checkpoint is None and found:
        raise UserError(
            f"{output} holds the result of other settings:\n  " + "\n  ".join(found) + "\nand no checkpoint to go on "
            "from; choose another --output_dir"
        )
    return not found and (checkpoint is None or result["step"] == step_of(checkpoint))


def show_again(output: Path) -> None:
    """Write card and report where the run was killed between its result and these."""
    report = output / "report.html"
    if not report.is_file() or report.stat().st_mtime_ns < (output / RESULT).stat().st_mtime_ns:
        show(output)


def has_ended(checkpoint: Path) -> bool:
    """Whether a checkpoint is that of a run's last step, by its number or because the run stopped early there."""
    state = read_json(checkpoint / "trainer_state.json")
    return bool(read_seal(checkpoint).get("ended") or state["global_step"] >= state["max_steps"])


def finish_from(output: Path, checkpoint: Path, settings: Mapping[str, Any], keep_best: bool) -> bool:
    """Complete a run that was killed between its last checkpoint and its result; False when steps are left."""
    if not has_ended(checkpoint):
        return False
    state = read_json(checkpoint / "trainer_state.json")
    best = state.get("best_global_step") if keep_best else None
    source = output / f"checkpoint-{best}" if best else checkpoint
    staging = prepare_result(output)
    copy_result(source, staging)
    complete(output, staging, state["global_step"], step_of(source), settings)
    return True
