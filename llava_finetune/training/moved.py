"""Every trained part must move: adapters, projector, tower, newline, the language model's own weights.

Looked at early, so that a run that trains nothing ends after minutes, and at its end. What did not move is told with
the cause that the run's own numbers show: no picture was seen, no gradient arrived, or the rate is below the precision.

    watch = MovedWatch(trainer); trainer.add_callback(watch)        # raises UserError while training
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import TrainerCallback

from llava_finetune.errors import UserError
from llava_finetune.model.trained_parts import part_of as named_part

EARLY = 3
"""Steps at a rate above 0 after which every part that can have moved must have moved."""
EARLY_FP16 = 30
"""The same under fp16."""
SAMPLE = 65_536
"""Elements of a tensor that are looked at, spread over all of it."""
TENSORS = 32
"""Tensors of a part that are looked at, spread over all of it; of adapters every one."""
PICTURE_PARTS = ("projector", "vision tower", "vision tower's adapters", "newline", "cross-attention")


@dataclass
class Part:
    """What is trained together, and how it looked before: sums of its tensors by name."""

    tensors: dict[str, torch.nn.Parameter]
    before: dict[str, tuple[float, float]] = field(default_factory=dict)

    def still(self) -> list[str]:
        """The tensors that are as they were."""
        return [name for name, tensor in self.tensors.items() if _sums(tensor) == self.before[name]]


def part_of(name: str) -> str:
    """The part that a trained parameter belongs to, by its name."""
    part = named_part(name)
    if "lora_" in name or "magnitude" in name:
        return "vision tower's adapters" if part == "vision tower" else "adapters"
    return part


def parts_of(model: Any) -> dict[str, Part]:
    """The trained parts of a model, with the tensors of each that are watched."""
    found: dict[str, dict[str, torch.nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        part = part_of(name)
        # lora_A and DoRA's magnitudes move only after lora_B, which starts at 0.
        if not part.endswith("adapters") or "lora_B" in name:
            found.setdefault(part, {})[name] = parameter
    return {part: Part(tensors if part.endswith("adapters") else _some(tensors)) for part, tensors in found.items()}


def _some(tensors: dict[str, torch.nn.Parameter]) -> dict[str, torch.nn.Parameter]:
    names = list(tensors)
    step = max(1, len(names) / TENSORS)
    chosen = dict.fromkeys(names[min(len(names) - 1, int(index * step))] for index in range(TENSORS))
    return {name: tensors[name] for name in chosen}


class MovedWatch(TrainerCallback):
    """Raises UserError for a trained part that did not move, early in the run and at its end; every rank looks."""

    def __init__(self, trainer: Any) -> None:
        self.trainer = trainer
        self.parts: dict[str, Part] = {}
        self.steps = 0  # at a rate above 0
        self.is_resumed = False

    def on_train_begin(self, args: Any, state: Any, control: Any, **keywords: Any) -> None:
        self.is_resumed = state.global_step > 0
        self.parts = parts_of(self.trainer.model)
        if not self.parts:
            raise UserError(
                "nothing is trained: every weight is frozen. Look at --freeze_backbone, --freeze_mm_mlp_adapter, "
                "--tune_vision_tower and --lora_enable"
            )
        for part in self.parts.values():
            part.before = {name: _sums(tensor) for name, tensor in part.tensors.items()}

    def on_step_begin(self, args: Any, state: Any, control: Any, **keywords: Any) -> None:
        self.steps += self.trainer._get_learning_rate() > 0

    def on_step_end(self, args: Any, state: Any, control: Any, **keywords: Any) -> None:
        # fp16's loss scaler may skip its first steps.
        if self.steps == (EARLY_FP16 if args.fp16 else EARLY) and state.global_step < state.max_steps:
            self.require_moved(early=True)

    def on_train_end(self, args: Any, state: Any, control: Any, **keywords: Any) -> None:
        if self.is_resumed and self.steps < EARLY:
            return  # the last steps of a schedule, which may be too small to be seen
        idle = self.require_moved(early=False)
        if state.is_world_process_zero:
            moved = [f"{_counted(name, part)} moved" for name, part in self.parts.items() if name not in idle]
            print(", ".join(moved), flush=True)
            for name in idle:
                print(f"not moved: {name}; no record that was trained on has a picture", flush=True)

    def require_moved(self, *, early: bool) -> list[str]:
        """Raise UserError for a part that did not move. Returns those that could not: no picture was among the records.

        Early a part may have moved in some of its adapters only; at the end each of them must have.
        """
        pictures = self.trainer.group.any(self.trainer.num_pictures > 0)
        stills = {name: part.still() for name, part in self.parts.items()}
        idle = [name for name in stills if name in PICTURE_PARTS and not pictures and stills[name]]
        for name, still in stills.items():
            part = self.parts[name]
            each = name.endswith("adapters") and not early
            if not (still if each else len(still) == len(part.tensors)):
                continue
            if name in idle and (early or len(idle) < len(stills)):
                continue
            when = f" in the run's first {self.trainer.state.global_step} steps" if early else ""
            raise UserError(f"{_what(name, still, part)} did not move{when}: {self.cause(name, still, part, pictures)}")
        return idle

    def cause(self, name: str, still: Sequence[str], part: Part, pictures: bool) -> str:
        """Why a part stayed as it was, by what the run's own numbers show."""
        tensor = part.tensors[still[0]]
        if name in PICTURE_PARTS and not pictures:
            return "no record that was trained on has a picture, and nothing else is trained. Add records with pictures"
        if not self.steps:
            return "the learning rate was 0 at every step. Look at --warmup_steps, --lr_scheduler_type and GLOBAL_BATCH"
        if self.trainer.watch.overflows:
            return "steps overflowed in fp16 and were skipped. Try --precision fp32, bf16, or a lower --learning_rate"
        reached = self._reached(tensor)
        if reached is False:
            flags = "--lora_targets" if name.endswith("adapters") else "what is frozen, and --mm_vision_select_layer"
            return f"no gradient reaches it, so it takes no part in the loss. Look at {flags}"
        kind = str(tensor.dtype).removeprefix("torch.")
        low = (
            f"its learning rate of at most {self._rate_of(tensor):.1e} is too small for weights kept in {kind}. Raise "
        )
        low += _rate_flag(name)
        return low if reached else f"either {low}; or it takes no part in the loss (--lora_targets, what is frozen)"

    def _rate_of(self, tensor: torch.nn.Parameter) -> float:
        groups = self.trainer.optimizer.param_groups
        own = [group for group in groups if any(one is tensor for one in group["params"])]
        return max(float(group.get("initial_lr", group["lr"])) for group in own or groups)

    def _reached(self, tensor: torch.nn.Parameter) -> bool | None:
        """Whether a gradient has reached the tensor, by Adam's first moment; None where it is not kept by tensor."""
        optimizer = getattr(self.trainer.optimizer, "optimizer", self.trainer.optimizer)
        if self.trainer.is_deepspeed_enabled or not optimizer.state:
            return None
        moment = optimizer.state.get(tensor, {}).get("exp_avg")
        return bool(moment is not None and moment.any())


