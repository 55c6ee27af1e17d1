"""What a model makes of records, without its weights: tokenizer, template, picture processing, tokens of a picture.

    view = open_model("liuhaotian/llava-v1.5-7b")
    view.encode(record).input_ids; view.image_tokens((640, 480))      # 576

It loads through `llava_finetune`, imported when a model is named and not before: the same masker, template choice and
picture processing that training uses.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from data_prep.errors import DataError, UserError, first_line

if TYPE_CHECKING:
    from PIL import Image

    from data_prep.boxes.box import Box


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
        from llava_finetune.data.dataset import is_independent
        from llava_finetune.data.masking import separate
        from llava_finetune.data.rendering import segments

        turns = record["conversations"]
        shown = separate(turns) if is_independent(record, None) else [turns]
        return [
            [(piece.text, piece.supervised) for piece in segments(one, self.template, self.tokenizer)] for one in shown
        ]

    def image_tokens(self, size: tuple[int, int]) -> int:
        """Return how many positions a picture of `size` (width, height) takes in the sequence."""
        from llava_finetune.data.dataset import num_image_tokens

        return num_image_tokens(self.config, self.tower, size)

    def cut_share(self, size: tuple[int, int]) -> float:
        """Return the share of a picture of `size` that is cut off: without padding only its middle square is seen."""
        if getattr(self.config, "image_aspect_ratio", None) in {"pad", "anyres"}:
            return 0.0
        return 1 - min(size) / max(size)

    def boxes_seen(self, size: tuple[int, int], boxes: Sequence[Box]) -> list[list[Box]]:
        """Return, for each view of a picture of `size`, what it shows of the boxes, in pixels of the view."""
        from llava_finetune.data.geometry import views_of

        views = views_of(size, self.image_processor, self.config)
        return [[seen for box in boxes if (seen := view.visible(box))] for view in views]

    def views(self, image: Image.Image) -> list[Image.Image]:
        """Return what the vision tower sees of an RGB picture: padded, or cut into views, normalisation undone."""
        from llava_finetune.data.dataset import process_image

        pixels = process_image(image, self.image_processor, self.config)
        return _as_pictures(pixels[None] if pixels.ndim == 3 else pixels, self.image_processor)


@dataclass(frozen=True)
class FamilyView(ModelView):
    """The same for a family of transformers' own classes, by its own chat template.

    A picture's tokens are those it takes as the only one: several share marks in Idefics2, and cost less in
    LLaVA-OneVision.
    """

    family: Any = None

    def encode(self, record: Mapping[str, Any]) -> Any:
        """Return `llava_finetune.data.masking.Encoded`, a picture as one -200; raise ValueError with the reason."""
        from data_prep.records.marks import IGNORE_INDEX, IMAGE_TOKEN_INDEX
        from llava_finetune.data.dataset import require_marks
        from llava_finetune.data.masking import Encoded, spans_of
        from llava_finetune.errors import UserError
        from llava_finetune.model.families.encoder import encode

        ids: list[int] = []
        labels: list[int] = []
        branches = []
        try:
            require_marks(record)
            conversations = self._conversations(record)
            for pieces in conversations:
                made = encode(self.family, pieces, self._marks(pieces))
                branches.append(len(ids))
                ids += made.input_ids
                labels += made.labels
        except UserError as error:
            raise ValueError(str(error)) from None
        if not any(label != IGNORE_INDEX for label in labels):
            raise ValueError("no supervised token: the answers are empty")
        token = self.tokenizer.convert_tokens_to_ids(self.family.image_token)
        shown = [IMAGE_TOKEN_INDEX if one == token else one for one in ids]
        return Encoded(shown, labels, spans_of(labels), tuple(branches) if len(branches) > 1 else ())

    def prompts(self, record: Mapping[str, Any]) -> list[list[tuple[str, bool]]]:
        """Return the exact text as (text, is it taught) pieces, a picture as `<image>`."""
        return [[(piece.text, piece.supervised) for piece in pieces] for pieces in self._conversations(record)]

    def image_tokens(self, size: tuple[int, int]) -> int:
        """Return how many positions a picture of `size` (width, height) takes, the marks around it counted."""
        from PIL import Image as pillow

        text = self.family.see([pillow.new("RGB", size, (128, 128, 128))])[0].text
        return len(self.tokenizer(text, add_special_tokens=False).input_ids)

    def cut_share(self, size: tuple[int, int]) -> float:
        """Return 0: no family cuts a part of a picture off."""
        return 0.0

    def views(self, image: Image.Image) -> list[Image.Image]:
        """Return the tiles of an RGB picture, normalisation undone."""
        pixels = self.family.see([image])[0].inputs["pixel_values"]
        return _as_pictures(pixels if pixels.ndim == 4 else pixels[None], self.image_processor)

    def _conversations(self, record: Mapping[str, Any]) -> list[Any]:
        from llava_finetune.data.dataset import is_independent
        from llava_finetune.data.masking import separate
        from llava_finetune.model.families.chat import segments

        turns = record["conversations"]
        shown = separate(turns) if is_independent(record, None) else [turns]
        return [segments(one, self.family.render, self.family.end) for one in shown]

    def _marks(self, pieces: Any) -> list[Any]:
        from llava_finetune.model.families.chat import pictures_in
        from llava_finetune.model.families.family import Seen

        count = sum(pictures_in(piece.text) for piece in pieces if not piece.supervised)
        return [Seen({}, self.family.image_token, 1)] * count


def _as_pictures(views: Any, processor: Any) -> list[Image.Image]:
    """Views (N x 3 x H x W) as RGB pictures, the processor's normalisation undone."""
    from PIL import Image as pillow

    mean, std = processor.image_mean, processor.image_std
    out = []
    for view in views:
        channels = [(view[i].float() * std[i] + mean[i]).clamp(0, 1) * 255 for i in range(3)]
        bands = [pillow.fromarray(channel.round().byte().numpy(), "L") for channel in channels]
        out.append(pillow.merge("RGB", bands))
    return out


def open_model(name: str, template: str | None = None, max_length: int | None = None) -> ModelView:
    """Return the view of a model that is trained here: a folder (model, adapter or projector) or a hub name.

    Raises UserError when it cannot be opened, with the reason.
    """
    try:
        return _open(name, template, max_length)
    except UserError:  # names the model, and what to do
        raise
    except (OSError, ValueError) as error:
        reason = first_line(error)
        raise DataError(name, f"the model cannot be opened ({reason}); give a model's folder or hub name") from None


def _open(name: str, template: str | None, max_length: int | None) -> ModelView:
    from pathlib import Path

    from llava_finetune.model.building import load_config, load_tokenizer, template_of
    from llava_finetune.model.families.known import open_family
    from llava_finetune.model.loaded import base_of, kind_of
    from llava_finetune.model.towers import tower_config, tower_processor
    from llava_finetune.saved.manifest import read_manifest

    if (family := open_family(name)) is not None:
        if template is not None:
            raise DataError(name, f"--conversation {template}: {family.name} has its own chat template; leave it out")
        pictures, length = family.image_processor, max_length or family.context_length
        return FamilyView(name, family.tokenizer, family.name, family.config, None, pictures, int(length), family)
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
    vision = tower_config(tower_name)
    side = vision.image_size // vision.patch_size
    tower = SimpleNamespace(config=vision, num_patches_per_side=side, num_patches=side**2)
    processor = tower_processor(tower_name, vision.image_size)
    return ModelView(name, tokenizer, chosen, config, tower, processor, int(context))
