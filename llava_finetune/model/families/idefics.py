"""IDEFICS (9B and 80B): Flamingo's gated cross-attention; a picture takes one token, and each token sees the latest.

An answer ends with `<end_of_utterance>`: after `</s>` a text would no longer see its picture.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from PIL import Image

from llava_finetune.errors import UserError
from llava_finetune.model.families.family import TEMPLATE, Family, Opened, Seen, require_tokens

AROUND = "<fake_token_around_image>"
LAYERS = r"model\.(layers|gated_cross_attn_layers)\.\d+\."
FEED_FORWARD = r"mlp\.(gate|up|down)_proj"
BLOCKS = r"model\.perceiver_resampler\.blocks\.\d+\.\d+\."


class Idefics(Family):
    """`idefics`."""

    types: ClassVar[Mapping[str, str]] = {"idefics": "IdeficsForVisionText2Text"}
    end = "<end_of_utterance>"
    targets: ClassVar[Mapping[str, str]] = {
        "language": LAYERS + rf"((self_attn|cross_attn)\.[qkvo]_proj|{FEED_FORWARD})",
        "language.attention": LAYERS + r"(self_attn|cross_attn)\.[qkvo]_proj",
        "cross": rf"model\.gated_cross_attn_layers\.\d+\.(cross_attn\.[qkvo]_proj|{FEED_FORWARD})",
        "projector": BLOCKS + r"((q|k|v|output)_proj|fc|c_proj)",
        "vision": r"model\.vision_model\.encoder\.layers\.\d+\.(self_attn\.(q|k|v|out)_proj|mlp\.fc[12])",
    }
    serves = False
    kept_whole: ClassVar[tuple[str, ...]] = ("model.perceiver_resampler", "model.vision_model", "lm_head")

    def __init__(self, source: str, opened: Opened) -> None:
        template = opened.template or opened.tokenizer.bos_token + TEMPLATE
        super().__init__(source, opened.config, opened.tokenizer, opened.pictures, template)
        if self.end not in self.tokenizer.get_vocab():
            raise UserError(
                f"{source}: its tokenizer has no {self.end}, the token that ends an answer: a base model, which was "
                "never taught to answer in turns; give one that was, such as HuggingFaceM4/idefics-9b-instruct"
            )
        require_tokens(source, opened, None, [self.image_token, AROUND, self.end])

    def see(self, images: Sequence[Image.Image]) -> list[Seen]:
        text = f"{AROUND}{self.image_token}{AROUND}"
        made = [self.image_processor([image], return_tensors="pt") for image in images]
        pixels = [one if isinstance(one, torch.Tensor) else one["pixel_values"] for one in made]
        return [Seen({"pixel_values": one[0]}, text, 1) for one in pixels]

    def expand(self, text: str, seen: Sequence[Seen]) -> str:
        """Pictures side by side share the mark between them; no space stands at a picture."""
        first, *rest = text.split(self.image_token)
        pieces = [first.rstrip(" ") if rest else first, *(piece.strip(" ") for piece in rest)]
        return super().expand(self.image_token.join(pieces), seen).replace(AROUND * 2, AROUND)

    def batch(
        self, rows: Sequence[torch.Tensor], seen: Sequence[Sequence[Seen]], side: str = "right"
    ) -> dict[str, torch.Tensor]:
        """With image_attention_mask (int64, B x T x pictures): which picture each token sees."""
        made = super().batch(rows, seen, side)
        token = self.tokenizer.convert_tokens_to_ids(self.image_token)
        places = seen_from(made["input_ids"], token, self.tokenizer.eos_token_id)
        mask = torch.nn.functional.one_hot(places + 1, made["pixel_values"].shape[1] + 1)[..., 1:]
        return {**made, "image_attention_mask": mask}

    def collate(self, rows: Sequence[Sequence[Seen]]) -> dict[str, torch.Tensor]:
        """pixel_values (float32, B x pictures x 3 x H x W); there is one of 0, which nothing sees, for text alone."""
        side = self.config.vision_config.image_size
        pixels = torch.zeros(len(rows), max(1, *map(len, rows)), 3, side, side)
        for row, found in enumerate(rows):
            for column, one in enumerate(found):
                pixels[row, column] = one.inputs["pixel_values"]
        return {"pixel_values": pixels}

    @staticmethod
    def anchor(model: Any) -> torch.Tensor:
        raise AssertionError("a batch of this family always has pixels")


def seen_from(ids: torch.Tensor, image: int, end_of_text: int) -> torch.Tensor:
    """The picture that each token of `ids` (B x T) sees, counted from 0: the latest; -1 before one and after the end of
    a text."""
    place = torch.arange(ids.shape[1]).expand_as(ids)
    none = torch.full_like(ids, -1)
    picture = torch.where(ids == image, place, none).cummax(1).values
    ended = torch.where(ids == end_of_text, place, none).cummax(1).values.roll(1, 1)
    ended[:, 0] = -1
    count = (ids == image).cumsum(1) - 1
    return torch.where(ended > picture, none, count)
