"""What a model folder is, told by its files and never by its name.

adapter_config.json makes an adapter, mm_projector.bin without weights a projector, config.json's architectures the
class. Behind the seam in upstream's `load_pretrained_model`, which asked whether the path contains `llava` or `lora`.

    describe("runs/prompt-tuned", None).kind  ->  "model"
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llava_finetune.errors import UserError
from llava_finetune.saved.documents import read_document
from llava_finetune.saved.language_types import language_of
from llava_finetune.saved.model_files import ADAPTER, ADAPTER_CONFIG, MANIFEST, MODEL, PROJECTOR_WEIGHTS, kind_by
from llava_finetune.saved.sound import require_sound


@dataclass(frozen=True)
class ModelFolder:
    """`kind`: adapter, projector or model; `family`: llama or mistral; `base`: the model below the first two."""

    path: str
    base: str | None
    kind: str
    family: str
    is_llava: bool
    dtype: str | None
    vision_tower: str | None = None

    @property
    def base_has_projector(self) -> bool:
        """Whether the model below is a LLaVA, whose projector an adapter may leave as it is."""
        return self.base is not None and is_llava(read_json(self.base, "config.json") or {})

    def load_config(self) -> Any:
        """The folder's config, else the base's, with the tower's place, and without a quantization that QLoRA left."""
        from llava.model import LlavaConfig, LlavaMistralConfig

        config_class = LlavaMistralConfig if self.family == "mistral" else LlavaConfig
        holder = self.path if find_file(self.path, "config.json") else self.base
        config = config_class.from_pretrained(holder)
        if self.kind != MODEL:
            config.__dict__.pop("quantization_config", None)
        if self.is_llava:
            config.mm_vision_tower = self.vision_tower or find_tower(config.mm_vision_tower, (self.path, self.base))
        return config

    def model_class(self) -> Any:
        """Upstream's class for the family."""
        from llava.model import LlavaLlamaForCausalLM, LlavaMistralForCausalLM

        return LlavaMistralForCausalLM if self.family == "mistral" else LlavaLlamaForCausalLM

    def require(self, name: str) -> str:
        """The path of a file in the folder. Raises UserError when it is not there."""
        found = find_file(self.path, name)
        if found is None:
            raise UserError(
                f"{self.path}: {name} is missing; an adapter needs it because the trained projector is in it. "
                "Give the folder that training wrote at its end, or a checkpoint-N of llava_finetune train"
            )
        return found


def find_tower(name: str, holders: Sequence[str | None]) -> str:
    """The tower as config.json names it; a relative one, or one that moved along with a folder, is found inside it."""
    path = Path(name)
    if path.is_absolute() and path.is_dir():
        return name
    for holder in filter(None, holders):
        for inside in (Path(holder) / name, Path(holder) / path.name):
            if (inside / "config.json").is_file():
                return str(inside)
    return name


def describe(model_path: str, model_base: str | None = None, vision_tower: str | None = None) -> ModelFolder:
    """What is at `model_path` (a folder or a hub id). Raises UserError when it cannot be loaded, saying what to do."""
    require_sound(model_path)
    manifest = read_json(model_path, MANIFEST) or {}
    kind, base = kind_by(lambda name: find_file(model_path, name)), model_base or manifest.get("base")
    if kind == ADAPTER:
        base = base or (read_json(model_path, ADAPTER_CONFIG) or {}).get("base_model_name_or_path")
    elif kind == MODEL:
        base = None
        if model_base:
            raise UserError(
                f"{model_path}: a whole model (no {ADAPTER_CONFIG}, no {PROJECTOR_WEIGHTS}), and --model-base "
                f"{model_base} was given; leave --model-base out"
            )
    if kind != MODEL and not base:
        raise UserError(f"{model_path}: holds a {kind} only and does not name its base; give it with --model-base")
    if base:
        require_sound(base)
    config = read_json(model_path, "config.json") or (read_json(base, "config.json") if base else None)
    if config is None:
        raise UserError(f"{model_path}: no config.json there; give a model, adapter or projector folder, or a hub id")
    refuse_unsupported(model_path, config)
    family = family_of(config)
    return ModelFolder(model_path, base, kind, family, is_llava(config), manifest.get("dtype"), vision_tower)


def refuse_unsupported(model_path: str, config: dict[str, Any]) -> None:
    """Raise UserError for llava-hf folders, MPT models and other language models, naming the replacement."""
    architectures = config.get("architectures") or []
    if language_of(str(config.get("model_type", ""))):
        raise UserError(
            f"{model_path}: a model on {config['model_type']}, which upstream's own tools do not know; use "
            "llava-finetune evaluate, chat or serve"
        )
    foreign = [name for name in architectures if name.endswith("ForConditionalGeneration")]
    if foreign:
        raise UserError(
            f"{model_path}: a llava-hf checkpoint ({foreign[0]}), not upstream's layout; convert it first: "
            f"llava-finetune import {model_path} OUTPUT"
        )
    if "mpt" in str(config.get("model_type", "")) or any("Mpt" in name or "MPT" in name for name in architectures):
        raise UserError(
            f"{model_path}: an MPT model, which upstream's own class no longer runs; "
            "use a Llama, Vicuna or Mistral based LLaVA, e.g. liuhaotian/llava-v1.5-7b"
        )


def refuse_mpt(model_path: str) -> bool:
    """Always False; raises UserError when `model_path` is an MPT. Stands for upstream's `'mpt' in path`."""
    refuse_unsupported(model_path, read_json(model_path, "config.json") or {})
    return False


def family_of(config: dict[str, Any]) -> str:
    """llama or mistral, from the architectures, else from model_type."""
    names = " ".join([*(config.get("architectures") or []), str(config.get("model_type", ""))]).lower()
    return "mistral" if "mistral" in names else "llama"


def is_llava(config: dict[str, Any]) -> bool:
    """True when the config belongs to one of upstream's multimodal classes."""
    architectures = config.get("architectures") or []
    return "mm_vision_tower" in config or any(name.startswith("Llava") for name in architectures)


def find_file(model_path: str, name: str) -> str | None:
    """The local path of a file of a folder or hub id, or None when it has no such file."""
    folder = Path(model_path)
    if folder.is_dir() or folder.is_absolute():
        return str(folder / name) if (folder / name).is_file() else None
    if model_path.count("/") > 1 or model_path.startswith("."):  # no hub id
        raise UserError(f"{model_path}: no such folder below {Path.cwd()}; give its path from here, or the whole path")
    from transformers.utils import cached_file

    try:
        found = cached_file(
            model_path,
            name,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_gated_repo=False,
            _raise_exceptions_for_connection_errors=False,
        )
    except OSError as error:
        raise UserError(f"{model_path}: neither a folder here nor a model that the hub gives ({error})") from None
    return str(found) if found else None


def read_json(model_path: str, name: str) -> dict[str, Any] | None:
    """A JSON file of the folder, or None when it is not there."""
    path = find_file(model_path, name)
    if path is None:
        return None
    return dict(read_document(Path(path)))
