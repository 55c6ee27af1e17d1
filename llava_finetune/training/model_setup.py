"""The model of a run: base, tower, projector and adapters put together, then made fast at equal loss.

built = build(run)
built.model, built.tokenizer, built.template
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from llava_finetune.config.arguments import Arguments
from llava_finetune.data.feature_cache import FeatureCache, fingerprint, reason_against
from llava_finetune.errors import UserError
from llava_finetune.kernels.fast_lora import speed_up
from llava_finetune.kernels.fp8 import to_fp8
from llava_finetune.kernels.fused_norm import fuse_norms
from llava_finetune.kernels.unpadded_attention import can_unpad, unpad_attention
from llava_finetune.model.adapters import Lora, add_adapters, require_same_adapter
from llava_finetune.model.building import build_model as build_llava
from llava_finetune.model.building import load_config, load_tokenizer, resolve, template_of
from llava_finetune.model.families.building import build_model, family_writer
from llava_finetune.model.families.family import Family
from llava_finetune.model.families.known import open_family
from llava_finetune.model.forward_parts import ForwardParts
from llava_finetune.model.modeling import ForwardSettings
from llava_finetune.model.saving import FolderWriter
from llava_finetune.model.trained_parts import Building, restore_trainable, settle_dtypes, trainable_table
from llava_finetune.training.beginning import Run

FAMILY_LENGTH = 8192
"""Tokens per record of a family without --model_max_length: tiles take thousands, and a card's memory has an end."""


EDGES = (
    "pictures are cut to the square in their middle (image_aspect_ratio {}): what lies beside it is not seen. For all "
    "of a picture: --image_aspect_ratio pad --override_config True"
)


@dataclass(frozen=True)
class Built:
    """A model ready to be trained, and what goes with it. `unpadded`: it takes batches without padding.

    `family` where it is one of transformers' own classes, None for a LLaVA.
    """

    model: Any
    tokenizer: Any
    template: str
    writer: FolderWriter
    unpadded: bool
    cache: FeatureCache | None
    family: Family | None = None

    @property
    def tower(self) -> Any:
        """The vision tower."""
        return self.model.get_vision_tower()


def build(run: Run) -> Built:
    """The run's model with its adapters, and how it goes forward."""
    model_path, cache_dir = run.arguments.model.model_name_or_path, run.arguments.training.cache_dir
    if (family := open_family(model_path, cache_dir)) is not None:
        return _build_family(run, family)
    model, tokenizer, writer = put_together(run)
    unpadded = _make_fast(model, run)
    cache = _feature_cache(model, run, unpadded)
    training = run.arguments.training
    # Under ZeRO-3 layers that run twice would gather their weights twice, and the other ranks would not.
    together = (training.world_size > 1 or training.deepspeed) and run.arguments.zero_stage < 3
    parts = ForwardParts(training.process_index) if unpadded and together else None
    _base_of(model).go_forward_by(ForwardSettings(training.loss_chunk, parts, cache, training.dpo))
    return Built(model, tokenizer, writer.template, writer, unpadded, cache)


def _build_family(run: Run, family: Family) -> Built:
    """The same for a family of transformers' own classes."""
    training = run.arguments.training
    lora = _lora(run.arguments) if training.lora_enable else None
    if lora is not None:
        require_same_adapter(lora)
    if (aspect := run.arguments.data.image_aspect_ratio) is not None:
        family.split_pictures(aspect == "anyres")
    family.tokenizer.model_max_length = training.model_max_length or min(family.context_length, FAMILY_LENGTH)
    run.say(f"base {family.source}: {family.name}, its own chat template, {len(family.tokenizer)} tokens")
    building = _building(run.arguments)
    model = build_model(family, building, lora)
    _say_trainable(run, model)
    writer = family_writer(family, building, "adapter" if lora else "model", run.is_main)
    if training.fast_lora and lora is not None and (replaced := speed_up(model)):
        run.say(f"fast LoRA in {replaced} layers (--fast_lora False for peft's own)")
    run.say("padded batches: each picture's tiles beside its ids, as transformers' own class takes them")
    _base_of(model).go_forward_by(ForwardSettings(training.loss_chunk))
    return Built(model, family.tokenizer, family.name, writer, False, None, family)


