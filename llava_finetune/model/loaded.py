"""A model that is ready to answer, and what is decided before one is loaded: its kind, base, dtype and device.

kind_of("runs/mine"), base_of("runs/mine", None, manifest)      # "adapter", "runs/base"
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from data_prep.errors import first_line
from llava_finetune.config.precision import choose_precision
from llava_finetune.errors import UserError
from llava_finetune.kernels import rotary
from llava_finetune.saved.checkpoints import checkpoints
from llava_finetune.saved.manifest import NAME, weights_sha256
from llava_finetune.saved.model_files import ADAPTER_CONFIG, INDEX_FILES, MODEL, PROJECTOR_WEIGHTS, kind_by
from llava_finetune.saved.model_names import require_there
from llava_finetune.saved.sound import blamed_on

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
SHORT = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}


@dataclass(frozen=True)
class Loaded:
    """A model ready to answer, with all that prompts and pictures need. `seconds` is the load time.

    `family` where it is one of transformers' own classes (model/families), None for a LLaVA.
    """

    tokenizer: Any
    model: Any
    image_processor: Any
    template: str
    dtype: torch.dtype
    device: torch.device
    context_length: int
    manifest: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    family: Any = None


def kind_of(folder: str | Path) -> str:
    """adapter, projector or model, by the files of a folder; a hub id is taken for a model."""
    path = Path(folder)
    if not path.is_dir():
        require_there(folder)
        return MODEL
    shards = any(path.glob("*.safetensors")) or any(path.glob("pytorch_model*.bin"))
    # Shards whose index is missing are a model all the same, and are refused as one.
    kind = kind_by(lambda name: (path / name).is_file() or (shards and name in INDEX_FILES))
    weights = next(iter(path.glob("adapter_model.*")), None)
    if kind == MODEL and weights:
        raise UserError(f"{weights}: no {ADAPTER_CONFIG} beside it, which says what it adapts; copy the folder again")
    if kind == MODEL and not shards:
        last = next(reversed(checkpoints(path)), None)
        advice = f"its training has not ended: give {last}, or train on with --resume auto" if last else ""
        advice = advice or "give what training wrote"
        raise UserError(f"{path}: no model weights, {ADAPTER_CONFIG} or {PROJECTOR_WEIGHTS}; {advice}")
    return kind


def base_of(folder: str | Path, base: str | None, manifest: dict[str, Any]) -> str:
    """The base an adapter or projector was trained on: as given, else the manifest's; checked by its weights' hash."""
    named = base or manifest.get("base")
    if not named:
        raise UserError(f"{folder}: no {NAME} names its base; give the base with --base")
    expected = manifest.get("base_sha256")
    found = weights_sha256(named) if expected else None
    if found and expected and found != expected:
        raise UserError(
            f"{folder} was trained on {manifest.get('base')} (weights {expected[:12]}), but {named} holds other "
            f"weights ({found[:12]}); give the base it was trained on with --base"
        )
    if not base and named.startswith("/") and not Path(named).is_dir():
        raise UserError(f"{folder}: its base {named} is gone; give where it is now with --base")
    return str(named)


def choose_dtype(asked: str, manifest: dict[str, Any], config: Any, device: str) -> torch.dtype:
    """auto: what the model was trained or saved in, where the device computes in it; else the hardware's best."""
    name = SHORT.get(asked, asked)
    if name != "auto":
        if name not in DTYPES:
            raise UserError(f"--dtype {asked}: expected auto, {', '.join(SHORT)} or {', '.join(DTYPES)}")
        return DTYPES[name]
    native = choose_precision("auto", device).dtype
    saved = manifest.get("dtype") or str(getattr(config, "dtype", None) or native).removeprefix("torch.")
    wanted = DTYPES.get(saved, native)
    return wanted if wanted in (native, torch.float32) or device == "cuda" else native


def choose_device(asked: str) -> torch.device:
    """auto: the GPU where there is one. Raises UserError for a device that this machine has not."""
    if asked == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(asked)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise UserError(f"--device {asked[:40]}: {first_line(error)}; give auto, cpu, cuda or cuda:N") from None
    if device.type == "meta":  # torch takes it, and nothing is in it
        raise UserError(f"--device {asked}: holds no numbers; give auto, cpu, cuda or cuda:N")
    return device


def load_adapter(model: Any, folder: Path, merge: bool) -> Any:
    """Put the adapter in `folder` on the model; with `merge` added into its weights."""
    from peft import PeftModel

    with blamed_on(folder, "the adapter cannot be loaded, it may be cut off", "copy the folder again"):
        model = PeftModel.from_pretrained(model, str(folder))
    return model.merge_and_unload() if merge else model


def refuse_unset(model: Any, path: str, missing: set[str]) -> None:
    """A tensor that was in no file, or is not finite, would answer nonsense instead of failing."""
    unset = dict.fromkeys(missing, "missing from the weights")
    for name, parameter in model.named_parameters():
        if parameter.is_meta:
            unset[name] = "missing from the weights"
        elif parameter.is_floating_point() and not bool(torch.isfinite(parameter).all()):
            unset[name] = "not finite"
    if unset:
        name = min(unset)
        count = f" (and {len(unset) - 1} more)" if len(unset) > 1 else ""
        raise UserError(f"{path}: {name} is {unset[name]}{count}; the folder is incomplete or damaged")


def make_ready(model: Any, device: torch.device, dtype: torch.dtype, bits: int) -> None:
    """Place, type and settings of a loaded model that is to answer; what is quantised stays as it was loaded."""
    if bits == 16:
        model.to(device=device, dtype=dtype)
    else:
        for name, parameter in model.named_parameters():
            if "lora_" in name:  # peft makes them fp32
                parameter.data = parameter.data.to(dtype)
    rotary.restore(model)
    model.requires_grad_(False)
    model.eval()
    model.config.use_cache = True
    forget_sampling(model)


def forget_sampling(model: Any) -> None:
    """Greedy answers with a base's sampling values left in would warn, and refuse to save."""
    for name in ("temperature", "top_p", "top_k"):
        setattr(model.generation_config, name, None)
