"""LoRA: which modules are adapted, fresh adapters, and those of an earlier run with all that was trained beside them.

model = add_adapters(model, Lora(r=128, alpha=256))
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from llava_finetune.errors import UserError
from llava_finetune.model.trained_parts import in_use
from llava_finetune.saved.documents import read_document
from llava_finetune.saved.model_files import ADAPTER_CONFIG, BESIDE_ADAPTER
from llava_finetune.saved.pickles import load_pickle
from llava_finetune.saved.sound import require_sound

PART_TARGETS = {
    "language": r"model\.layers\.\d+\.(self_attn\.([qkvo]|qkv)_proj|mlp\.(gate|up|gate_up|down)_proj)",
    "language.attention": r"model\.layers\.\d+\.self_attn\.([qkvo]|qkv)_proj",
    # Of CLIP and SigLIP, then of DINOv2, whose largest gates its MLP.
    "vision": r"model\.vision_tower\.vision_tower\.((vision_model\.)?encoder\.layers\.\d+\."
    r"(self_attn\.(q|k|v|out)_proj|mlp\.fc[12])|encoder\.layer\.\d+\."
    r"(attention\.[qkvo]_proj|mlp\.(fc[12]|(gate|up|down)_proj)))",
    "projector": r"model\.mm_projector(\.\d+)?",
}

TOWER_LAYER = re.compile(r"model\.vision_tower\..*encoder\.layers?\.(\d+)\.")


@dataclass(frozen=True)
class Lora:
    """Fresh adapters, or those of the run in the folder `init`; `named` are the flags that the user gave himself."""

    r: int = 64
    alpha: int = 16
    dropout: float = 0.05
    bias: str = "none"
    targets: str = "language"
    use_dora: bool = False
    use_rslora: bool = False
    init: str | None = None
    named: frozenset[str] = frozenset()


def target_modules(targets: str, model: Any, parts: Mapping[str, str] = PART_TARGETS) -> list[str]:
    """Full names of the linear modules that `targets` (parts, comma-separated, or one regular expression) selects."""
    names = [name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)]
    patterns = [parts.get(part.strip(), part.strip()) for part in targets.split(",")]
    try:
        chosen = [name for name in names if any(re.fullmatch(pattern, name) for pattern in patterns)]
    except re.error as error:
        raise UserError(f"--lora_targets {targets}: not a regular expression ({error})") from None
    if not chosen:
        raise UserError(
            f"--lora_targets {targets} selects no linear layer; parts are {', '.join(parts)}; "
            f"names look like {names[0]}"
        )
    layers = max((int(found[1]) for found in map(TOWER_LAYER.match, names) if found), default=-1) + 1
    # LLaVA-OneVision has a vision_tower too, and names the layer otherwise.
    select = getattr(model.config, "mm_vision_select_layer", getattr(model.config, "vision_feature_layer", -2))
    return [name for name in chosen if not TOWER_LAYER.match(name) or in_use(name, layers, select)]


def add_adapters(model: Any, lora: Lora, parts: Mapping[str, str] = PART_TARGETS) -> Any:
    """LoRA by full module names, so that the tower is never adapted by accident (a suffix would match it too).

    `parts`: the linear layers of each part, as regular expressions.
    """
    from peft import LoraConfig, PeftModel, get_peft_model

    if lora.init:
        model = PeftModel.from_pretrained(model, lora.init, is_trainable=True)
        restore_beside_adapter(model, Path(lora.init))
        return model
    config = LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,
        target_modules=target_modules(lora.targets, model, parts),
        lora_dropout=lora.dropout,
        bias=lora.bias,
        use_dora=lora.use_dora,
        use_rslora=lora.use_rslora,
        task_type="CAUSAL_LM",
    )
    return get_peft_model(model, config)


def require_same_adapter(lora: Lora, in_fp8: bool = False) -> None:
    """Raise UserError where a flag asks for another rank, alpha or kind than the adapter that is continued.

    `in_fp8`: the base is kept in e4m3, over which a DoRA adapter cannot go on.
    """
    if not lora.init:
        return
    file = Path(lora.init) / ADAPTER_CONFIG
    if not file.is_file():
        raise UserError(f"--init_lora {lora.init}: no {ADAPTER_CONFIG} in it; give a LoRA run's folder")
    require_sound(lora.init)
    saved = read_document(file)
    if in_fp8 and saved.get("use_dora"):
        raise UserError(
            f"--base_dtype fp8 contradicts --init_lora {lora.init}: that is a DoRA adapter, which takes norms of the "
            "base's own weights; leave --base_dtype out"
        )
    for flag, key, given in (
        ("--lora_r", "r", lora.r),
        ("--lora_alpha", "lora_alpha", lora.alpha),
        ("--use_dora", "use_dora", lora.use_dora),
        ("--use_rslora", "use_rslora", lora.use_rslora),
    ):
        kept = saved.get(key)
        if flag in lora.named and kept is not None and given != kept:
            raise UserError(
                f"{flag} {given} contradicts the adapter's {key} {kept} ({lora.init}); give {flag} {kept}, "
                "or start a new adapter without --init_lora"
            )


def restore_beside_adapter(model: Any, folder: Path) -> None:
    """Put back what an earlier run trained beside its adapter: the projector, image_newline, a tuned tower.

    peft loads the adapter alone; without this a continued run starts from the base's projector.
    """
    file = folder / BESIDE_ADAPTER
    if not file.is_file():
        raise UserError(f"{file}: missing; the projector that was trained beside the adapter is in it")
    state = load_pickle(file)
    parameters = dict(model.named_parameters())
    for name, value in state.items():
        # A quantised or newer run may name the tower's modules with or without CLIP's inner `vision_model.`.
        longer = name.replace("vision_tower.vision_tower.", "vision_tower.vision_tower.vision_model.")
        adapted = ".base_layer.".join(name.rsplit(".", 1))
        target = next((parameters[one] for one in (name, longer, adapted) if one in parameters), None)
        if target is None:
            raise UserError(f"{file}: holds {name}, which this base has not; continue on the base it was trained from")
        with _whole(target), torch.no_grad():
            target.copy_(value)


def _whole(parameter: torch.nn.Parameter) -> Any:
    """A context in which a parameter may be written, gathered and partitioned again under ZeRO-3."""
    if not hasattr(parameter, "ds_id"):
        return contextlib.nullcontext()
    from deepspeed import zero

    return zero.GatheredParameters([parameter], modifier_rank=0)
