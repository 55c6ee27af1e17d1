"""The training command line: every flag of upstream's train.py under its own name and meaning, plus ours.

Flags that transformers renamed since upstream's launch scripts were written are translated with a notice. What a flag
leaves unsaid is taken from the base checkpoint, never from a default that would change the model.

    arguments = parse(["--model_name_or_path", "base", "--data_path", "records.json", "--output_dir", "runs/a"])
"""

from __future__ import annotations

import contextlib
import copy
import importlib.util
import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import transformers

from data_prep.command_line import near_flag
from data_prep.errors import first_line, shortened
from data_prep.records.json_text import conform, parse_json
from data_prep.records.pixels import allow_pixels
from llava_finetune.config.contradictions import (
    refuse_base_dtype,
    refuse_contradictions,
    refuse_idle,
    refuse_unfit_for_dpo,
    refuse_unshared,
    zero_stage,
)
from llava_finetune.config.precision import Precision
from llava_finetune.config.ranges import limit
from llava_finetune.config.training_flags import DataArguments, ModelArguments, TrainingArguments
from llava_finetune.config.translation import translate, value_of
from llava_finetune.errors import WITHOUT_DEEPSPEED, UsageError
from llava_finetune.kernels.fp8 import require_hardware
from llava_finetune.kernels.layer_kernels import LayerKernels, asked_for
from llava_finetune.saved.documents import read_document
from llava_finetune.saved.run_documents import DeepSpeedConfig


@dataclass(frozen=True)
class Arguments:
    """One run's parsed command line as it was asked for, with the notices that the run prints first."""

    model: ModelArguments
    data: DataArguments
    training: TrainingArguments
    precision: Precision
    argv: tuple[str, ...]
    notices: tuple[str, ...]

    @property
    def zero_stage(self) -> int:
        """DeepSpeed's ZeRO stage, 0 without DeepSpeed."""
        return zero_stage(self.training) if self.training.deepspeed else 0

    @property
    def metric(self) -> str | None:
        """The row of log.jsonl that decides which checkpoint is best, e.g. eval_exact_match."""
        name = self.training.metric_for_best_model or ("loss" if self.training.early_stopping_patience else None)
        return name if name is None or name.startswith(("eval_", "probe_", "hallucination_")) else f"eval_{name}"

    @property
    def eval_every(self) -> int:
        """Steps between two evaluations, 0 for one at the end of each epoch."""
        steps, training = self.training.eval_steps, self.training
        return int(steps or training.logging_steps) if training.eval_strategy.value == "steps" or steps else 0

    @property
    def trackers(self) -> tuple[str, ...]:
        """The names of the experiment trackers."""
        given = self.training.report_to or []
        return tuple([given] if isinstance(given, str) else given)

    @property
    def kernels(self) -> LayerKernels:
        """What the run wants for its decoder layers."""
        return asked_for(self.training)

    @property
    def init_lora(self) -> str | None:
        """The adapter folder to continue from."""
        return self.training.init_lora or self.training.lora_weight_path or None

    @property
    def keep_best(self) -> bool:
        """Whether the run's result is its best checkpoint rather than its last weights."""
        return self.metric is not None and self.training.result != "last"


def parse(argv: Sequence[str]) -> Arguments:
    """Parse and check a training command line. Contradictions are UsageErrors that name both values."""
    translated, precision, notices = translate(["--help" if word == "--help-all" else word for word in argv])
    parser = _Parser(
        (ModelArguments, DataArguments, TrainingArguments),  # type: ignore[arg-type]
        prog="llava-finetune train",
        description=__doc__,
    )
    limit(parser)
    model, data, training = _parse(parser, translated)
    allow_pixels(data.max_pixels)
    refuse_contradictions(model, training)
    refuse_idle(data, training)
    refuse_unshared(training)
    refuse_base_dtype(model, training)
    refuse_unfit_for_dpo(data, training)
    arguments = Arguments(model, data, training, precision, tuple(argv), tuple(notices))
    if training.base_dtype == "fp8":
        require_hardware()
    arguments.kernels.require_usable(training.bits, arguments.zero_stage)
    return arguments


def for_the_loop(training: TrainingArguments) -> TrainingArguments:
    """A copy for transformers' Trainer. Evaluation, trackers, kernels and the best model are ours: it hears of none."""
    loop = copy.copy(training)
    loop.eval_strategy = transformers.trainer_utils.IntervalStrategy.NO
    loop.eval_on_start = loop.load_best_model_at_end = loop.do_eval = False
    loop.report_to = []
    loop.use_liger_kernel = loop.torch_compile = False
    loop.torch_compile_backend = loop.torch_compile_mode = None
    loop.group_by_modality_length |= loop.group_by_real_length
    loop.dataloader_persistent_workers = loop.dataloader_num_workers > 0
    loop.accelerator_config = copy.copy(training.accelerator_config)
    loop.accelerator_config.non_blocking = True  # a batch in pinned memory is copied while the GPU computes
    _gather_on_save(loop)
    return loop


def _gather_on_save(training: TrainingArguments) -> None:
    """Full fine-tuning under ZeRO-3 saves gathered weights, so that every checkpoint loads by itself."""
    for config in (
        getattr(getattr(training, "hf_deepspeed_config", None), "config", None),
        getattr(getattr(training, "deepspeed_plugin", None), "deepspeed_config", None),
    ):
        if config and (config.get("zero_optimization") or {}).get("stage") == 3:
            config["zero_optimization"]["stage3_gather_16bit_weights_on_model_save"] = True


class _Parser(transformers.HfArgumentParser):
    """Whose errors are one line, and not behind a screen of two hundred flags."""

    def error(self, message: str) -> NoReturn:
        named = re.match(r"argument (--\w+)\S*: ", message)
        raise UsageError(f"{named[1]}: {message[named.end() :]}" if named else message)


def _parse(parser: transformers.HfArgumentParser, argv: list[str]) -> tuple[Any, Any, Any]:
    if (config := value_of(argv, "--deepspeed")) and importlib.util.find_spec("deepspeed") is None:
        raise UsageError(f"--deepspeed {config}: {WITHOUT_DEEPSPEED}")
    # The Trainer warns about bf16 on CPU unless told; ranks and devices come from the launcher's environment.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if config is not None:
        if not config.lstrip().startswith("{"):
            if not os.path.lexists(config):
                words = "name a file of deepspeed_configs, or leave the flag out to train without DeepSpeed"
                raise UsageError(f"--deepspeed {shortened(config)}: no such file; {words}")
            read_document(Path(config), DeepSpeedConfig)
        else:  # the config itself
            with contextlib.suppress(json.JSONDecodeError):  # told by transformers, with its place
                conform(parse_json(config.encode(), "--deepspeed"), DeepSpeedConfig, "--deepspeed")
    try:
        model, data, training, rest = parser.parse_args_into_dataclasses(argv, return_remaining_strings=True)
    except (ArithmeticError, TypeError, ValueError) as error:  # transformers' own contradictions and ranges
        raise UsageError(first_line(error)) from error
    if rest:
        near = near_flag(parser, rest[0])
        raise UsageError(
            f"unknown flag {rest[0]}; {f'did you mean {near}? ' if near else ''}see llava-finetune train --help-all"
        )
    return model, data, training
