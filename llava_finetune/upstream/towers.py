"""How upstream's vision tower is built inside a checkpoint's own load, and when it gets gradients.

Behind seams in upstream's `CLIPVisionTower` and in the factory that makes it.
"""

from __future__ import annotations

from typing import Any

import torch


def another(name: str, args: Any, **keywords: Any) -> torch.nn.Module:
    """A tower of a kind that upstream has no class for. Raises UserError for what is no tower."""
    from llava_finetune.model.towers import VisionTower

    return VisionTower(name, args, **keywords)


def build(tower: Any) -> None:
    """Make the tower from its config alone; the checkpoint that is being loaded fills it."""
    from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModel

    tower.image_processor = CLIPImageProcessor.from_pretrained(tower.vision_tower_name)
    tower.vision_tower = CLIPVisionModel(CLIPVisionConfig.from_pretrained(tower.vision_tower_name))
    tower.vision_tower.requires_grad_(False)
    tower.is_loaded = True


def gradient_where_trained(tower: torch.nn.Module) -> torch.set_grad_enabled:
    """A context in which gradients are kept when a parameter of the tower is trained, and the caller keeps them."""
    trained = any(parameter.requires_grad for parameter in tower.parameters())
    return torch.set_grad_enabled(trained and torch.is_grad_enabled())
