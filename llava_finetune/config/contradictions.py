"""What flags of the training command line must not say together: each is refused with both values and a way out.

refuse_contradictions(model, training)      # UsageError: --bits 4 without --lora_enable True: ...
"""

from __future__ import annotations

import re
from typing import Any

from llava_finetune.config.augmenting import asked_kinds
from llava_finetune.errors import UsageError

TURNS = {"auto": None, "true": True, "false": False}


def refuse_idle(data: Any, training: Any) -> None:
    """Flags that would silently do nothing."""
    steps = training.eval_steps
    if steps is not None and (steps < 1 or steps != int(steps)):
        raise UsageError(f"--eval_steps {steps}: a whole number of steps is needed")
    if training.label_smoothing_factor:
        raise UsageError(
            f"--label_smoothing_factor {training.label_smoothing_factor}: transformers smooths over logits that are "
            "not kept here, where the loss is taken on taught tokens alone; leave it out"
        )
    if data.eval_data_path is None:
        for flag, given in (
            ("--metric_for_best_model", training.metric_for_best_model),
            ("--early_stopping_patience", training.early_stopping_patience),
            ("--probe_data_path", data.probe_data_path),
            ("--hallucination_data_path", data.hallucination_data_path),
            ("--eval_strategy", None if training.eval_strategy.value == "no" else training.eval_strategy.value),
        ):
            if given:
                raise UsageError(f"{flag} {given} without --eval_data_path: there is nothing to evaluate on")
    if data.independent_turns.lower() not in TURNS:
        raise UsageError(f"--independent_turns {data.independent_turns}: expected auto, True or False")
    if training.result not in ("auto", "best", "last"):
        raise UsageError(f"--result {training.result}: expected auto, best or last")
    if asked_kinds(data.augment) and training.cache_features:
        raise UsageError(
            f"--augment {data.augment} contradicts --cache_features {training.cache_features}: kept features are of "
            "pictures as they are, and varied ones are encoded anew; leave one of the two out"
        )
    if asked_kinds(data.augment) and training.share_pictures:
        raise UsageError(
            f"--augment {data.augment} contradicts --share_pictures True: each record has its own form of a picture"
        )
    if data.replay:
        share = data.replay.rpartition(":")[2]
        if not re.fullmatch(r"0?\.[0-9]{1,20}", share) or not float(share):
            raise UsageError(
                f"--replay {data.replay}: expected FILE:SHARE with a share between 0 and 1, as in g.json:0.1"
            )


def refuse_contradictions(model: Any, training: Any) -> None:
    if training.bits not in (4, 8, 16):
        raise UsageError(f"--bits {training.bits}: expected 16, 8 or 4")
    for flag, given, known in (
        ("--lora_bias", training.lora_bias, ("none", "all", "lora_only")),
        ("--quant_type", training.quant_type, ("nf4", "fp4")),
    ):
        if given not in known:
            raise UsageError(f"{flag} {given}: expected {', '.join(known[:-1])} or {known[-1]}")
    if training.max_steps == 0:
        raise UsageError("--max_steps 0: no step would be made; give 1 or more, or leave it out (--num_train_epochs)")
    if training.bits != 16 and not training.lora_enable and not model.tune_mm_mlp_adapter:
        raise UsageError(
            f"--bits {training.bits} without --lora_enable True: quantised weights cannot be trained; add it, or leave "
            "--bits out"
        )
    if training.lora_enable and model.tune_mm_mlp_adapter:
        raise UsageError("--lora_enable True contradicts --tune_mm_mlp_adapter True: stage 1 trains the projector only")
    targets = {part.strip() for part in training.lora_targets.split(",")} if training.lora_enable else set()
    for flag, wanted in (
        ("--tune_mm_mlp_adapter True", model.tune_mm_mlp_adapter),
        (f"--lora_targets {training.lora_targets}", "projector" in targets),
    ):
        if training.freeze_mm_mlp_adapter and wanted:
            raise UsageError(f"--freeze_mm_mlp_adapter True contradicts {flag}")
    # A regular expression among the targets may select modules of the tower too.
    in_tower = training.tune_vision_tower or targets - {"language", "language.attention", "projector"}
    if training.vision_tower_lr is not None and not in_tower:
        raise UsageError(
            f"--vision_tower_lr {training.vision_tower_lr} contradicts a frozen tower: add --tune_vision_tower True "
            "or --lora_targets language,vision"
        )
    adapter = training.init_lora or training.lora_weight_path
    for flag, value in (("use_dora", training.use_dora), ("use_rslora", training.use_rslora), ("init_lora", adapter)):
        if value and not training.lora_enable:
            raise UsageError(f"--{flag} {value} without --lora_enable True: there is no adapter")
    if training.deepspeed and training.bits != 16 and zero_stage(training) == 3:
        raise UsageError(
            f"--bits {training.bits} with ZeRO-3: quantised weights cannot be partitioned; "
            "use deepspeed_configs/zero2.json"
        )


