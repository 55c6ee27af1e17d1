"""Numbers of the training command line, with their ranges: what is outside is wrong use, before anything is loaded.

limit(parser)      # UsageError: --lora_dropout 2: expected a number from 0 to 1
"""

from __future__ import annotations

import argparse
import functools
import math
from typing import NamedTuple

from data_prep.numbers import MOST, real, whole
from llava_finetune.flags import number_of


class Range(NamedTuple):
    """From `low` (or `above` it) to `high`; a number that is no number or infinite is in no range."""

    low: float
    high: float = math.inf
    above: bool = False


FROM_ONE = Range(1, MOST)
FROM_ZERO = Range(0, MOST)
SHARE = Range(0, 1)
BELOW_ONE = Range(0, 1 - 2**-53)
ANY = Range(-1, MOST)
"""Of the numbers that are not named here, all of them transformers' own: -1 stands for none in some."""

RANGES = {
    "per_device_train_batch_size": FROM_ONE,
    "per_device_eval_batch_size": FROM_ONE,
    "gradient_accumulation_steps": FROM_ONE,
    "eval_accumulation_steps": FROM_ONE,
    "num_train_epochs": Range(0, 1e6, above=True),
    "max_steps": Range(-1, MOST),
    "learning_rate": Range(0, 1e3, above=True),
    "mm_projector_lr": Range(0, 1e3),
    "vision_tower_lr": Range(0, 1e3),
    "weight_decay": Range(0, 1e3),
    "neftune_noise_alpha": Range(0, 1e3),
    "max_grad_norm": Range(0, 1e30),
    "adam_beta1": BELOW_ONE,
    "adam_beta2": BELOW_ONE,
    "adam_epsilon": Range(0, 1, above=True),
    "warmup_steps": FROM_ZERO,
    "label_smoothing_factor": BELOW_ONE,
    "lora_r": Range(1, 2**16),
    "lora_alpha": Range(1, 2**31),
    "lora_dropout": BELOW_ONE,
    "dpo_beta": Range(0, 1e3, above=True),
    "dpo_label_smoothing": Range(0, 0.5 - 2**-53),
    "sft_weight": Range(0, 1e3),
    "model_max_length": Range(1, 2**25),
    "mm_vision_select_layer": Range(-4096, 4096),
    "max_pixels": Range(1, 10**18 - 1),
    "ddp_timeout": FROM_ONE,
    "loss_chunk": FROM_ZERO,
    "share_among": FROM_ZERO,
    "cache_gb": Range(0, 1e9),
    "profile": FROM_ZERO,
    "early_stopping_patience": FROM_ZERO,
    "logging_steps": Range(0, MOST, above=True),
    "save_steps": Range(0, MOST, above=True),
    "eval_steps": Range(0, MOST, above=True),
    "save_total_limit": FROM_ZERO,
    "dataloader_num_workers": Range(0, 1024),
    "dataloader_prefetch_factor": Range(1, 1e6),
    "seed": Range(0, 2**32 - 1),
    "data_seed": Range(0, 2**32 - 1),
    "eval_limit": FROM_ZERO,
    "eval_max_new_tokens": FROM_ONE,
}
"""By the flag's name."""


def limit(parser: argparse.ArgumentParser) -> None:
    """Have the parser read each of its numbers within its range, else raise UsageError with flag, range and value."""
    for action in parser._actions:
        if action.type in (int, float):
            low, high, above = RANGES.get(action.dest, ANY)
            is_whole = action.type is int
            read = whole(int(low), int(high)) if is_whole else real(low, high, above=above)
            action.type = functools.partial(number_of, f"--{action.dest}", read=read)
