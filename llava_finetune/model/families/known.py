"""The families that are known, by config.json's `model_type`; all others are refused with this list.

family = open_family("HuggingFaceTB/SmolVLM-500M-Instruct")
"""

from __future__ import annotations

from typing import Any

from llava_finetune.model.families.family import Family, read_processing
from llava_finetune.model.families.idefics import Idefics
from llava_finetune.model.families.idefics2 import Idefics2
from llava_finetune.model.families.idefics3 import Idefics3
from llava_finetune.model.families.llava_onevision import LlavaOnevision
from llava_finetune.saved.folders import read_json
from llava_finetune.saved.sound import require_sound

KNOWN: tuple[type[Any], ...] = (Idefics, Idefics2, Idefics3, LlavaOnevision)
TYPES = {model_type: family for family in KNOWN for model_type in family.types}


def type_of(path: str) -> str:
    """What config.json calls the model in a folder or of a hub id; empty where it does not say."""
    return str((read_json(path, "config.json") or {}).get("model_type") or "")


def family_class(path: str) -> Any | None:
    """The class of the family that the folder or hub id is of, None for another model."""
    return TYPES.get(type_of(path))


def open_family(path: str, cache_dir: str | None = None) -> Family | None:
    """The family at `path`, opened, or None. Raises UserError for files that cannot be what they are called."""
    found = family_class(path)
    if found is None:
        return None
    require_sound(path)
    opened: Family = found(path, read_processing(path, cache_dir))
    return opened
