"""Flags of the training command line as today's transformers knows them; a notice tells of each that changed.

words, precision, notices = translate(["--evaluation_strategy", "epoch", "--bf16", "True"])
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from data_prep.picture_folder import SPELLINGS
from llava_finetune.config.precision import Precision, choose_precision
from llava_finetune.errors import UsageError

RENAMED = {
    "--evaluation_strategy": "--eval_strategy",
    "--per_gpu_train_batch_size": "--per_device_train_batch_size",
}


FALSE, TRUE = ("false", "0", "no", "f", "n"), ("true", "1", "yes", "t", "y")
EMPTY = ("--lora_weight_path", "--run_name")
"""Flags that may be given empty: the first is so in upstream's scripts."""


def value_of(argv: Sequence[str], flag: str) -> str | None:
    """What the last of several equal flags says; True for a flag without a value."""
    value = None
    for index, item in enumerate(argv):
        if item == flag:
            following = argv[index + 1] if index + 1 < len(argv) else "True"
            value = "True" if following.startswith("--") else following
        elif item.startswith(flag + "="):
            value = item.split("=", 1)[1]
    return value


def without(argv: Sequence[str], flag: str) -> list[str]:
    out: list[str] = []
    skip = False
    for item in argv:
        if skip and not item.startswith("--"):
            skip = False
            continue
        skip = item == flag
        if not skip and not item.startswith(flag + "="):
            out.append(item)
    return out


def refuse_empty(argv: Sequence[str]) -> None:
    """Raise UsageError for a flag whose value is empty, as by a variable that is not set: it would do nothing."""
    for index, word in enumerate(argv):
        name, equals, value = word.partition("=")
        if index + 1 < len(argv) and not equals:
            value = argv[index + 1]
            equals = "" if value else "="
        if name.startswith("--") and equals and not value and name not in EMPTY:
            raise UsageError(f"{name}: its value is empty (a variable that is not set?); give one, or leave it out")


def _as_upstream(word: str) -> str:
    """The picture folder's flag as upstream spells it, whichever of its spellings is given."""
    name, equals, value = word.partition("=")
    return f"--image_folder{equals}{value}" if name in SPELLINGS else word


def translate(argv: Sequence[str]) -> tuple[list[str], Precision, list[str]]:
    """Flags as today's transformers knows them, the precision, and a notice for each flag that changed.

    `--precision auto|bf16|fp16|fp32` is ours; `--bf16` and `--fp16` are upstream's and win over it.
    """
    refuse_empty(argv)
    notices: list[str] = []
    out = [_as_upstream(word) for word in argv]
    for old, new in RENAMED.items():
        if (value := value_of(out, old)) is not None:
            out = [*without(out, old), new, value]
            notices.append(f"{old} is now {new}: {value}")
    if (value := value_of(out, "--warmup_ratio")) is not None:
        out = [*without(out, "--warmup_ratio"), "--warmup_steps", _share(value)]
        notices.append(f"--warmup_ratio is now --warmup_steps with a share below 1: {value}")
    if (value := value_of(out, "--group_by_length")) is not None:
        out = without(out, "--group_by_length")
        if value.lower() not in FALSE:
            out += ["--train_sampling_strategy", "group_by_length"]
        notices.append("--group_by_length is now --train_sampling_strategy group_by_length")
    cuda = torch.cuda.is_available() and (value_of(out, "--use_cpu") or "False").lower() in FALSE
    if value_of(out, "--tf32") is not None and not (cuda and torch.cuda.get_device_capability()[0] >= 8):
        out = without(out, "--tf32")
        notices.append("--tf32 dropped: this machine has no TF32 units")
    precision = _precision(out, cuda)
    for flag in ("--precision", "--bf16", "--fp16"):
        out = without(out, flag)
    if precision.name != "fp32":
        out += [f"--{precision.name}", "True"]
    if not cuda and not torch.backends.mps.is_available() and value_of(out, "--use_cpu") is None:
        out += ["--use_cpu", "True"]
    return out, precision, notices


def _share(value: str) -> str:
    """--warmup_ratio's value. Raises UsageError from 1 on, which --warmup_steps would take as a number of steps."""
    try:
        if 0 <= float(value) < 1:
            return value
    except ValueError:
        pass
    raise UsageError(
        f"--warmup_ratio {value}: expected a share of all steps, from 0 to below 1, as 0.03; a number of steps is "
        "given by --warmup_steps"
    )


def _precision(argv: Sequence[str], cuda: bool) -> Precision:
    asked = value_of(argv, "--precision") or "auto"
    for name in ("bf16", "fp16"):
        value = value_of(argv, f"--{name}")
        if value is not None and value.lower() not in (*FALSE, *TRUE):
            raise UsageError(f"--{name} {value[:40]}: expected True or False")
        if value is not None and value.lower() in TRUE:
            if asked not in ("auto", name):
                raise UsageError(f"--precision {asked} contradicts --{name} {value}: give one of them")
            asked = name
    return choose_precision(asked, "cuda" if cuda else "mps" if torch.backends.mps.is_available() else "cpu")
