"""Records as training examples: pictures prepared, conversations encoded.

Pictures are opened when their record is asked for. What a picture becomes is decided by the model's config
(`image_aspect_ratio`: square, pad or anyres), through upstream's own `mm_utils`.

    example = RecordDataset(records, encoder)[0]
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from PIL import Image
from torch.utils.data import Dataset

from data_prep.picture_folder import SPELLINGS
from data_prep.records.marks import IMAGE_TOKEN
from data_prep.records.record import DataError, Records, images_of, open_image, resolve_image
from data_prep.records.usable import taught
from llava_finetune.data.example import Example, Picture
from llava_finetune.data.feature_cache import FeatureCache
from llava_finetune.data.length_cache import kept_lengths
from llava_finetune.data.masking import Encoded, encode, encode_independent
from llava_finetune.data.padding import require_small_square, resized_square
from llava_finetune.data.unreadable_pictures import PictureLost
from llava_finetune.errors import UserError
from llava_finetune.planning.picture_batches import PictureKey


def process_image(image: Image.Image, processor: Any, config: Any) -> torch.Tensor:
    """Pixel values of one RGB picture, to the bit as upstream's `process_images` makes them.

    Returns float32 of shape (3, H, W), or (views, 3, H, W) for anyres.
    """
    from llava.mm_utils import process_images

    if getattr(config, "image_aspect_ratio", None) == "pad":
        if _resizes_by_pillow(processor):
            # transformers takes the picture to numpy, to Pillow, resizes it there and takes it back: half of its time.
            background = tuple(int(mean * 255) for mean in processor.image_mean)
            image = resized_square(image, background, processor.size["shortest_edge"], processor.resample)
        else:
            require_small_square(image)
    return process_images([image], processor, config)[0]


def _resizes_by_pillow(processor: Any) -> bool:
    pillow = getattr(processor, "backend", None) == "pil" and processor.do_resize
    return bool(pillow and processor.size.get("shortest_edge"))


def num_image_tokens(config: Any, tower: Any, size: tuple[int, int]) -> int:
    """How many positions one picture of `size` (width, height) takes in the sequence."""
    per_view = tower.num_patches + (getattr(config, "mm_vision_select_feature", "patch") == "cls_patch")
    if getattr(config, "image_aspect_ratio", None) != "anyres":
        return int(per_view)
    from llava.mm_utils import get_anyres_image_grid_shape

    side = tower.num_patches_per_side
    grid = get_anyres_image_grid_shape(size, config.image_grid_pinpoints, tower.config.image_size)
    width, height = grid
    if not getattr(config, "mm_patch_merge_type", "flat").startswith("spatial"):
        return int(per_view * (1 + width * height))
    rows, columns = height * side, width * side
    if "unpad" not in config.mm_patch_merge_type:
        return int(per_view + rows * columns)
    if size[0] / size[1] > columns / rows:
        padding = (rows - int(size[1] * (columns / size[0]))) // 2
        rows -= 2 * padding
    else:
        padding = (columns - int(size[0] * (rows / size[1]))) // 2
        columns -= 2 * padding
    return int(per_view + rows * (columns + 1))


@dataclass(frozen=True)
class Encoder:
    """What turns a record into tensors: the model's tokenizer, template, image processor and config.

    `independent_turns` None: each record says by its own "independent_turns" whether its questions know of each other.
    """

    tokenizer: Any
    template: str
    image_processor: Any
    config: Any
    image_folder: Path | None
    tower: Any = None
    max_length: int | None = None
    independent_turns: bool | None = None
    cache: FeatureCache | None = None

    def pictures(self, record: Mapping[str, Any]) -> list[Picture]:
        """Every picture of a record, prepared for the tower or with its features from the cache."""
        return [self._picture(path) for path in self.paths(record)]

    def paths(self, record: Mapping[str, Any]) -> list[Path]:
        """Where the pictures of a record lie."""
        return paths_below(self.image_folder, record)

    def _picture(self, path: Path) -> Picture:
        key = self.cache.key(path) if self.cache else None
        known = self.cache.find(key) if self.cache else None
        if known is not None:
            return Picture(str(path), known.size, features=known.features, key=key)
        return self.prepared(path, open_image(path), key)

    def prepared(self, path: Path, image: Image.Image, key: str | None = None) -> Picture:
        """A picture that is open, as the tower takes it."""
        return Picture(str(path), image.size, process_image(image, self.image_processor, self.config), key=key)

    def encode(self, record: Mapping[str, Any]) -> Encoded:
        """Token ids and labels, checked: as many `<image>` as pictures, and something to learn."""
        require_marks(record)
        how = encode_independent if is_independent(record, self.independent_turns) else encode
        try:
            return how(record["conversations"], self.template, self.tokenizer, self.max_length)
        except UserError as error:
            raise UserError(f"record {record.get('id')!r}: {error}") from None

    def example(self, record: Mapping[str, Any], index: int, pictures: Sequence[Picture] | None = None) -> Example:
        """The record as an example, with its own pictures or those given.

        Raises UserError that names it; DataError for a picture that cannot be read.
        """
        pictures = self.pictures(record) if pictures is None else pictures
        encoded = self.encode(record)
        config, tower = self.config, self.tower
        image_tokens = [num_image_tokens(config, tower, one.size) if tower is not None else 1 for one in pictures]
        return Example(
            id=str(record.get("id", index)),
            input_ids=torch.tensor(encoded.input_ids),
            labels=torch.tensor(encoded.labels),
            length=len(encoded.input_ids) + sum(image_tokens) - len(image_tokens),
            branches=encoded.branches,
            text_is_cut=encoded.is_cut,
            pictures=pictures,
            image_tokens=image_tokens,
            index=index,
        )

    def num_tokens(self, record: Mapping[str, Any]) -> int:
        """Positions that a record takes, pictures counted; negative for text alone."""
        names = images_of(record)
        length = len(self.encode(record).input_ids) - len(names)
        if not names:
            return -length
        anyres = getattr(self.config, "image_aspect_ratio", None) == "anyres"
        # Only anyres makes the number of tokens a matter of the picture's size; it has to be opened then.
        sizes = [one.size for one in self.pictures(record)] if anyres else [(1, 1)] * len(names)
        return length + sum(num_image_tokens(self.config, self.tower, size) for size in sizes)


class Encodes(Protocol):
    """What makes examples of records: `Encoder` for LLaVA, `FamilyEncoder` for families of transformers' classes."""

    @property
    def image_folder(self) -> Path | None:
        """The folder that pictures are named in."""

    def example(self, record: Mapping[str, Any], index: int) -> Example:
        """The record as an example."""

    def num_tokens(self, record: Mapping[str, Any]) -> int:
        """Positions that the record takes, negative for text alone."""


