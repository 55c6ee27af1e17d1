"""The training command line: every flag of upstream's train.py under its own name and meaning, plus ours.

Flags that transformers renamed since upstream's launch scripts were written are translated with a notice. What a flag
leaves unsaid is taken from the base checkpoint, never from a default that would change the model.

    arguments = parse(["--model_name_or_path", "base", "--data_path", "records.json", "--output_dir", "runs/a"])
"""

from __future__ import annotations

import copy
import difflib
import importlib.util
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import transformers

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
from llava_finetune.config.ranges import require_ranges
from llava_finetune.config.translation import translate, value_of
from llava_finetune.errors import WITHOUT_DEEPSPEED, UsageError
from llava_finetune.kernels.fp8 import require_hardware
from llava_finetune.kernels.layer_kernels import LayerKernels, asked_for
from llava_finetune.planning.activations import LOSS_CHUNK
from llava_finetune.planning.steps import warmup_of
from llava_finetune.saved.documents import read_document
from llava_finetune.saved.run_documents import DeepSpeedConfig


@dataclass
class ModelArguments:
    """Which model, and how it is put together. None: as the base says (a plain language model: upstream's default)."""

    model_name_or_path: str = field(metadata={"help": "base: a language model (stage 1) or a LLaVA, hub id or folder"})
    version: str | None = field(default=None, metadata={"help": "conversation template, e.g. v1, plain, chatml_direct"})
    freeze_backbone: bool = field(default=False, metadata={"help": "freeze the language model"})
    tune_mm_mlp_adapter: bool = field(default=False, metadata={"help": "train the projector only (stage 1)"})
    vision_tower: str | None = field(default=None, metadata={"help": "CLIP vision tower, hub id or folder"})
    mm_vision_select_layer: int | None = field(default=None, metadata={"help": "hidden layer of the tower to use"})
    pretrain_mm_mlp_adapter: str | None = field(default=None, metadata={"help": "mm_projector.bin of stage 1"})
    mm_projector_type: str | None = field(default=None, metadata={"help": "linear, mlp2x_gelu, ..."})
    mm_use_im_start_end: bool | None = field(default=None, metadata={"help": "wrap pictures in start and end tokens"})
    mm_use_im_patch_token: bool | None = field(default=None, metadata={"help": "add the <im_patch> token"})
    mm_patch_merge_type: str | None = field(default=None, metadata={"help": "flat, or spatial_unpad for 1.6"})
    mm_vision_select_feature: str | None = field(default=None, metadata={"help": "patch or cls_patch"})
    attn_implementation: str = field(
        default="auto", metadata={"help": "auto, sdpa, eager or flash_attention_2; auto is sdpa, eager on CPU"}
    )
    override_config: bool = field(default=False, metadata={"help": "let flags contradict the base's config"})


@dataclass
class DataArguments:
    """What to train on."""

    data_path: str = field(metadata={"help": "records: human/gpt .json or .jsonl"})
    image_folder: str | None = field(default=None, metadata={"help": "folder that the records' pictures are named in"})
    lazy_preprocess: bool = field(default=True, metadata={"help": "accepted for upstream's scripts; always lazy"})
    is_multimodal: bool = field(default=True, metadata={"help": "accepted for upstream's scripts"})
    image_aspect_ratio: str | None = field(
        default=None, metadata={"help": "square, pad or anyres; default: the base's"}
    )
    eval_data_path: str | None = field(default=None, metadata={"help": "held-out records, scored while training"})
    eval_image_folder: str | None = field(default=None, metadata={"help": "default: --image_folder"})
    eval_limit: int = field(default=500, metadata={"help": "questions answered per evaluation, 0 for all"})
    eval_max_new_tokens: int = field(default=64, metadata={"help": "tokens per generated answer"})
    probe_data_path: str | None = field(
        default=None, metadata={"help": "general questions, scored at the same moments: shows what is forgotten"}
    )
    probe_image_folder: str | None = field(default=None, metadata={"help": "default: --image_folder"})
    hallucination_data_path: str | None = field(
        default=None, metadata={"help": "questions of data_prep probes, scored at the same moments: does it say yes"}
    )
    hallucination_image_folder: str | None = field(default=None, metadata={"help": "default: --image_folder"})
    replay: str | None = field(
        default=None, metadata={"help": "FILE:SHARE, general records mixed in, e.g. general.json:0.1 for a tenth"}
    )
    replay_image_folder: str | None = field(default=None, metadata={"help": "default: --image_folder"})
    independent_turns: str = field(
        default="auto",
        metadata={
            "help": "learn each question of a record as if asked alone: True, False, or auto (records that say "
            'so with "independent_turns": true)'
        },
    )
    augment: str | None = field(
        default=None,
        metadata={"help": "vary pictures as far as answers stay true: True, or some of crop,flip,light,colour"},
    )
    max_pixels: int | None = field(
        default=None, metadata={"help": "largest picture that is opened, in pixels; default: 89478485"}
    )
    check_data: bool = field(default=True, metadata={"help": "check every record and picture before training"})


