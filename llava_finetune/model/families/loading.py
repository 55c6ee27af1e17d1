"""Load a family's model, or an adapter over its base, for answering.

loaded = load_family(family, "runs/mine", "models/SmolVLM", "adapter", "auto", device, bits=16, merge=True)
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from llava_finetune.errors import UserError
from llava_finetune.model.building import REMEDY, attention, quantization
from llava_finetune.model.families.family import Family
from llava_finetune.model.families.forward import model_class
from llava_finetune.model.loaded import Loaded, choose_dtype, load_adapter, make_ready, refuse_unset
from llava_finetune.saved.manifest import read_manifest
from llava_finetune.saved.pickles import load_pickle
from llava_finetune.saved.sound import blamed_on
from llava_finetune.saved.tensor_names import is_buffer


def load_family(
    family: Family, path: str, source: str, kind: str, dtype: str, device: torch.device, bits: int, merge: bool
) -> Loaded:
    """The model at `path` (`kind`: adapter or model) over the weights at `source`; `merge` adds an adapter into them.

    Raises UserError for files that cannot be read, do not belong together, or leave a tensor unset.
    """
    chosen = choose_dtype(dtype, read_manifest(path), family.config, device.type)
    quantized = quantization(bits, chosen, kept_whole=family.kept_whole)
    with blamed_on(source, "the weights cannot be loaded", REMEDY):
        model, info = model_class(type(family), family.name).from_pretrained(
            source,
            dtype=chosen,
            attn_implementation=attention("auto", device.type == "cuda"),
            **({"quantization_config": quantized} if quantized else {}),
            device_map={"": str(device)},
            output_loading_info=True,
        )
    missing = {name for name in info["missing_keys"] if not is_buffer(name)}
    if kind == "adapter":
        beside = load_beside(Path(path))
        _put(model, beside, Path(path))
        missing -= beside.keys()
        model = load_adapter(model, Path(path), merge)
    refuse_unset(model, path, missing)
    make_ready(model, device, chosen, bits)
    return Loaded(
        family.tokenizer,
        model,
        family.image_processor,
        family.name,
        chosen,
        device,
        family.context_length,
        family=family,
    )


def load_beside(folder: Path) -> dict[str, torch.Tensor]:
    """What was trained beside an adapter, under the names of the model without one."""
    file = folder / "non_lora_trainables.bin"
    if not file.is_file():
        raise UserError(f"{file}: missing; what was trained beside the adapter is in it, the connector at least")
    return {name.removeprefix("base_model.model."): value for name, value in load_pickle(file).items()}


def _put(model: Any, state: dict[str, torch.Tensor], folder: Path) -> None:
    parameters = dict(model.named_parameters())
    for name, value in state.items():
        if name not in parameters or parameters[name].shape != value.shape:
            raise UserError(f"{folder}: {name} is not this base's; give the base that it was trained on with --base")
        with torch.no_grad():
            parameters[name].copy_(value)