def refuse_unshared(training: Any) -> None:
    """Flags under which no two records can share a picture, or that would take them apart."""
    if not training.share_pictures:
        if training.share_among:
            raise UsageError(
                f"--share_among {training.share_among} without --share_pictures True: nothing is put together; add it, "
                "or leave --share_among out"
            )
        return
    asked = "--share_pictures True"
    if not training.unpadded:
        raise UsageError(f"{asked} contradicts --unpadded False: in padded batches every record has a row of its own")
    for name in ("group_by_modality_length", "group_by_real_length"):
        if getattr(training, name):
            raise UsageError(f"{asked} contradicts --{name} True: both say which records make a batch; give one")
    if training.train_sampling_strategy != "random":
        raise UsageError(
            f"{asked} contradicts --train_sampling_strategy {training.train_sampling_strategy}: both say which records "
            "make a batch; give one"
        )
    config = (getattr(training.hf_deepspeed_config, "config", {}) or {}) if training.deepspeed else {}
    if (config.get("sequence_parallel_size") or 1) > 1:
        raise UsageError(f"{asked} contradicts DeepSpeed's sequence_parallel_size: a sequence is not cut among ranks")


def refuse_base_dtype(model: Any, training: Any) -> None:
    """What a base in e4m3 cannot do: be trained, be cut up among ranks, be normalised by DoRA, be quantised twice."""
    if training.base_dtype not in ("auto", "fp8"):
        raise UsageError(f"--base_dtype {training.base_dtype}: expected auto (the run's precision) or fp8")
    if training.base_dtype == "auto":
        return
    asked = "--base_dtype fp8"
    if not training.lora_enable and not model.tune_mm_mlp_adapter:
        raise UsageError(f"{asked} without --lora_enable True: weights in e4m3 cannot be trained")
    if training.bits != 16:
        raise UsageError(f"{asked} contradicts --bits {training.bits}: both say how the frozen base is kept; give one")
    if training.use_dora:
        raise UsageError(f"{asked} contradicts --use_dora True: DoRA takes norms of the base's own weights")
    if training.bf16 is False and training.fp16:
        raise UsageError(f"{asked} contradicts fp16: its products give bf16; leave --precision and --fp16 out")
    if training.deepspeed and zero_stage(training) == 3:
        raise UsageError(f"{asked} with ZeRO-3: it partitions weights of one type; use deepspeed_configs/zero2.json")


def refuse_unfit_for_dpo(data: Any, training: Any) -> None:
    """The reference is the model without its adapter: nothing else may be trained, and no older adapter be in it."""
    if not training.dpo:
        if training.sft_weight or training.dpo_label_smoothing or training.dpo_length_normalised:
            raise UsageError("--sft_weight and the flags of DPO do nothing without --dpo True")
        return
    if not training.lora_enable:
        raise UsageError("--dpo True without --lora_enable True: its reference is the model with the adapter off")
    if not training.freeze_mm_mlp_adapter or training.tune_vision_tower:
        raise UsageError(
            "--dpo True needs --freeze_mm_mlp_adapter True and a frozen tower: what is trained beside the adapter "
            "would move the reference too"
        )
    if adapter := training.init_lora or training.lora_weight_path:
        raise UsageError(
            f"--dpo True with --init_lora {adapter}: the reference would be the base without that "
            "adapter; merge it first (llava-finetune merge RUN MERGED) and give the merged model"
        )
    if training.lora_bias != "none":
        raise UsageError(f"--dpo True with --lora_bias {training.lora_bias}: biases cannot be switched off again")
    if training.share_pictures:
        raise UsageError("--dpo True with --share_pictures True: a pair shares its picture already; leave it out")
    if data.replay:
        raise UsageError("--dpo True with --replay: general records are no pairs; keep answers with --sft_weight")
    if asked_kinds(data.augment):
        raise UsageError(
            f"--dpo True with --augment {data.augment}: only what one answer says is looked at; leave one out"
        )


def zero_stage(training: Any) -> int:
    config = getattr(training.hf_deepspeed_config, "config", {}) or {}
    return int((config.get("zero_optimization") or {}).get("stage") or 0)
