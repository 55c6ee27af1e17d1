"""Write a rank's peak of tensor memory beside its run: executed in a child of the runner before the driver starts."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from benchmarks.allocations import Allocations
from llava_finetune.training import train

_train = train.train


def _measured(arguments: Any) -> Any:
    with Allocations() as seen:
        trainer = _train(arguments)
    examples = [trainer.train_dataset[index] for index in range(len(trainer.train_dataset))]
    facts = {
        "peak": seen.peak,
        "text": max(len(example.input_ids) - len(example.pictures) for example in examples),
        "taught": max(int((example.labels != -100).sum()) for example in examples),
    }
    Path(f"{arguments.training.output_dir}.peak.{os.environ.get('RANK', '0')}").write_text(json.dumps(facts))
    return trainer


train.train = _measured
