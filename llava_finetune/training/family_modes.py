"""What the base's kind of model cannot be asked, refused before data is read and a model is loaded.

refuse_impossible(run.arguments)
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from llava_finetune.config.augmenting import asked_kinds
from llava_finetune.errors import UserError
from llava_finetune.model.families.known import family_class, type_of
from llava_finetune.saved.language_types import language_of

UPSTREAMS = (
    "version", "vision_tower", "mm_vision_select_layer", "pretrain_mm_mlp_adapter", "mm_projector_type",
    "mm_use_im_start_end", "mm_use_im_patch_token", "mm_patch_merge_type", "mm_vision_select_feature",
)  # fmt: skip
"""Flags that say how a LLaVA is put together; a family's config says it."""


def refuse_impossible(arguments: Any) -> None:
    """Raise UserError for the first flag that the base's family cannot do, with what it can."""
    path = arguments.model.model_name_or_path
    family = family_class(path)
    name = type_of(path)
    if family is None:
        _refuse_noise(arguments.training)
        _refuse_liger(arguments.training, path, name)
        return
    for flag, why in _impossible(arguments, family):
        can = ", ".join(family.modes())
        raise UserError(f"{flag}: {why} ({path} is {name}). {name} can be trained by: {can} (docs/families.md)")


def _refuse_noise(training: Any) -> None:
    """transformers puts NEFTune's noise on padded rows of ids; a LLaVA embeds its texts end to end, without rows."""
    if training.neftune_noise_alpha is not None:
        raise UserError(
            f"--neftune_noise_alpha {training.neftune_noise_alpha}: its noise is measured by a padded row of ids, and "
            "a LLaVA's texts are embedded end to end, between their pictures; leave it out (--lora_dropout and "
            "--augment also keep small data from being learned by heart)"
        )


def _refuse_liger(training: Any, path: str, name: str) -> None:
    if training.use_liger_kernel and language_of(name) is not None:
        raise UserError(
            f"--use_liger_kernel True: its kernels are put into Llama and Mistral alone, and {path} is {name}; "
            "leave it out"
        )


def _impossible(arguments: Any, family: Any) -> Iterator[tuple[str, str]]:
    model, data, training = arguments.model, arguments.data, arguments.training
    if model.tune_mm_mlp_adapter:
        yield (
            "--tune_mm_mlp_adapter True",
            "stage 1 makes a projector for a language model that has none, and this model has its connector; train "
            "that alone with --freeze_backbone True",
        )
    for flag in UPSTREAMS:
        if (value := getattr(model, flag)) is not None:
            yield f"--{flag} {value}", "a LLaVA is put together by it, and this model's config says it; leave it out"
    if data.image_aspect_ratio and not family.splits:
        yield (
            f"--image_aspect_ratio {data.image_aspect_ratio}",
            "this model prepares pictures in its own way; leave it out",
        )
    if arguments.zero_stage == 3:
        yield (
            "ZeRO-3",
            "ranks whose batches have other numbers of tiles would wait for each other for ever; use "
            "deepspeed_configs/zero2.json (DEEPSPEED_CONFIG=zero2)",
        )
    if training.bits != 16 and not family.quantises:
        yield f"--bits {training.bits}", "bitsandbytes cannot quantise its layers; use --lora_enable True in 16 bit"
    for flag, value, why in (
        ("--cache_features", training.cache_features, "features are kept for upstream's towers alone; leave it out"),
        ("--share_pictures", training.share_pictures, "each record has its own tiles here; leave it out"),
        ("--base_dtype", training.base_dtype == "fp8" and "fp8", "made for upstream's layers alone; leave it out"),
        ("--use_liger_kernel", training.use_liger_kernel, "Liger is put into upstream's layers alone; leave it out"),
        ("--torch_compile", training.torch_compile, "compiled are upstream's layers alone; leave it out"),
        ("--dpo", training.dpo, "pairs of answers are learned by LLaVA's layouts alone; leave it out"),
        ("--augment", asked_kinds(data.augment) and data.augment, "only LLaVA's pictures are varied; leave it out"),
        ("--profile", training.profile, "phases are known of upstream's layout alone; leave it out"),
    ):
        if value:
            yield f"{flag} {value}", why
