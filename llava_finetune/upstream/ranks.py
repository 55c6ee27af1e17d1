"""Process groups and dtypes that upstream's trainer leaves to the launcher: started, made equal, left in order.

Behind seams in upstream's `train`.
"""

from __future__ import annotations

import os
from typing import Any

import torch

from llava_finetune.training.ranks import start_deepspeed


def start_deepspeed_on_cpu(training_args: Any) -> None:
    """DeepSpeed's group, before the model is built: with --use_cpu transformers does not start it."""
    if training_args.deepspeed and training_args.use_cpu and "RANK" in os.environ:
        start_deepspeed()


def cast_for_zero3(model: Any, bf16: bool) -> None:
    """What was made after a bf16 base, in fp32, gets the base's dtype: ZeRO-3 wants one in all."""
    from transformers.integrations import is_deepspeed_zero3_enabled

    if bf16 and is_deepspeed_zero3_enabled():
        for parameter in model.parameters():
            if parameter.dtype == torch.float32 and not hasattr(parameter, "ds_id"):
                parameter.data = parameter.data.to(torch.bfloat16)


def leave_group() -> None:
    """Wait for the ranks that still write, then end the process group, if there is one."""
    if torch.distributed.is_initialized():
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()