def put_together(run: Run) -> tuple[Any, Any, FolderWriter]:
    """Model, tokenizer, and what saves them."""
    arguments, training = run.arguments, run.arguments.training
    base = arguments.model.model_name_or_path
    config = load_config(base, training.cache_dir)
    values = resolve(arguments.model, arguments.data.image_aspect_ratio, config)
    lora = _lora(arguments)
    require_same_adapter(lora, in_fp8=training.base_dtype == "fp8")
    max_length = training.model_max_length or getattr(config, "tokenizer_model_max_length", None) or 2048
    tokenizer = load_tokenizer(base, training.cache_dir, max_length)
    template = template_of(arguments.model.version, base, config, tokenizer)
    run.say(f"base {base}: {config.model_type}, template {template}, vision tower {values.vision_tower}")
    if values.image_aspect_ratio not in ("pad", "anyres"):
        run.say(EDGES.format(values.image_aspect_ratio))
    building = _building(arguments)
    model, is_new = build_llava(building, config, values, tokenizer)
    if training.lora_enable:
        model = add_adapters(model, lora)
        restore_trainable(model, building, lora.targets)
    else:  # adapters freeze what they are added to: before that no dtype is settled
        settle_dtypes(model, building)
    if training.base_dtype == "fp8":
        run.say(_in_fp8(model, building.device))
    _say_trainable(run, model)
    kind = "projector" if building.projector_only else "adapter" if training.lora_enable else "model"
    writer = FolderWriter(
        kind,
        base,
        tokenizer,
        template,
        model.get_vision_tower().image_processor,
        building.dtype,
        building.bits,
        tunes_tower=building.tune_tower,
        projector_is_new=is_new,
        trains_embeddings=values.mm_use_im_start_end,
        is_main=run.is_main,
    )
    return model, tokenizer, writer


def _say_trainable(run: Run, model: Any) -> None:
    run.say("trainable parameters:")
    for part, trained, total in trainable_table(model):
        run.say(f"  {part:<16}{trained:>14,} of {total:>14,}")


def _in_fp8(model: Any, device: torch.device) -> str:
    """Keep the frozen linear layers in e4m3; the sentence that says so. What is saved and merged has the base's own."""
    count = to_fp8(model, device)
    where = "" if torch.cuda.is_available() else "; on a CPU slowly, for its numbers alone"
    return f"{count} frozen linear layers in e4m3, a scale for each row (--base_dtype fp8){where}"


def _building(arguments: Arguments) -> Building:
    model, training = arguments.model, arguments.training
    return Building(
        base=model.model_name_or_path,
        dtype=arguments.precision.dtype,
        device=training.device,
        cache_dir=training.cache_dir,
        attention=model.attn_implementation,
        bits=training.bits,
        double_quant=training.double_quant,
        quant_type=training.quant_type,
        deepspeed=bool(training.deepspeed),
        fsdp=training.fsdp,
        gradient_checkpointing=training.gradient_checkpointing,
        freeze_backbone=model.freeze_backbone,
        projector_only=model.tune_mm_mlp_adapter,
        freeze_projector=training.freeze_mm_mlp_adapter,
        projector_lr=training.mm_projector_lr,
        tune_tower=training.tune_vision_tower,
    )


def _lora(arguments: Arguments) -> Lora:
    training = arguments.training
    return Lora(
        training.lora_r,
        training.lora_alpha,
        training.lora_dropout,
        training.lora_bias,
        training.lora_targets,
        training.use_dora,
        training.use_rslora,
        arguments.init_lora,
        frozenset(word.partition("=")[0] for word in arguments.argv),
    )


def _make_fast(model: Any, run: Run) -> bool:
    """Switch on what makes steps faster at equal loss, and say what. Returns whether batches go without padding."""
    training, kernels = run.arguments.training, run.arguments.kernels
    for line in kernels.apply(model):
        run.say(line)
    on_gpu = training.device.type == "cuda"
    if training.fused_norms and on_gpu and not (kernels.liger or kernels.backend) and (replaced := fuse_norms(model)):
        run.say(f"{replaced} norms in one kernel each (--fused_norms False for transformers' own)")
    if training.fast_lora and training.lora_enable and (replaced := speed_up(model)):
        run.say(f"fast LoRA in {replaced} layers (--fast_lora False for peft's own)")
    if not training.unpadded:
        return False
    if not can_unpad(model.config):
        attention = model.config._attn_implementation
        if training.share_pictures:
            raise UserError(
                f"--share_pictures True: {attention} attention, or a window or dropout in it, needs padded batches, "
                "in which every record has its picture to itself; leave it out, or choose --attn_implementation sdpa"
            )
        run.say(f"padded batches: {attention} attention, or a window or dropout in it, needs them")
        return False
    unpad_attention(model.config)
    run.say("batches without padding, each picture encoded once (--unpadded False for upstream's padded ones)")
    return True


def _feature_cache(model: Any, run: Run, unpadded: bool) -> FeatureCache | None:
    """The features kept on disk, where the run asks for them and can use them."""
    training = run.arguments.training
    if not training.cache_features:
        return None
    tower = model.get_vision_tower()
    if reason := reason_against(tower, unpadded, run.arguments.zero_stage):
        run.say(f"--cache_features {training.cache_features} is left out: {reason}")
        return None
    limit = int(training.cache_gb * 1e9) // training.world_size
    precision = f"{run.arguments.precision.name}{'' if training.deepspeed else ', autocast'}"
    cache = FeatureCache(Path(training.cache_features), fingerprint(tower, model.config, precision), limit)
    run.say(f"features of pictures are kept in {cache.folder} (frozen tower; up to {training.cache_gb:g} GB)")
    return cache


def _base_of(model: Any) -> Any:
    return model.get_base_model() if hasattr(model, "get_base_model") else model
