"""Idefics3 and SmolVLM: pictures in tiles and as a whole, each a few tokens after the pixel shuffle.

Both have one architecture, and transformers' processor of Idefics3 serves both: SmolVLM's own wants torchvision and
num2words, which only videos need.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from PIL import Image

from llava_finetune.model.families.family import Family, Opened, Seen, require_length, require_tokens

GRID = 6
"""Rows and columns of tiles that the tokenizers have names for."""
LANGUAGE = r"model\.text_model\.layers\.\d+\."


class Idefics3(Family):
    """`idefics3` and `smolvlm`."""

    types: ClassVar[Mapping[str, str]] = {
        "idefics3": "Idefics3ForConditionalGeneration",
        "smolvlm": "SmolVLMForConditionalGeneration",
    }
    end = "<end_of_utterance>"
    targets: ClassVar[Mapping[str, str]] = {
        "language": LANGUAGE + r"(self_attn\.[qkvo]_proj|mlp\.(gate|up|down)_proj)",
        "language.attention": LANGUAGE + r"self_attn\.[qkvo]_proj",
        "projector": r"model\.connector\.modality_projection\.proj",
        "vision": r"model\.vision_model\.encoder\.layers\.\d+\.(self_attn\.(q|k|v|out)_proj|mlp\.fc[12])",
    }
    splits = True
    kept_whole: ClassVar[tuple[str, ...]] = ("model.connector", "model.vision_model", "lm_head")

    def __init__(self, source: str, opened: Opened) -> None:
        from transformers import Idefics3Processor

        super().__init__(source, opened.config, opened.tokenizer, opened.pictures, opened.template)
        tiles = [f"<row_{row}_col_{column}>" for row in range(1, GRID + 1) for column in range(1, GRID + 1)]
        wanted = ["<image>", "<fake_token_around_image>", self.end, "<global-img>"]
        wanted += tiles if opened.pictures.do_image_splitting else []
        # Before the processor, which adds to the tokenizer what is not in it, without a row of the embedding.
        require_tokens(source, opened, opened.config.image_token_id, wanted)
        vision = opened.config.vision_config
        side = vision.image_size // vision.patch_size // opened.config.scale_factor
        length = require_length(source, "image_seq_len", opened.values.get("image_seq_len"), side**2)
        self.processor = Idefics3Processor(opened.pictures, opened.tokenizer, image_seq_len=length)

    def see(self, images: Sequence[Image.Image]) -> list[Seen]:
        out = []
        for image in images:
            made = self.image_processor([[image]], return_row_col_info=True, return_tensors="pt")
            text = self.processor.replace_image_token({"rows": made["rows"], "cols": made["cols"]}, 0)
            inputs = {name: made[name][0] for name in ("pixel_values", "pixel_attention_mask")}
            out.append(Seen(inputs, text, text.count(self.image_token)))
        return out

    def collate(self, rows: Sequence[Sequence[Seen]]) -> dict[str, torch.Tensor]:
        return padded_tiles([[one.inputs for one in row] for row in rows])

    @staticmethod
    def anchor(model: Any) -> torch.Tensor:
        return tile_anchor(model)


def padded_tiles(rows: Sequence[Sequence[Mapping[str, torch.Tensor]]]) -> dict[str, torch.Tensor]:
    """pixel_values (float32, B x N x 3 x H x W) and pixel_attention_mask (int64, B x N x H x W), 0 where padded.

    Tiles of unlike number and size stand in one batch: the models drop tiles that are 0 all over.
    """
    tiles = [[(pixels, mask) for one in row for pixels, mask in zip(*one.values(), strict=True)] for row in rows]
    every = [pixels for row in tiles for pixels, _ in row]
    if not every:
        return {}
    height, width = (max(pixels.shape[axis] for pixels in every) for axis in (1, 2))
    shape = (len(rows), max(map(len, tiles)), height, width)
    values, masks = torch.zeros(*shape[:2], 3, *shape[2:]), torch.zeros(*shape, dtype=torch.long)
    for row, found in enumerate(tiles):
        for column, (pixels, mask) in enumerate(found):
            values[row, column, :, : pixels.shape[1], : pixels.shape[2]] = pixels
            masks[row, column, : mask.shape[0], : mask.shape[1]] = mask
    return {"pixel_values": values, "pixel_attention_mask": masks}


def tile_anchor(model: Any) -> torch.Tensor:
    """Zero times the features of a picture of ones: one of zeros would be dropped as padding."""
    side = model.config.vision_config.image_size
    pixels = torch.ones(1, 1, 3, side, side, device=model.device)
    features = model.model.get_image_features(pixels, return_dict=True).pooler_output
    return torch.stack([one.float().sum() for one in features]).sum() * 0.0
