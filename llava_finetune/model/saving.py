"""Save what was trained so that the folder is usable by itself: by evaluate, merge, chat and upstream's loader.

Adapter or weights, the other trained tensors, config, the base's own tokenizer files, image processor, manifest.
Every rank calls in (ZeRO-3 gathers); rank 0 writes.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from llava_finetune.errors import UserError
from llava_finetune.saved.manifest import write_json, write_manifest
from llava_finetune.saved.model_files import BESIDE_ADAPTER, PROJECTOR_WEIGHTS, TOKENIZER_FILES


def copy_tokenizer(base: str, folder: Path, tokenizer: Any) -> None:
    """The base's own tokenizer files where it is a folder and gained no token, else the tokenizer's own save.

    transformers 5 drops `legacy` and tokenizer.model when it saves: a legacy tokenizer would reload as another one.
    """
    source = Path(base)
    files = [source / name for name in (*TOKENIZER_FILES, "chat_template.jinja") if (source / name).is_file()]
    added = len(tokenizer) != getattr(tokenizer, "base_length", len(tokenizer))
    if not files or added:
        tokenizer.save_pretrained(folder)
        return
    for file in files:
        shutil.copyfile(file, folder / file.name)


def gathered(named: list[tuple[str, torch.nn.Parameter]]) -> dict[str, torch.Tensor]:
    """Full CPU copies of parameters, gathered from the ranks under ZeRO-3."""
    state: dict[str, torch.Tensor] = {}
    for name, parameter in named:
        if hasattr(parameter, "ds_id"):
            from deepspeed import zero

            with zero.GatheredParameters([parameter]):
                state[name] = parameter.data.detach().cpu().clone()
        else:
            state[name] = parameter.detach().cpu().clone()
    return state


def load_trained(model: Any, folder: Path, kind: str) -> None:
    """Put a checkpoint's trained weights into the model (not under DeepSpeed, which keeps its own).

    Raises UserError when a trainable tensor is not in the checkpoint: it would silently stay at its start.
    """
    state: dict[str, torch.Tensor] = {}
    missing = {name for name, value in model.named_parameters() if value.requires_grad}
    if kind == "adapter":
        from peft.utils.save_and_load import load_peft_weights, set_peft_model_state_dict

        set_peft_model_state_dict(model, load_peft_weights(str(folder), device="cpu"))
        missing = {name for name in missing if "lora_" not in name}
        state = torch.load(folder / BESIDE_ADAPTER, map_location="cpu", weights_only=True)
    elif kind == "projector":
        state = torch.load(folder / PROJECTOR_WEIGHTS, map_location="cpu", weights_only=True)
    else:
        from safetensors.torch import load_file

        for file in sorted(folder.glob("*.safetensors")):
            state.update(load_file(file))
        if not state.keys() & missing:  # transformers writes some classes under the names that they had before
            state = dict(type(model).from_pretrained(folder, dtype=torch.float32).named_parameters())
    parameters = dict(model.named_parameters(remove_duplicate=False))
    loaded: set[int] = set()
    with torch.no_grad():
        for name, value in state.items():
            # transformers 5 drops CLIP's `vision_model.` when it saves.
            longer = name.replace("vision_tower.vision_tower.", "vision_tower.vision_tower.vision_model.")
            target = parameters.get(name, parameters.get(longer))
            if target is not None:
                target.copy_(value)
                loaded.add(id(target))
    missing = {name for name in missing if id(parameters[name]) not in loaded}
    if missing:
        raise UserError(
            f"{folder}: {len(missing)} trained tensors are not in it, first {min(missing)}; it cannot be resumed from"
        )


def save_torch(state: Any, path: Path) -> None:
    """`torch.save` through a temporary file, so that a killed save leaves no half file under the real name."""
    temporary = path.with_name(f".{path.name}.tmp")
    torch.save(state, temporary)
    temporary.replace(path)


@dataclass(frozen=True)
class FolderWriter:
    """Writes everything but the optimizer of one run's saved folders. `kind`: adapter, projector or model.

    With `tunes_tower` a tower is saved whole; `projector_is_new` says that the base does not have this one;
    `trains_embeddings` that stage 1 teaches the tokens around a picture.
    """

    kind: str
    base: str
    tokenizer: Any
    template: str
    image_processor: Any
    dtype: torch.dtype
    bits: int
    tunes_tower: bool
    projector_is_new: bool
    trains_embeddings: bool
    is_main: bool

    def extras(self, model: Any, folder: Path) -> None:
        """All that a folder needs beside the whole weights that transformers saves. Every rank calls; rank 0 writes."""
        trained = [(name, value) for name, value in model.named_parameters() if value.requires_grad]
        if self.is_main:
            folder.mkdir(parents=True, exist_ok=True)
        if self.kind == "adapter":
            adapters = gathered([pair for pair in trained if "lora_" in pair[0]])
            # `base_layer` is peft's name for what an adapter lies on; a folder is read without adapters first.
            others = {
                name.replace(".base_layer", ""): value
                for name, value in gathered([pair for pair in model.named_parameters() if self._beside(*pair)]).items()
            }
            if self.is_main:
                model.save_pretrained(folder, state_dict=adapters, save_embedding_layers=False)
                save_torch(others, folder / BESIDE_ADAPTER)
        elif self.kind == "projector":
            state = gathered([pair for pair in model.named_parameters() if self._projector_key(pair[0])])
            if self.is_main:
                save_torch(state, folder / PROJECTOR_WEIGHTS)
        if self.is_main:
            self._describe(model, folder)

    def _beside(self, name: str, parameter: torch.nn.Parameter) -> bool:
        """Whether a tensor is saved beside the adapter: trained, or found nowhere else.

        A tuned tower is loaded from here whole, with the layers that no gradient reaches; and a projector that the
        base does not have belongs to the adapter even where it stays frozen.
        """
        if "lora_" in name:
            return False
        if "vision_tower" in name:
            return parameter.requires_grad or self.tunes_tower
        if "mm_projector" in name or "image_newline" in name:
            return parameter.requires_grad or self.projector_is_new
        return parameter.requires_grad

    def _projector_key(self, name: str) -> bool:
        keys = ["mm_projector", "image_newline"]
        if self.trains_embeddings:
            keys += ["embed_tokens", "embed_in"]
        return any(key in name for key in keys)

    def _write_processing(self, folder: Path) -> None:
        copy_tokenizer(self.base, folder, self.tokenizer)
        self.image_processor.save_pretrained(folder)

    def _describe(self, model: Any, folder: Path) -> None:
        config = model.config
        use_cache, config.use_cache = config.use_cache, True
        quantized = getattr(config, "quantization_config", None)
        if quantized is not None:
            # A quantised config would make every later load 4-bit unasked.
            del config.quantization_config
        config.save_pretrained(folder)
        if quantized is not None:
            config.quantization_config = quantized
        config.use_cache = use_cache
        self._write_processing(folder)
        write_json(folder / "generation_config.json", model.generation_config.to_diff_dict())
        write_manifest(
            folder,
            kind=self.kind,
            base=None if self.kind == "model" else self.base,
            conversation=self.template,
            dtype=str(self.dtype).removeprefix("torch."),
            bits=self.bits,
        )
