"""Train a LLaVA: projector pretraining, full fine-tuning or LoRA, on one process or under DeepSpeed.

The whole run reads top to bottom in `train`: prepare, find the start, check, build, load the data, loop, finish.

    llava-finetune train --model_name_or_path runs/base --data_path train.json --image_folder pictures \
        --lora_enable True --lora_r 128 --lora_alpha 256 --output_dir runs/mine
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import ExitStack

import torch
from transformers import set_seed

from llava_finetune.config.arguments import Arguments, parse
from llava_finetune.config.short_help import show_short_help
from llava_finetune.training.beginning import check, find_start, prepare
from llava_finetune.training.data_setup import load_data
from llava_finetune.training.family_modes import refuse_impossible
from llava_finetune.training.finishing import finish
from llava_finetune.training.loop_setup import make_loop
from llava_finetune.training.model_setup import build
from llava_finetune.training.trainer import RunTrainer
from llava_finetune.training.watch import StopSignal


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the command line and train. Exit codes: 0 done, 1 failed, 2 wrong use."""
    if show_short_help(sys.argv[1:] if argv is None else argv):
        return 0
    arguments = parse(list(sys.argv[1:] if argv is None else argv))
    try:
        train(arguments)
    finally:
        _leave_group()
    return 0


def train(arguments: Arguments) -> RunTrainer | None:
    """Run one training and save its result in `output_dir`. Returns the trainer (None: finished before), for tests."""
    with StopSignal() as signals, ExitStack() as locks:
        run = prepare(arguments, locks)
        start = find_start(run)
        if start.is_finished:
            return None
        refuse_impossible(arguments)
        records = check(run, start)
        set_seed(arguments.training.seed)
        built = build(run)
        data = load_data(run, built, records)
        trainer = make_loop(run, built, data, signals)
        trainer.train(resume_from_checkpoint=str(start.checkpoint) if start.checkpoint else None)
        metric = arguments.metric if arguments.keep_best else None
        finish(trainer, run.output, run.settings, metric, run.say)
        return trainer


def _leave_group() -> None:
    """Leave the process group together: without it a rank may abort after a good run."""
    distributed = torch.distributed
    if distributed.is_available() and distributed.is_initialized() and sys.exc_info()[0] is None:
        distributed.barrier()
        distributed.destroy_process_group()


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    from llava_finetune.cli import run_command

    raise SystemExit(run_command("llava_finetune.training.train", sys.argv[1:]))
