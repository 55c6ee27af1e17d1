"""Vision towers that upstream has no class for (SigLIP, DINOv2), behind the interface of upstream's CLIP tower.

What a tower is says its own config: how many tokens stand before the patches, how large a picture is, how it is
normalised. A picture is resized and cut as for CLIP, to the size that the tower's positions were trained for; only
mean, deviation and filter are the tower's own.

    tower = VisionTower("google/siglip-so400m-patch14-384", config)
    tower(pixels).shape      # pictures x 729 x 1152: there is no class token to leave out
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import transformers

from llava_finetune.errors import UserError
from llava_finetune.saved.folders import read_json
from llava_finetune.saved.sound import blamed_on
from llava_finetune.saved.supported import CLIPS, read_pinpoints, require_tower

CROPS = {"image_mean", "image_std", "resample", "rescale_factor"}
"""What is taken of a tower's own image processor."""
REMEDY = "download the tower's folder again"


@dataclass(frozen=True)
class Kind:
    """A kind of tower: transformers' names for its config and model, and how many tokens stand before the patches."""

    config: str
    model: str
    prefix_tokens: int
    values: Mapping[str, Any]


KINDS = {
    # SigLIP's pooling head takes no part: LLaVA reads a layer's output.
    "siglip": Kind("SiglipVisionConfig", "SiglipVisionModel", 0, {"vision_use_head": False}),
    "dinov2": Kind("Dinov2Config", "Dinov2Model", 1, {}),
    "dinov2_with_registers": Kind("Dinov2WithRegistersConfig", "Dinov2WithRegistersModel", 1, {}),
}
KINDS["siglip_vision_model"] = KINDS["siglip"]


def is_clip(tower: str) -> bool:
    """Whether a tower's config says CLIP; one whose config is not at hand is taken for one, as upstream does."""
    config = read_json(tower, "config.json")
    return config is None or str(config.get("model_type", "")) in CLIPS


def tower_config(tower: str) -> Any:
    """The config of a tower of any kind: a CLIP's is what upstream reads. Raises UserError for no tower."""
    if is_clip(tower):
        return transformers.CLIPVisionConfig.from_pretrained(tower)
    require_tower(tower)
    kind = KINDS[str((read_json(tower, "config.json") or {})["model_type"])]
    return getattr(transformers, kind.config).from_pretrained(tower, **kind.values)


def tower_processor(tower: str, image_size: int) -> Any:
    """What makes pixels of a picture for a tower of any kind."""
    if is_clip(tower):
        return transformers.CLIPImageProcessor.from_pretrained(tower)
    own = read_json(tower, "preprocessor_config.json") or {}
    if lacking := [name for name in ("image_mean", "image_std") if name not in own]:
        raise UserError(
            f"{tower}: no {' and '.join(lacking)} in a preprocessor_config.json; copy that file from where the tower "
            "came from"
        )
    square = {"height": image_size, "width": image_size}
    taken = {name: value for name, value in own.items() if name in CROPS}
    return transformers.CLIPImageProcessor(size={"shortest_edge": image_size}, crop_size=square, **taken)


def require_fit(tower: str, feature: str, base: str, config: Any) -> None:
    """Raise UserError for a tower that cannot give what a run asks of it.

    `feature`: patch or cls_patch. `config`: the base's, whose grid of views a picture is cut to, and whose projector
    takes features of one width.
    """
    own = read_json(tower, "config.json") or {}
    kind = str(own.get("model_type", ""))
    own = own.get("vision_config") or own
    if feature == "cls_patch" and kind in KINDS and not KINDS[kind].prefix_tokens:
        raise UserError(
            f"--mm_vision_select_feature cls_patch: {tower} ({kind}) has no class token; leave the flag out, all its "
            "patches are read"
        )
    _require_kind(tower, base, config)
    wanted, width = getattr(config, "mm_hidden_size", None), own.get("hidden_size")
    if wanted and width and wanted != width:
        raise UserError(
            f"--vision_tower {tower}: its features have {width} channels, {base}'s projector takes {wanted}; leave the "
            "flag out (a base that is a LLaVA keeps its tower), or start from its language model"
        )
    if getattr(config, "image_aspect_ratio", None) != "anyres":
        return
    side, grids = own.get("image_size"), read_pinpoints(getattr(config, "image_grid_pinpoints", None), base)
    if odd := next((list(grid) for grid in grids if side and any(length % side for length in grid)), None):
        raise UserError(
            f"{base}: image_grid_pinpoints: expected multiples of {side}, the tower's picture size ({tower}), found "
            f"{odd}; use the tower that the base was trained with"
        )


