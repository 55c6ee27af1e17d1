"""The vision tower's own learning rate: its parameters leave upstream's optimizer groups for groups of their own.

use_tower_learning_rate(optimizer, model, 2e-6)
"""

from __future__ import annotations

from typing import Any


def use_tower_learning_rate(optimizer: Any, model: Any, learning_rate: float | None) -> None:
    """Move the tower's trainable parameters, adapters in it included, to groups with `learning_rate`.

    Decay stays as upstream's groups have it. None leaves the optimizer as it is.
    """
    if learning_rate is None:
        return
    tower = {id(parameter) for name, parameter in model.named_parameters() if "vision_tower" in name}
    moved = []
    for group in optimizer.param_groups:
        own = [parameter for parameter in group["params"] if id(parameter) in tower]
        if own:
            moved.append({**group, "params": own, "lr": learning_rate})
            group["params"] = [parameter for parameter in group["params"] if id(parameter) not in tower]
    for group in moved:
        optimizer.add_param_group(group)


class PartLearningRates:
    """Mixed in before upstream's trainer, whose own groups know the projector's learning rate alone."""

    def create_optimizer(self: Any, *arguments: Any, **keywords: Any) -> Any:
        """Upstream's optimizer, with the tower's parameters at `vision_tower_lr`."""
        made = self.optimizer is None
        optimizer = super().create_optimizer(*arguments, **keywords)  # type: ignore[misc]
        if made:
            use_tower_learning_rate(optimizer, self.model, self.args.vision_tower_lr)
        return optimizer
