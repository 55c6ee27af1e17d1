"""Load any saved LLaVA for use: full model, LoRA adapter over its base, or projector over its base, in 16, 8 or 4 bit.

A folder is known by its files (`adapter_config.json`, `mm_projector.bin`, weights) and its manifest, never by its name.

    loaded = load("runs/mine")
    loaded.model.generate(...)
"""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from data_prep.errors import first_line
from llava_finetune.errors import UserError
from llava_finetune.model.building import attention, load_config, load_tokenizer, quantization, template_of
from llava_finetune.model.families.known import open_family
from llava_finetune.model.families.loading import load_family
from llava_finetune.model.loaded import (
    Loaded,
    base_of,
    choose_device,
    choose_dtype,
    kind_of,
    load_adapter,
    make_ready,
    refuse_unset,
)
from llava_finetune.model.modeling import model_class
from llava_finetune.saved.checkpoints import require_whole
from llava_finetune.saved.folders import find_tower
from llava_finetune.saved.manifest import read_manifest
from llava_finetune.saved.pickles import load_pickle
from llava_finetune.saved.shards import weight_files
from llava_finetune.saved.sound import blamed_on, require_sound, torch_memory_error
from llava_finetune.saved.tensor_names import is_buffer


def load(
    model_path: str | Path,
    base: str | None = None,
    dtype: str = "auto",
    device: str = "auto",
    bits: int = 16,
    vision_tower: str | None = None,
    merge_adapter: bool = True,
) -> Loaded:
    """Load a model folder (or hub id) for inference.

    `dtype`: auto, bf16, fp16, fp32. `bits`: 16, 8 or 4; projector, tower and head stay in `dtype`. `vision_tower`
    overrides the config's path. With `merge_adapter` an adapter is added into the weights (16 bit only). Raises
    UserError for a folder without weights, a checkpoint that is not whole, a wrong base, or missing projector weights.
    """
    start = time.monotonic()
    path = str(model_path)
    require_whole(Path(path))
    manifest = read_manifest(path)
    require_sound(path)
    kind = kind_of(path)
    if base and kind == "model":
        raise UserError(f"--base {base}: {path} is a whole model, which needs no base; leave --base out")
    source = base_of(path, base, manifest) if kind != "model" else path
    place = choose_device(device)
    require_sound(source)
    if (family := open_family(path) or open_family(source)) is not None:
        found = load_family(family, path, source, kind, dtype, place, bits, merge_adapter and bits == 16)
    else:
        config = _config(path, source, vision_tower, bits)
        require_sound(config.mm_vision_tower)
        chosen = choose_dtype(dtype, manifest, config, place.type)
        found = _load_llava(config, path, source, kind, chosen, place, bits, merge_adapter and bits == 16, manifest)
    return replace(found, manifest=manifest, seconds=time.monotonic() - start)


def _load_llava(
    config: Any,
    path: str,
    source: str,
    kind: str,
    chosen: torch.dtype,
    place: torch.device,
    bits: int,
    merge: bool,
    manifest: dict[str, Any],
) -> Loaded:
    """What is at `path` (`kind`: adapter, projector or model) over the weights at `source`, of upstream's classes."""
    model, missing = _weights(source, config, chosen, place, bits)
    tower = model.get_vision_tower()
    if not tower.is_loaded:
        with blamed_on(
            config.mm_vision_tower, "cannot be this model's vision tower", "name another with --vision-tower"
        ):
            tower.load_model()
    tower.to(device=place, dtype=chosen)
    missing -= _load_beside(model, Path(path), kind, chosen)
    if kind == "adapter":
        model = load_adapter(model, Path(path), merge)
    refuse_unset(model, path, missing)
    if bits != 16:
        model.get_model().mm_projector.to(device=place, dtype=chosen)
    make_ready(model, place, chosen, bits)
    model.config.tokenizer_padding_side = "left"
    tokenizer = load_tokenizer(path if _has_tokenizer(path) else source, None, 2048)
    template = template_of(None, source, config, tokenizer, manifest or None)
    context = int(getattr(config, "tokenizer_model_max_length", None) or config.max_position_embeddings)
    return Loaded(tokenizer, model, tower.image_processor, template, chosen, place, context)


def _config(path: str, source: str, vision_tower: str | None, bits: int) -> Any:
    """The model's config, its tower where it lies now, nothing quantised that was not asked for."""
    config = load_config(path)
    if not hasattr(config, "mm_vision_tower"):
        raise UserError(f"{path}: a language model without a vision tower; it cannot see pictures")
    config.mm_vision_tower = vision_tower or find_tower(config.mm_vision_tower, (path, source))
    if getattr(config, "quantization_config", None) is not None and bits == 16:
        # Written by older runs: the base itself is 16 bit, and 16 was asked for.
        del config.quantization_config
    return config


def _has_tokenizer(path: str) -> bool:
    return not Path(path).is_dir() or (Path(path) / "tokenizer_config.json").is_file()


def _weights(source: str, config: Any, dtype: torch.dtype, device: torch.device, bits: int) -> tuple[Any, set[str]]:
    """The model with `source`'s weights, and the names that were not in them: transformers draws those at random."""
    quantized = quantization(bits, dtype)
    # transformers reports as lost what an adapter's own files bring; what is in no file is refused once all are read.
    logger = logging.getLogger("transformers.modeling_utils")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        model, info = model_class(config.model_type).from_pretrained(
            source,
            config=config,
            dtype=dtype,
            attn_implementation=attention("auto", device.type == "cuda"),
            **({"quantization_config": quantized} if quantized else {}),
            device_map={"": str(device)},
            output_loading_info=True,
        )
        return model, {name for name in info["missing_keys"] if not is_buffer(name)}
    except (UserError, torch_memory_error()):
        raise
    except Exception as error:  # each library that has a part in it raises its own
        said = _cut_shard(Path(source)) or f"{type(error).__name__}: {first_line(error):.300}"
        raise UserError(f"{source}: the weights cannot be loaded: {said}; download the folder again") from error
    finally:
        logger.setLevel(level)


def _cut_shard(folder: Path) -> UserError | None:
    """What is wrong with a shard that is missing or cut off, with its name, which the libraries do not tell."""
    try:
        weight_files(folder)
    except UserError as error:
        return error if folder.is_dir() else None
    return None


def _load_beside(model: Any, folder: Path, kind: str, dtype: torch.dtype) -> set[str]:
    """Load what was trained beside an adapter, or a projector alone; returns the names of the tensors."""
    if kind == "model":
        return set()
    file = folder / ("mm_projector.bin" if kind == "projector" else "non_lora_trainables.bin")
    if kind == "adapter" and not file.is_file():
        if getattr(model.config, "freeze_mm_mlp_adapter", False):
            return set()
        raise UserError(f"{file}: missing; the projector that was trained beside the adapter is in it")
    return _load_state(model, {name: value.to(dtype) for name, value in load_pickle(file).items()}, file)


def _load_state(model: Any, state: dict[str, torch.Tensor], file: Path) -> set[str]:
    plain = {}
    for name, value in state.items():
        for prefix in ("base_model.model.", "base_model."):
            name = name.removeprefix(prefix)
        plain[name.removeprefix("model.") if name.startswith("model.model.") else name] = value
    with blamed_on(file, "does not fit this base", "give the base that it was trained on with --base"):
        result = model.load_state_dict(plain, strict=False)
    if result.unexpected_keys:
        raise UserError(
            f"{file}: {len(result.unexpected_keys)} tensors that the model has not: {result.unexpected_keys[0]}"
        )
    return set(plain)
