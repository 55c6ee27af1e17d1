"""A part's own learning rate: its parameters leave upstream's optimizer groups for groups of their own.

use_learning_rate(optimizer, model, "vision tower", 2e-6)
"""

from __future__ import annotations

from typing import Any

from llava_finetune.model.trained_parts import part_of


def use_learning_rate(optimizer: Any, model: Any, part: str, learning_rate: float | None) -> None:
    """Move a part's trainable parameters, adapters in it included, to groups with `learning_rate`.

    Decay stays as upstream's groups have it. None leaves the optimizer as it is.
    """
    if learning_rate is None:
        return
    wanted = {id(parameter) for name, parameter in model.named_parameters() if part_of(name) == part}
    moved = []
    for group in optimizer.param_groups:
        own = [parameter for parameter in group["params"] if id(parameter) in wanted]
        if own:
            moved.append({**group, "params": own, "lr": learning_rate})
            group["params"] = [parameter for parameter in group["params"] if id(parameter) not in wanted]
    for group in moved:
        optimizer.add_param_group(group)


class PartLearningRates:
    """Mixed in before upstream's trainer, whose own groups know the rate of its own projector alone."""

    def create_optimizer(self: Any, *arguments: Any, **keywords: Any) -> Any:
        """Upstream's optimizer, with the tower at `vision_tower_lr`, and a family's connector at `mm_projector_lr`."""
        made = self.optimizer is None
        optimizer = super().create_optimizer(*arguments, **keywords)  # type: ignore[misc]
        if made:
            use_learning_rate(optimizer, self.model, "vision tower", self.args.vision_tower_lr)
            if not any("mm_projector" in name for name, _ in self.model.named_parameters()):
                use_learning_rate(optimizer, self.model, "projector", self.args.mm_projector_lr)
        return optimizer
