"""Idefics2: a picture at its own proportions becomes a fixed number of tokens, five times as many when it is cut."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from PIL import Image

from llava_finetune.model.families.family import TEMPLATE, Family, Opened, Seen, require_tokens
from llava_finetune.model.families.idefics3 import padded_tiles, tile_anchor

AROUND = "<fake_token_around_image>"
LANGUAGE = r"model\.text_model\.layers\.\d+\."
RESAMPLER = r"model\.connector\.perceiver_resampler\.layers\.\d+\.(self_attn\.[qkvo]_proj|mlp\.(gate|up|down)_proj)"
VIEWS = 5
"""Four quarters and the whole of a picture that is cut."""


class Idefics2(Family):
    """`idefics2`."""

    types: ClassVar[Mapping[str, str]] = {"idefics2": "Idefics2ForConditionalGeneration"}
    end = "<end_of_utterance>"
    targets: ClassVar[Mapping[str, str]] = {
        "language": LANGUAGE + r"(self_attn\.[qkvo]_proj|mlp\.(gate|up|down)_proj)",
        "language.attention": LANGUAGE + r"self_attn\.[qkvo]_proj",
        "projector": rf"model\.connector\.modality_projection\.(gate|up|down)_proj|{RESAMPLER}",
        "vision": r"model\.vision_model\.encoder\.layers\.\d+\.(self_attn\.(q|k|v|out)_proj|mlp\.fc[12])",
    }
    kept_whole: ClassVar[tuple[str, ...]] = ("model.connector", "model.vision_model", "lm_head")
    splits = True

    def __init__(self, source: str, opened: Opened) -> None:
        super().__init__(source, opened.config, opened.tokenizer, opened.pictures, opened.template or TEMPLATE)
        self.length = int(opened.config.perceiver_config.resampler_n_latents)
        require_tokens(source, opened, opened.config.image_token_id, [self.image_token, AROUND, self.end])

    def see(self, images: Sequence[Image.Image]) -> list[Seen]:
        views = VIEWS if self.image_processor.do_image_splitting else 1
        text = f"{AROUND}{self.image_token * self.length}{AROUND}" * views
        out = []
        for image in images:
            made = self.image_processor([[image]], return_tensors="pt")
            inputs = {name: made[name][0] for name in ("pixel_values", "pixel_attention_mask")}
            out.append(Seen(inputs, text, views * self.length))
        return out

    def expand(self, text: str, seen: Sequence[Seen]) -> str:
        """Pictures side by side share the mark between them, and a word keeps a space from it."""
        joined = super().expand(text, seen).replace(AROUND * 2, AROUND)
        return re.sub(rf"{AROUND}(?=[^\s<])", f"{AROUND} ", joined)

    def collate(self, rows: Sequence[Sequence[Seen]]) -> dict[str, torch.Tensor]:
        return padded_tiles([[one.inputs for one in row] for row in rows])

    @staticmethod
    def anchor(model: Any) -> torch.Tensor:
        return tile_anchor(model)
