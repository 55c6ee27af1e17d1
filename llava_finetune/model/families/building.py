"""A family's model put together for a run: loaded, frozen by parts, adapted, in the right dtypes, and what saves it.

model = build_model(family, building, Lora(r=16))
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from llava_finetune.model.adapters import Lora, add_adapters
from llava_finetune.model.building import REMEDY, attention, prepared, quantized_keywords, require_all
from llava_finetune.model.families.family import Family
from llava_finetune.model.families.forward import model_class
from llava_finetune.model.saving import FolderWriter
from llava_finetune.model.trained_parts import Building, part_of, settle_dtypes
from llava_finetune.saved.sound import blamed_on


def build_model(family: Family, building: Building, lora: Lora | None) -> Any:
    """The family's model with what is trained in it; `lora` None: the weights themselves."""
    with blamed_on(family.source, "the weights cannot be loaded", REMEDY):
        model, info = model_class(type(family), family.name).from_pretrained(
            family.source,
            cache_dir=building.cache_dir,
            attn_implementation=attention(building.attention, torch.cuda.is_available()),
            dtype=building.dtype,
            output_loading_info=True,
            **quantized_keywords(building, family.kept_whole),
        )
    require_all(family.source, info["missing_keys"])
    model.config.use_cache = False
    model = prepared(model, building)
    if lora is not None:
        model = add_adapters(model, lora, family.targets)
    _freeze(model, building, lora)
    settle_dtypes(model, building)
    return model


def _freeze(model: Any, building: Building, lora: Lora | None) -> None:
    """Each part trained or not, as for a LLaVA: beside adapters the projector, and the tower when it is asked for."""
    targets = lora.targets.split(",") if lora is not None else []
    trained = {
        "vision tower": building.tune_tower,
        "projector": not building.freeze_projector and "projector" not in targets,
        "newline": not building.freeze_projector,
        "cross-attention": lora is None,
        "language model": lora is None and not building.freeze_backbone,
    }
    for name, parameter in model.named_parameters():
        if "lora_" in name or "magnitude" in name or not parameter.is_floating_point():
            continue
        part = part_of(name)
        parameter.requires_grad = trained[part] and _takes_part(model, name)
        if part in ("projector", "newline") and parameter.requires_grad and not building.deepspeed:
            parameter.data = parameter.data.float()


def _takes_part(model: Any, name: str) -> bool:
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    return bool(base.family.takes_part(name, base.config))


@dataclass(frozen=True)
class FamilyWriter(FolderWriter):
    """Writes a family's folders: transformers' own layout, read by AutoModelForImageTextToText and AutoProcessor."""

    family: Family | None = None

    def _beside(self, name: str, parameter: torch.nn.Parameter) -> bool:
        return "lora_" not in name and parameter.requires_grad

    def _write_processing(self, folder: Path) -> None:
        assert self.family is not None
        self.family.save_processing(folder)


def family_writer(family: Family, building: Building, kind: str, is_main: bool) -> FamilyWriter:
    """What saves a run of this family; `kind`: adapter or model."""
    return FamilyWriter(
        kind,
        building.base,
        family.tokenizer,
        family.name,
        family.image_processor,
        building.dtype,
        building.bits,
        tunes_tower=building.tune_tower,
        projector_is_new=False,
        trains_embeddings=False,
        is_main=is_main,
        family=family,
    )
