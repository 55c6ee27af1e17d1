"""Write a rank's peak of tensor memory beside its run: executed in a child of the runner before the driver starts."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch

from benchmarks.allocations import Allocations
from llava_finetune.training import train

_train = train.train
PRODUCTS = (torch.ops.aten.mm.default, torch.ops.aten.addmm.default, torch.ops.aten.bmm.default)


class Quick(Allocations):
    """Counts the same; products of bf16 are made in fp32, uncounted: most CPUs have no fast ones of bf16."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        def product(*tensors: torch.Tensor, **keywords: Any) -> torch.Tensor:
            return function(*(tensor.float() for tensor in tensors), **keywords).bfloat16()

        slow = function in PRODUCTS and args[0].dtype == torch.bfloat16
        return super().__torch_dispatch__(product if slow else function, types, args, kwargs)


def _measured(arguments: Any) -> Any:
    with Quick() as seen:
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
