"""What a model makes of records, without its weights: tokenizer, template, picture processing, tokens of a picture.

    view = open_model("liuhaotian/llava-v1.5-7b")
    view.encode(record).input_ids; view.image_tokens((640, 480))      # 576

It loads through `llava_finetune`, imported when a model is named and not before: the same masker, template choice and
picture processing that training uses.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from data_prep.errors import DataError

if TYPE_CHECKING:
    from PIL import Image


@dataclass(frozen=True)
class ModelView:
    """A model's tokenizer, template and picture processing; `context` is its length in tokens."""

    name: str
    tokenizer: Any
    template: str
    config: Any
    tower: Any
    image_processor: Any
    context: int

    @property
    def _encoder(self) -> Any:
        from llava_finetune.data.dataset import Encoder

        return Encoder(self.tokenizer, self.template, self.image_processor, self.config, None)

    def encode(self, record: Mapping[str, Any]) -> Any:
        """Return `llava_finetune.data.masking.Encoded`; raise ValueError, with the reason, when there is none."""
        from llava_finetune.errors import UserError

        try:
            return self._encoder.encode(record)
        except UserError as error:
            raise ValueError(str(error)) from None

    def prompts(self, record: Mapping[str, Any]) -> list[list[tuple[str, bool]]]:
        """Return the exact text as (text, is it taught) pieces: one prompt, or one for each independent question."""
        from llava_finetune.data.masking import separate
        from llava_finetune.data.segments import segments

        turns = record["conversations"]
        shown = separate(turns) if self._encoder.is_independent(record) else [turns]
        return [[(piece.text, piece.supervised) for piece in segments(one, self.template)] for one in shown]

    def image_tokens(self, size: tuple[int, int]) -> int:
        """Return how many positions a picture of `size` (width, height) takes in the sequence."""
        from llava_finetune.data.dataset import num_image_tokens

        return num_image_tokens(self.config, self.tower, size)

    def cut_share(self, size: tuple[int, int]) -> float:
        """Return the share of a picture of `size` that is cut off: without padding only its middle square is seen."""
        if getattr(self.config, "image_aspect_ratio", None) in {"pad", "anyres"}:
            return 0.0
        return 1 - min(size) / max(size)

    def views(self, image: Image.Image) -> list[Image.Image]:
        """Return what the vision tower sees of an RGB picture: padded, or cut into views, normalisation undone."""
        from PIL import Image as pillow

        from llava_finetune.data.dataset import process_image

        pixels = process_image(image, self.image_processor, self.config)
        stacked = pixels[None] if pixels.ndim == 3 else pixels
        mean, std = self.image_processor.image_mean, self.image_processor.image_std
        views = []
        for view in stacked:
            channels = [(view[i].float() * std[i] + mean[i]).clamp(0, 1) * 255 for i in range(3)]
            bands = [pillow.fromarray(channel.round().byte().numpy(), "L") for channel in channels]
            views.append(pillow.merge("RGB", bands))
        return views


def open_model(name: str, template: str | None = None, max_length: int | None = None) -> ModelView:
    """Return the view of a LLaVA: a folder (model, adapter or projector) or a hub name.

    Raises DataError when it cannot be opened, with the reason.
    """
    from llava_finetune.errors import UserError

    try:
        return _open(name, template, max_length)
    except (UserError, OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(name, f"the model cannot be opened ({reason}); give a LLaVA folder or hub name") from None


def _open(name: str, template: str | None, max_length: int | None) -> ModelView:
    from pathlib import Path

    from transformers import CLIPImageProcessor, CLIPVisionConfig

    from llava_finetune.model.building import load_config, load_tokenizer, template_of
    from llava_finetune.model.loading import base_of, kind_of
    from llava_finetune.saved.manifest import read_manifest

    manifest = read_manifest(name)
    source = base_of(name, None, manifest) if kind_of(name) != "model" else name
    config = load_config(name)
    tower_name = getattr(config, "mm_vision_tower", None)
    if not tower_name:
        raise DataError(name, "a language model without a vision tower; give the LLaVA that will be trained")
    context = max_length or getattr(config, "tokenizer_model_max_length", None) or config.max_position_embeddings
    has_tokenizer = (Path(name) / "tokenizer_config.json").is_file()
    tokenizer = load_tokenizer(name if has_tokenizer else source, None, int(context))
    chosen = template_of(template, name if manifest else source, config, tokenizer)
    vision: Any = CLIPVisionConfig.from_pretrained(tower_name)
    side = vision.image_size // vision.patch_size
    tower = SimpleNamespace(config=vision, num_patches_per_side=side, num_patches=side**2)
    processor = CLIPImageProcessor.from_pretrained(tower_name)
    return ModelView(name, tokenizer, chosen, config, tower, processor, int(context))
