"""The command that repeats a run: the launcher hands its own to the ranks, for `run.json` and the report.

Two processes under ZeRO-2 are another run than one: a manifest that says only `llava-finetune train` repeats neither.

    environment |= handed_on(["deepspeed", "--num_gpus", "2", "--module", "llava_finetune", "train", ...])
    command(arguments.argv)                          # in a rank: the same words
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence

# Not LLAVA_FINETUNE_...: those travel to other machines, through a shell that would read this one's quotes.
VARIABLE = "_LLAVA_FINETUNE_COMMAND"


def handed_on(command: Sequence[str]) -> dict[str, str]:
    """The variable that tells the ranks which command started them."""
    return {VARIABLE: json.dumps(list(command))}


def command(argv: Sequence[str]) -> list[str]:
    """The launcher's command, or `llava-finetune train` with these words where no launcher told it."""
    told = os.environ.get(VARIABLE)
    return list(json.loads(told)) if told else ["llava-finetune", "train", *argv]
