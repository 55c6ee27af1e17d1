"""The steps of a run and the learning rate of each, worked out and said before a model is loaded.

A run whose rate would be 0 at every step is refused here, and so is one whose warm-up takes all of its steps.

    announce(arguments, num_records=50, say=print)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import transformers

from llava_finetune.config.arguments import Arguments
from llava_finetune.config.training_flags import TrainingArguments
from llava_finetune.data.replay import split_spec
from llava_finetune.errors import UsageError, UserError
from llava_finetune.planning.steps import Steps, count_steps, require_end_of_warmup

SHOWN = 8
"""Steps whose rate is printed."""


def steps_of(training: TrainingArguments, num_records: int) -> Steps:
    """The steps that the trainer will take over this many records."""
    return count_steps(
        num_records,
        epochs=training.num_train_epochs,
        per_device=training.per_device_train_batch_size,
        accumulation=training.gradient_accumulation_steps,
        ranks=training.world_size,
        max_steps=training.max_steps,
    )


def rates(training: TrainingArguments, steps: int) -> list[float] | None:
    """The learning rate of every step by the trainer's own schedule; None where it depends on what training finds."""
    if "scheduler" in (getattr(getattr(training, "hf_deepspeed_config", None), "config", None) or {}):
        return None
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    try:
        schedule = transformers.get_scheduler(
            training.lr_scheduler_type,
            optimizer,
            num_warmup_steps=training.get_warmup_steps(steps),
            num_training_steps=steps,
            scheduler_specific_kwargs=training.lr_scheduler_kwargs,
        )
    except (TypeError, ValueError) as error:
        raise UsageError(f"--lr_scheduler_type {training.lr_scheduler_type.value}: {error}") from error
    factors: Sequence[Callable[[int], float]] = getattr(schedule, "lr_lambdas", ())
    if not factors:
        return None
    return [training.learning_rate * factors[0](step) for step in range(steps)]


def announce(arguments: Arguments, num_records: int, say: Callable[[str], Any]) -> Steps:
    """Say how many steps the run has and at which rates. Raises UserError for a run that could not learn."""
    training = arguments.training
    if arguments.data.replay:
        share = split_spec(arguments.data.replay)[1]
        num_records += max(1, round(share / (1 - share) * num_records))
    steps = steps_of(training, num_records)
    require_end_of_warmup(training.warmup_steps, steps.steps)
    warmup = training.get_warmup_steps(steps.steps)
    _refuse_parts_at_rate_0(training)
    found = rates(training, steps.steps)
    if found is not None and not any(found):
        raise UserError(
            f"{steps.text(warmup)}: the learning rate would be 0 at every step (--learning_rate "
            f"{training.learning_rate:g}, --lr_scheduler_type {training.lr_scheduler_type.value}, --warmup_steps "
            f"{training.warmup_steps:g}); nothing would be learned. Lower --warmup_steps or GLOBAL_BATCH, or raise "
            "--num_train_epochs"
        )
    say(steps.text(warmup) + (f"; learning rate {_shown(found, warmup)}" if found else ""))
    return steps


def _refuse_parts_at_rate_0(training: TrainingArguments) -> None:
    for flag, value, freeze in (
        ("--mm_projector_lr", training.mm_projector_lr, "--freeze_mm_mlp_adapter True"),
        ("--vision_tower_lr", training.vision_tower_lr, "--tune_vision_tower False"),
    ):
        if value is not None and value <= 0:
            raise UsageError(f"{flag} {value:g}: it would not learn; give one above 0, or leave it as it is: {freeze}")


def _shown(found: Sequence[float], warmup: int) -> str:
    """Rates at the first steps, at the end of warm-up, on the way and at the last step: `0 at step 1, 2e-04 at 3`."""
    last = len(found)
    if last <= SHOWN:
        chosen = list(range(1, last + 1))
    else:
        way = [warmup + 1 + round((last - warmup - 1) * part / 4) for part in range(5)]
        chosen = sorted({1, *way, last})
    return ", ".join(f"{found[step - 1]:.2g} at {'step ' if step == 1 else ''}{step}" for step in chosen)
