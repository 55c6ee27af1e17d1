"""LLaVA-OneVision: one picture as a whole and in views with its padding taken away, several pictures as wholes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from PIL import Image

from llava_finetune.model.families.family import Family, Opened, Seen, require_length, require_tokens
from llava_finetune.model.trained_parts import in_use

LANGUAGE = r"model\.language_model\.layers\.\d+\."


class LlavaOnevision(Family):
    """`llava_onevision`."""

    types: ClassVar[Mapping[str, str]] = {"llava_onevision": "LlavaOnevisionForConditionalGeneration"}
    end = "<|im_end|>"
    targets: ClassVar[Mapping[str, str]] = {
        "language": LANGUAGE + r"(self_attn\.[qkvo]_proj|mlp\.(gate|up|down)_proj)",
        "language.attention": LANGUAGE + r"self_attn\.[qkvo]_proj",
        "projector": r"model\.multi_modal_projector\.linear_[12]",
        "vision": r"model\.vision_tower\..*encoder\.layers\.\d+\.(self_attn\.(q|k|v|out)_proj|mlp\.fc[12])",
    }
    kept_whole: ClassVar[tuple[str, ...]] = ("model.multi_modal_projector", "model.vision_tower", "lm_head")
    pictures_stand_alone = False

    def __init__(self, source: str, opened: Opened) -> None:
        super().__init__(source, opened.config, opened.tokenizer, opened.pictures, opened.template)
        vision = opened.config.vision_config
        patches = int((vision.image_size // vision.patch_size) ** 2)
        self.processor = _processor_class()(
            opened.pictures,
            opened.tokenizer,
            None,
            num_image_tokens=require_length(source, "num_image_tokens", opened.values.get("num_image_tokens"), patches),
            vision_feature_select_strategy=opened.config.vision_feature_select_strategy,
            vision_aspect_ratio=getattr(opened.config, "vision_aspect_ratio", "anyres_max_9"),
        )
        require_tokens(source, opened, opened.config.image_token_id, [self.image_token, self.end])

    def see(self, images: Sequence[Image.Image]) -> list[Seen]:
        if not images:
            return []
        # Nested: a flat list would be taken for prompts of one picture each, which costs other tokens.
        made = self.image_processor([list(images)], return_tensors="pt")
        out = []
        for index in range(len(images)):
            text = self.processor.replace_image_token(made, index)
            inputs = {name: made[name][index] for name in ("pixel_values", "image_sizes")}
            out.append(Seen(inputs, text, text.count(self.image_token)))
        return out

    def collate(self, rows: Sequence[Sequence[Seen]]) -> dict[str, torch.Tensor]:
        """pixel_values (pictures x views x 3 x H x W, padded with views of 0), image_sizes (height, width) of each
        picture, and how many pictures each row with some has."""
        every = [one.inputs for row in rows for one in row]
        if not every:
            return {}
        pixels = torch.nn.utils.rnn.pad_sequence([one["pixel_values"] for one in every], batch_first=True)
        sizes = torch.stack([one["image_sizes"] for one in every])
        return {
            "pixel_values": pixels,
            "image_sizes": sizes,
            "batch_num_images": torch.tensor([len(row) for row in rows if row]),
        }

    @staticmethod
    def anchor(model: Any) -> torch.Tensor:
        side = model.config.vision_config.image_size
        pixels = torch.ones(2, 1, 3, side, side, device=model.device, dtype=model.dtype)
        two = {"batch_num_images": torch.tensor([2]), "image_sizes": torch.tensor([[side, side]] * 2)}
        features = model.model.get_image_features(pixels, return_dict=True, **two).pooler_output
        return torch.cat(list(features)).float().sum() * 0.0

    @staticmethod
    def takes_part(name: str, config: Any) -> bool:
        if "vision_tower" not in name:
            return True
        layers = config.vision_config.num_hidden_layers
        return ".head." not in name and in_use(name, layers, config.vision_feature_layer)


def _processor_class() -> Any:
    """transformers' processor, which wants a video processor, and with it torchvision, also where there is no video."""
    from transformers import LlavaOnevisionProcessor

    class WithoutVideo(LlavaOnevisionProcessor):  # type: ignore[misc]  # transformers is not followed
        def check_argument_for_proper_class(self, name: str, argument: Any) -> Any:
            if name == "video_processor" and argument is None:
                return None
            return super().check_argument_for_proper_class(name, argument)

    return WithoutVideo