def _require_kind(tower: str, base: str, config: Any) -> None:
    """Raise UserError for a tower of another kind than the trained one whose weights lie in the base's own files."""
    trained = getattr(config, "mm_vision_tower", None) if getattr(config, "unfreeze_mm_vision_tower", False) else None
    found, expected = _kind_of(tower), _kind_of(trained) if trained else None
    if found and expected and found != expected:
        raise UserError(
            f"--vision_tower {tower}: a {found}, and {base} carries the {expected} that it was trained with; leave the "
            "flag out (a base that is a LLaVA keeps its tower), or start from its language model"
        )


def _kind_of(tower: str) -> str | None:
    """CLIP, Siglip ...; None where the tower's config is not at hand, as that of a folder that was moved."""
    try:
        kind = str((read_json(tower, "config.json") or {}).get("model_type", ""))
    except UserError:
        return None
    return "CLIP" if kind in CLIPS else KINDS[kind].model.removesuffix("VisionModel") if kind in KINDS else None


class VisionTower(torch.nn.Module):
    """A frozen tower with the attributes and methods of upstream's CLIPVisionTower."""

    def __init__(self, tower: str, args: Any, delay_load: bool = False) -> None:
        """`args`: the model's config, or a run's values. `delay_load`: only the config is read.

        A tower that was trained is made empty instead; the checkpoint that is being loaded fills it.
        """
        super().__init__()
        self.is_loaded = False
        self.vision_tower_name = tower
        self.select_layer = args.mm_vision_select_layer
        self.select_feature = getattr(args, "mm_vision_select_feature", "patch")
        self.cfg_only = tower_config(tower)
        if not delay_load:
            self.load_model()
        elif getattr(args, "unfreeze_mm_vision_tower", False):
            self._hold(self._model_class(self.cfg_only))

    @property
    def _model_class(self) -> Any:
        kinds = {kind.config: kind.model for kind in KINDS.values()}
        return getattr(transformers, kinds[type(self.cfg_only).__name__])

    def load_model(self, device_map: Any = None) -> None:
        """Read the tower's weights. Raises UserError where its folder lacks some of them."""
        if self.is_loaded:
            return
        name = self.vision_tower_name
        with blamed_on(name, "the vision tower's weights cannot be loaded", REMEDY):
            model, info = self._model_class.from_pretrained(
                name, config=self.cfg_only, device_map=device_map, output_loading_info=True
            )
        if missing := sorted(info["missing_keys"]):
            raise UserError(
                f"{name}: {len(missing)} weights of the vision tower are missing, first {missing[0]}; {REMEDY}"
            )
        self._hold(model)

    def _hold(self, model: Any) -> None:
        self.image_processor = tower_processor(self.vision_tower_name, self.cfg_only.image_size)
        self.vision_tower = model
        self.vision_tower.requires_grad_(False)
        self.is_loaded = True

    def feature_select(self, outputs: Any) -> torch.Tensor:
        """The chosen layer's patches, B x P x H; with `cls_patch` the class token before them."""
        features = outputs.hidden_states[self.select_layer]
        patches = features[:, -self.num_patches :]
        return torch.cat([features[:, :1], patches], 1) if self.select_feature == "cls_patch" else patches

    def forward(self, images: torch.Tensor | list[torch.Tensor]) -> Any:
        """Features of pictures, B x 3 x H x W, or of a list of them, in the dtype that they came in."""
        if isinstance(images, list):
            return [self(image[None]) for image in images]
        trained = any(parameter.requires_grad for parameter in self.parameters())
        with torch.set_grad_enabled(trained and torch.is_grad_enabled()):
            outputs = self.vision_tower(images.to(device=self.device, dtype=self.dtype), output_hidden_states=True)
            return self.feature_select(outputs).to(images.dtype)

    @property
    def dummy_feature(self) -> torch.Tensor:
        """A feature of zeros."""
        return torch.zeros(1, self.hidden_size, device=self.device, dtype=self.dtype)

    @property
    def dtype(self) -> torch.dtype:
        """The weights' dtype."""
        return self.vision_tower.dtype  # type: ignore[no-any-return]

    @property
    def device(self) -> torch.device:
        """Where the weights lie."""
        return self.vision_tower.device  # type: ignore[no-any-return]

    @property
    def config(self) -> Any:
        """The tower's config."""
        return self.vision_tower.config if self.is_loaded else self.cfg_only

    @property
    def hidden_size(self) -> int:
        """Channels of a feature."""
        return int(self.config.hidden_size)

    @property
    def num_patches_per_side(self) -> int:
        """Patches along a side of a picture."""
        return int(self.config.image_size // self.config.patch_size)

    @property
    def num_patches(self) -> int:
        """Patches of a picture."""
        return self.num_patches_per_side**2
