"""The loop of a run: transformers' Trainer with what it logs to, saves by, stops at and is examined by.

trainer = make_loop(run, built, data, signals)
trainer.train()
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from data_prep.files import sha256_of
from llava_finetune.config.arguments import for_the_loop
from llava_finetune.data.collator import TeachingCollator
from llava_finetune.data.pairs import PairCollator
from llava_finetune.launching import repeat_command
from llava_finetune.model.trained_parts import trainable_table
from llava_finetune.saved.manifest import run_manifest, write_json
from llava_finetune.training.beginning import Run
from llava_finetune.training.data_setup import RunData
from llava_finetune.training.loop_plan import LoopPlan
from llava_finetune.training.model_setup import Built
from llava_finetune.training.pair_loss import PairSettings
from llava_finetune.training.pair_trainer import PairTrainer
from llava_finetune.training.trackers import make_trackers
from llava_finetune.training.trainer import RunTrainer
from llava_finetune.training.watch import StopSignal


def make_loop(run: Run, built: Built, data: RunData, signals: StopSignal) -> RunTrainer:
    """The trainer of a run; its first rank writes run.json and starts the trackers."""
    arguments = run.arguments
    trackers = make_trackers(arguments.trackers, run.output, write_run(run, built, data)) if run.is_main else []
    plan = LoopPlan(
        writer=built.writer,
        settings=run.settings,
        signals=signals,
        zero_stage=arguments.zero_stage,
        trackers=tuple(trackers),
        evaluators=tuple(data.evaluators),
        eval_every=arguments.eval_every,
        metric=arguments.metric,
        patience=arguments.training.early_stopping_patience,
        trim_heap=arguments.training.trim_heap,
        profile=arguments.training.profile,
        sharing=arguments.training.sharing,
    )
    training, max_length = arguments.training, built.tokenizer.model_max_length
    kind: Any = TeachingCollator if not training.dpo else PairCollator
    parts = {
        "model": built.model,
        "processing_class": built.tokenizer,
        "args": for_the_loop(training),
        "train_dataset": data.dataset,
        "data_collator": kind(data.collator, max_length),
    }
    if not training.dpo:
        return RunTrainer(plan, **parts)
    pairs = PairSettings(
        training.dpo_beta, training.dpo_label_smoothing, training.dpo_length_normalised, training.sft_weight
    )
    return PairTrainer(plan, pairs, **parts)


def write_run(run: Run, built: Built, data: RunData) -> dict[str, Any]:
    """Write run.json: what was asked, with which data and versions. Returns what was written."""
    arguments = run.arguments
    path = Path(arguments.data.data_path)
    content = run_manifest(
        repeat_command.command(arguments.argv),
        {
            **dataclasses.asdict(arguments.model),
            **dataclasses.asdict(arguments.data),
            **arguments.training.to_sanitized_dict(),
        },
        data_sha256=sha256_of(path),
        data_path=str(path),
        image_folder=arguments.data.image_folder,
        num_records=len(data.dataset),
        seed=arguments.training.seed,
        precision=dataclasses.asdict(arguments.precision),
        conversation=built.template,
        world_size=arguments.training.world_size,
        trainable={part: trained for part, trained, _ in trainable_table(built.model)},
    )
    write_json(run.output / "run.json", content)
    return content