@dataclass
class TrainingArguments(transformers.TrainingArguments):
    """transformers' arguments with upstream's additions and defaults that tell the truth."""

    cache_dir: str | None = field(default=None, metadata={"help": "where hub downloads are kept"})
    optim: str = field(
        default="adamw_torch_fused", metadata={"help": "optimizer; fused: one pass over memory, nothing kept beside it"}
    )
    remove_unused_columns: bool = field(default=False, metadata={"help": "kept off: batches carry pictures"})
    freeze_mm_mlp_adapter: bool = field(default=False, metadata={"help": "freeze the projector"})
    mpt_attn_impl: str | None = field(default=None, metadata={"help": "accepted for upstream's scripts; MPT is not"})
    model_max_length: int | None = field(
        default=None, metadata={"help": "tokens per record, pictures counted; default: the base's, else 2048"}
    )
    dpo: bool = field(default=False, metadata={"help": "learn from records with `chosen` and `rejected` answers"})
    dpo_beta: float = field(default=0.1, metadata={"help": "DPO: smaller goes further from the reference"})
    dpo_label_smoothing: float = field(
        default=0.0, metadata={"help": "conservative DPO: share of the pairs that may be the wrong way round"}
    )
    dpo_length_normalised: bool = field(
        default=False, metadata={"help": "DPO by log-likelihoods per token; needs a larger beta, such as 5"}
    )
    sft_weight: float = field(
        default=0.0, metadata={"help": "DPO: weight of the chosen answers' own loss beside, so that they stay likely"}
    )
    double_quant: bool = field(default=True, metadata={"help": "4-bit: quantise the quantisation statistics"})
    quant_type: str = field(default="nf4", metadata={"help": "4-bit data type: nf4 or fp4"})
    bits: int = field(default=16, metadata={"help": "16, 8 or 4: bits of the frozen base"})
    base_dtype: str = field(
        default="auto",
        metadata={"help": "fp8: the frozen base's linear layers in e4m3, half the bytes; Hopper, Ada"},
    )
    lora_enable: bool = field(default=False, metadata={"help": "train a LoRA adapter"})
    lora_r: int = field(default=64, metadata={"help": "LoRA rank"})
    lora_alpha: int = field(default=16, metadata={"help": "LoRA alpha"})
    lora_dropout: float = field(default=0.05, metadata={"help": "LoRA dropout"})
    lora_weight_path: str = field(default="", metadata={"help": "upstream's unused flag; the same as --init_lora"})
    lora_bias: str = field(default="none", metadata={"help": "none, all or lora_only"})
    lora_targets: str = field(
        default="language", metadata={"help": "language, language.attention, vision, projector (commas), or a regex"}
    )
    use_dora: bool = field(default=False, metadata={"help": "weight-decomposed LoRA"})
    use_rslora: bool = field(default=False, metadata={"help": "scale by alpha / sqrt(r)"})
    init_lora: str | None = field(default=None, metadata={"help": "adapter folder to continue from"})
    tune_vision_tower: bool = field(default=False, metadata={"help": "train the vision tower too"})
    vision_tower_lr: float | None = field(default=None, metadata={"help": "its learning rate; default: the run's"})
    mm_projector_lr: float | None = field(default=None, metadata={"help": "projector's learning rate"})
    group_by_modality_length: bool = field(default=False, metadata={"help": "batch records of like length and kind"})
    group_by_real_length: bool = field(
        default=False, metadata={"help": "group by tokens, pictures counted, instead of upstream's count of words"}
    )
    unpadded: bool = field(
        default=True, metadata={"help": "run layers on real tokens only and gather pictures in one call; same loss"}
    )
    share_pictures: bool = field(
        default=False,
        metadata={
            "help": "records about the same picture in one batch, as one sequence that holds it once; same loss of each"
        },
    )
    share_among: int = field(
        default=0, metadata={"help": "records that are put together by --share_pictures; 0: a device's batch"}
    )
    fast_lora: bool = field(default=True, metadata={"help": "LoRA layers with fewer passes; same loss, same files"})
    loss_chunk: int = field(
        default=LOSS_CHUNK, metadata={"help": "taught tokens whose logits exist at one time, 0 for all; same loss"}
    )
    cache_features: str | None = field(
        default=None, metadata={"help": "folder that keeps a frozen tower's features from run to run; same loss"}
    )
    cache_gb: float = field(default=50.0, metadata={"help": "gigabytes that --cache_features may take"})
    trim_heap: bool = field(default=True, metadata={"help": "on CPU, give freed memory back every 50 steps"})
    profile: int = field(default=0, metadata={"help": "profile this many steps and say where the time goes"})
    resume: str = field(default="none", metadata={"help": "auto, none, or a checkpoint folder"})
    resume_changed: bool = field(default=False, metadata={"help": "go on although data or flags differ"})
    early_stopping_patience: int = field(
        default=0, metadata={"help": "evaluations without a better metric before the run stops; 0: never"}
    )
    result: str = field(
        default="auto", metadata={"help": "best, last, or auto: best where --metric_for_best_model is given"}
    )
    logging_steps: float = field(default=1, metadata={"help": "steps between log lines"})
    logging_nan_inf_filter: bool = field(default=False, metadata={"help": "kept off: NaN is shown as NaN, and stops"})
    save_total_limit: int | None = field(default=2, metadata={"help": "checkpoints kept"})

    @property
    def sharing(self) -> int:
        """Records that are put together so that those about the same pictures meet; 0: none are."""
        return (self.share_among or self.per_device_train_batch_size) if self.share_pictures else 0

    def get_warmup_steps(self, num_training_steps: int) -> int:
        """As transformers', but a share never takes the whole run, which would then train at rate 0 alone."""
        return warmup_of(self.warmup_steps, num_training_steps)


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
    parser = transformers.HfArgumentParser(
        (ModelArguments, DataArguments, TrainingArguments),  # type: ignore[arg-type]
        prog="llava-finetune train",
        description=__doc__,
    )
    model, data, training = _parse(parser, translated)
    allow_pixels(data.max_pixels)
    require_ranges(data, training)
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
        if config and config.get("zero_optimization", {}).get("stage") == 3:
            config["zero_optimization"]["stage3_gather_16bit_weights_on_model_save"] = True


def _parse(parser: transformers.HfArgumentParser, argv: list[str]) -> tuple[Any, Any, Any]:
    if (config := value_of(argv, "--deepspeed")) and importlib.util.find_spec("deepspeed") is None:
        raise UsageError(f"--deepspeed {config}: {WITHOUT_DEEPSPEED}")
    # The Trainer warns about bf16 on CPU unless told; ranks and devices come from the launcher's environment.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if config and Path(config).exists():
        read_document(Path(config), DeepSpeedConfig)
    try:
        model, data, training, rest = parser.parse_args_into_dataclasses(argv, return_remaining_strings=True)
    except (ArithmeticError, TypeError, ValueError) as error:  # transformers' own contradictions and ranges
        raise UsageError(str(error).strip().splitlines()[0]) from error
    if rest:
        near = difflib.get_close_matches(rest[0].partition("=")[0], list(parser._option_string_actions), 1)
        raise UsageError(
            f"unknown flag {rest[0]}; {f'did you mean {near[0]}? ' if near else ''}see llava-finetune train --help-all"
        )
    return model, data, training