def paths_below(folder: Path | None, record: Mapping[str, Any]) -> list[Path]:
    """Where the pictures of a record lie. Raises UserError for one that has pictures, where there is no folder."""
    names = images_of(record)
    if not names:
        return []
    if folder is None:
        raise UserError(f"record {record.get('id')!r} has a picture, and no {SPELLINGS[0]} is given")
    return [resolve_image(folder, name) for name in names]


def require_marks(record: Mapping[str, Any]) -> None:
    """Raise UserError for a record that has more or fewer `<image>` than pictures."""
    marks = sum(str(turn["value"]).count(IMAGE_TOKEN) for turn in record["conversations"])
    names = images_of(record)
    if marks != len(names):
        raise UserError(
            f"record {record.get('id')!r}: {marks} {IMAGE_TOKEN} for {len(names)} pictures; "
            f"write one {IMAGE_TOKEN} per picture in the human's words"
        )


def is_independent(record: Mapping[str, Any], asked: bool | None) -> bool:
    """Whether the questions of a record of several are learned each as if asked alone; `asked` None: as it says."""
    said = record.get("independent_turns", False) if asked is None else asked
    return bool(said) and len(record["conversations"]) > 3


class RecordDataset(Dataset[Example]):  # type: ignore[misc]  # torch is not followed
    """Records as examples, each made when it is asked for."""

    def __init__(self, records: Sequence[Mapping[str, Any]], encoder: Encodes, real_lengths: bool = False) -> None:
        self.records = records
        self.encoder = encoder
        self.real_lengths = real_lengths

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Example:
        record = taught(self.records[index])
        try:
            return self.encoder.example(record, index)
        except DataError as error:
            raise PictureLost(f"record {record.get('id')!r}: {error}") from None

    @property
    def modality_lengths(self) -> list[int]:
        """Words per record, negative for text only: upstream's measure, so that grouped orders are upstream's.

        With `real_lengths` tokens, pictures counted: what a record costs. Tokenises every record once.
        """
        if self.real_lengths:
            return [self.encoder.num_tokens(record) for record in map(taught, self.records)]
        if isinstance(self.records, Records):
            return kept_lengths(self.records.path, len(self.records), self._num_words)
        return self._num_words()

    @property
    def picture_keys(self) -> list[PictureKey]:
        """What tells the pictures of each record apart, None for a record of text."""
        folder = self.encoder.image_folder
        return [(folder, *names) if (names := images_of(record)) else None for record in self.records]

    def _num_words(self) -> list[int]:
        lengths = []
        for record in map(taught, self.records):
            words = sum(len(turn["value"].split()) for turn in record["conversations"])
            lengths.append(words if "image" in record else -words)
        return lengths
