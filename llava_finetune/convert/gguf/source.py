"""What the two files are made from: a folder of upstream's layout, its tower, their tensors under neutral names.

Nothing is loaded here: configs are read, weight files are listed, and each tensor's value is read when it is written.

    model = read_source(Path("merged"))
    model.tensors[Name("text", "norm.weight")].load()
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from llava_finetune.convert import configs, processor_files
from llava_finetune.convert.gguf.architectures import architecture_of
from llava_finetune.errors import UserError
from llava_finetune.model.towers import is_clip
from llava_finetune.saved.manifest import read_json
from llava_finetune.saved.new_folder import resolve_folder
from llava_finetune.saved.shards import open_shard, weight_files
from llava_finetune.saved.tensor_names import Name, from_clip, from_upstream, is_buffer


@dataclass(frozen=True)
class Stored:
    """A tensor of a weight file: its shape, and how its value is read (the file is open only meanwhile)."""

    shape: tuple[int, ...]
    load: Callable[[], torch.Tensor]


@dataclass(frozen=True)
class Source:
    """A trained model on disk: config.json, the tower's vision config and picture settings, tensors by neutral name."""

    folder: Path
    config: Mapping[str, Any]
    vision: Mapping[str, Any]
    pictures: Mapping[str, Any]
    tensors: Mapping[Name, Stored]

    def rows(self) -> int:
        """The vocabulary's rows, which are more than the tokens where training padded it."""
        return self.tensors[Name("text", "embed_tokens.weight")].shape[0]


def read_source(folder: Path, vision_tower: str | None = None) -> Source:
    """Read a merged model's configs and list its tensors. Raises UserError for what llama.cpp cannot express."""
    config = configs.read_config(folder)
    check_supported(config)
    tensors = stored_tensors(folder, from_upstream)
    if Name("text", "embed_tokens.weight") not in tensors:
        raise UserError(f"{folder}: no model.embed_tokens.weight among the tensors; this is not a whole model")
    tower = resolve_folder(str(vision_tower or config["mm_vision_tower"]), beside=folder)
    if not is_clip(str(tower)):
        raise UserError(
            f"{tower}: a vision tower that is no CLIP is not written as GGUF; write the model in llava-hf's layout "
            "(without --format gguf), or serve it with: llava-finetune serve"
        )
    if not config.get("unfreeze_mm_vision_tower"):
        tensors = {name: each for name, each in tensors.items() if name.part != "tower"}
        tensors |= stored_tensors(tower, from_clip)
    vision = read_json(tower / "config.json")
    return Source(
        folder, config, vision.get("vision_config", vision), processor_files.clip_preprocessor(tower), tensors
    )


def stored_tensors(folder: Path, parse: Callable[[str], Name | None]) -> dict[Name, Stored]:
    """All tensors of a folder's weight files that `parse` knows, computed buffers left out.

    Raises UserError for a tensor of upstream's layout that has no neutral name: nothing is left behind in silence.
    """
    out: dict[Name, Stored] = {}
    for path in weight_files(folder):
        with open_shard(path) as tensors:
            for tensor in tensors:
                name = parse(tensor.name)
                if is_buffer(tensor.name):
                    continue
                if name is None and parse is from_upstream:
                    raise UserError(f"{folder}: tensor {tensor.name} has no place in a GGUF file of a LLaVA")
                if name is not None:
                    out[name] = Stored(tensor.shape, _reader(path, tensor.name))
    return out


def _reader(path: Path, name: str) -> Callable[[], torch.Tensor]:
    """Open the file again for one tensor: a file that stays open keeps all that was read of it in memory."""

    def load() -> torch.Tensor:
        if path.suffix == ".safetensors":
            with safe_open(path, "pt") as file:
                return file.get_tensor(name)  # type: ignore[no-any-return]
        with open_shard(path) as tensors:
            return next(each for each in tensors if each.name == name).load()

    return load


def check_supported(config: Mapping[str, Any]) -> None:
    """Raise UserError for a model that llama.cpp would load and answer wrongly with, or not load at all."""
    architecture_of(str(config.get("model_type")))
    if config.get("image_aspect_ratio") == "anyres":
        raise UserError(
            "config.json: image_aspect_ratio anyres (LLaVA-1.6) is not written as GGUF: llama.cpp loads it and answers "
            "wrongly, because it counts another number of picture tokens than training did (16, 80, 80 and 80 against "
            "36, 88, 70 and 72 for four shapes of a small model). Serve it with `llava-finetune serve`, vLLM or SGLang"
        )
    projector = config.get("mm_projector_type", "linear")
    if projector != "mlp2x_gelu":
        raise UserError(
            f'config.json: mm_projector_type "{projector}" is not written as GGUF; supported: mlp2x_gelu, LLaVA-1.5\'s'
        )
    if config.get("mm_use_im_start_end"):
        raise UserError("config.json: mm_use_im_start_end is true; llama.cpp puts no such tokens around a picture")
    if config.get("mm_vision_select_feature", "patch") != "patch":
        raise UserError(
            f'config.json: mm_vision_select_feature "{config["mm_vision_select_feature"]}"; llama.cpp always leaves '
            f"the "
            "class token out"
        )
    aspect = config.get("image_aspect_ratio") or "square"
    if aspect not in ("pad", "square") or (config.get("mm_patch_merge_type") or "flat") != "flat":
        raise UserError(
            f'config.json: image_aspect_ratio "{aspect}" with mm_patch_merge_type '
            f'"{config.get("mm_patch_merge_type")}" cannot be written as GGUF; supported: pad and square, merged flat'
        )
