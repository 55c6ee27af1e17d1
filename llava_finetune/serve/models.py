"""What chat and serve answer with, as the command line names it, and the model it came from.

loaded = load_model(choice_of(arguments))
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llava_finetune.errors import UsageError
from llava_finetune.flags import add_loading_flags


@dataclass(frozen=True)
class ModelChoice:
    """What to load and how, as the command line gives it."""

    model: str
    base: str | None = None
    dtype: str = "auto"
    device: str = "auto"
    bits: int = 16
    vision_tower: str | None = None


def add_model_flags(parser: argparse.ArgumentParser) -> None:
    """The flags that say which model, shared by chat and serve."""
    parser.add_argument(
        "model", nargs="?", help="run, adapter, projector or model folder, or a hub id, upstream's layout"
    )
    parser.add_argument("--model", dest="named_model", metavar="MODEL", help="the same, as evaluate takes it")
    add_loading_flags(parser)
    parser.add_argument("--vision-tower", help="the tower's folder, when it is not where config.json says")


def choice_of(arguments: argparse.Namespace) -> ModelChoice:
    """The model flags of a parsed command line. Raises UsageError without a model, and with two."""
    if (arguments.model is None) == (arguments.named_model is None):
        raise UsageError("give one model: a run, adapter, projector or model folder")
    arguments.model = arguments.model or arguments.named_model
    names = ("model", "base", "dtype", "device", "bits", "vision_tower")
    return ModelChoice(**{name: getattr(arguments, name) for name in names})


def load_model(choice: ModelChoice) -> Any:
    """The loaded model of a choice."""
    from llava_finetune.model.loading import load

    return load(
        choice.model,
        base=choice.base,
        dtype=choice.dtype,
        device=choice.device,
        bits=choice.bits,
        vision_tower=choice.vision_tower,
    )


def base_model_of(loaded: Any, choice: ModelChoice) -> str | None:
    """The folder of the model that a fine-tuned one came from, when it can answer about pictures by itself.

    Found through the manifest (`base`); a run over a plain language model began with the projector of stage 1, which
    its run.json names, and that is the model before. None for a base that is gone or cannot see.
    """
    from llava_finetune.saved.manifest import read_json, read_manifest

    base = choice.base or loaded.manifest.get("base")
    if base and not Path(base).is_dir():
        return None if base.startswith("/") else str(base)
    if base and _sees(Path(base)):
        return str(base)
    run = Path(loaded.manifest.get("merged_from") or choice.model)
    for folder in (run, run.parent):
        if (folder / "run.json").is_file():
            arguments = read_json(folder / "run.json").get("arguments") or {}
            projector = arguments.get("pretrain_mm_mlp_adapter")
            before = Path(projector).parent if projector else None
            return str(before) if before and before.is_dir() and read_manifest(before) else None
    return None


def _sees(folder: Path) -> bool:
    """Whether a model folder is a LLaVA and not a plain language model."""
    from llava_finetune.saved.manifest import read_json

    config = read_json(folder / "config.json") if (folder / "config.json").is_file() else {}
    return bool(config.get("mm_vision_tower"))
