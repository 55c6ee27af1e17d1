"""LoRA: which modules are adapted, fresh adapters, and those of an earlier run with all that was trained beside them.

model = add_adapters(model, arguments)
"""

from __future__ import annotations

import contextlib
import json
import re
from pathlib import Path
from typing import Any

import torch

from llava_finetune.config.arguments import Arguments
from llava_finetune.errors import UserError
from llava_finetune.model.building import in_use
from llava_finetune.saved.shards import load_pickle

PART_TARGETS = {
    "language": r"model\.layers\.\d+\.(self_attn\.[qkvo]_proj|mlp\.(gate|up|down)_proj)",
    "language.attention": r"model\.layers\.\d+\.self_attn\.[qkvo]_proj",
    "vision": r"model\.vision_tower\.vision_tower\.(vision_model\.)?encoder\.layers\.\d+\."
    r"(self_attn\.(q|k|v|out)_proj|mlp\.fc[12])",
    "projector": r"model\.mm_projector(\.\d+)?",
}

TOWER_LAYER = re.compile(r"model\.vision_tower\..*encoder\.layers\.(\d+)\.")


def target_modules(targets: str, model: Any) -> list[str]:
    """Full names of the linear modules that `targets` (parts, comma-separated, or one regular expression) selects."""
    names = [name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)]
    patterns = [PART_TARGETS.get(part.strip(), part.strip()) for part in targets.split(",")]
    try:
        chosen = [name for name in names if any(re.fullmatch(pattern, name) for pattern in patterns)]
    except re.error as error:
        raise UserError(f"--lora_targets {targets}: not a regular expression ({error})") from None
    if not chosen:
        raise UserError(
            f"--lora_targets {targets} selects no linear layer; parts are {', '.join(PART_TARGETS)}; "
            f"names look like {names[0]}"
        )
    layers = max((int(found[1]) for found in map(TOWER_LAYER.match, names) if found), default=-1) + 1
    select = getattr(model.config, "mm_vision_select_layer", -2)
    return [name for name in chosen if not TOWER_LAYER.match(name) or in_use(name, layers, select)]


def add_adapters(model: Any, arguments: Arguments) -> Any:
    """LoRA by full module names, so that the tower is never adapted by accident (a suffix would match it too)."""
    from peft import LoraConfig, PeftModel, get_peft_model

    training = arguments.training
    if training.init_lora:
        model = PeftModel.from_pretrained(model, training.init_lora, is_trainable=True)
        restore_beside_adapter(model, Path(training.init_lora))
        return model
    config = LoraConfig(
        r=training.lora_r,
        lora_alpha=training.lora_alpha,
        target_modules=target_modules(training.lora_targets, model),
        lora_dropout=training.lora_dropout,
        bias=training.lora_bias,
        use_dora=training.use_dora,
        use_rslora=training.use_rslora,
        task_type="CAUSAL_LM",
    )
    return get_peft_model(model, config)


def require_same_adapter(arguments: Arguments) -> None:
    """Raise UserError where a flag asks for another rank, alpha or kind than the adapter that is continued."""
    training = arguments.training
    if not training.init_lora:
        return
    file = Path(training.init_lora) / "adapter_config.json"
    if not file.is_file():
        raise UserError(f"--init_lora {training.init_lora}: no adapter_config.json in it; give a LoRA run's folder")
    saved = json.loads(file.read_text(encoding="utf-8"))
    for flag, key in (
        ("--lora_r", "r"),
        ("--lora_alpha", "lora_alpha"),
        ("--use_dora", "use_dora"),
        ("--use_rslora", "use_rslora"),
    ):
        given, kept = getattr(training, flag[2:]), saved.get(key)
        named = any(word == flag or word.startswith(f"{flag}=") for word in arguments.argv)
        if named and kept is not None and given != kept:
            raise UserError(
                f"{flag} {given} contradicts the adapter's {key} {kept} ({training.init_lora}); give {flag} {kept}, "
                "or start a new adapter without --init_lora"
            )


def restore_beside_adapter(model: Any, folder: Path) -> None:
    """Put back what an earlier run trained beside its adapter: the projector, image_newline, a tuned tower.

    peft loads the adapter alone; without this a continued run starts from the base's projector.
    """
    file = folder / "non_lora_trainables.bin"
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