def _what(name: str, still: Sequence[str], part: Part) -> str:
    if name.endswith("adapters"):
        return f"{len(still)} of {len(part.tensors)} {name}, first {still[0]},"
    return f"the {name} ({still[0]}{f' and {len(still) - 1} more' if len(still) > 1 else ''})"


def _counted(name: str, part: Part) -> str:
    return f"all {len(part.tensors)} {name}" if name.endswith("adapters") else name


def _rate_flag(name: str) -> str:
    own = {"projector": "--mm_projector_lr", "vision tower": "--vision_tower_lr"}
    own["vision tower's adapters"] = "--vision_tower_lr"
    return f"{own[name]} or --learning_rate" if name in own else "--learning_rate"


def _sums(parameter: torch.nn.Parameter) -> tuple[float, float]:
    with _whole(parameter):
        flat = parameter.detach().reshape(-1)
        value = flat[:: max(1, flat.numel() // SAMPLE)].double()
        return float(value.sum()), float(value.abs().sum())


def _whole(parameter: torch.nn.Parameter) -> contextlib.AbstractContextManager[Any]:
    """ZeRO-3 keeps a part on each rank: gather it for the look."""
    if not hasattr(parameter, "ds_id"):
        return contextlib.nullcontext()
    from deepspeed import zero

    gathered: contextlib.AbstractContextManager[Any] = zero.GatheredParameters([parameter])
    return gathered
