"""The shapes of a LLaVA, and how many parameters each part has: what `plan` counts with.

>>> Vision(hidden=1024, intermediate=4096, layers=24, image_size=336, patch_size=14).num_patches
576
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from llava_finetune.errors import UserError
from llava_finetune.planning.family_pictures import PictureCost

LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True)
class Language:
    """A Llama- or Mistral-like language model; `kernel_norms`: its norms are of a kind that one kernel computes."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_size: int
    vocabulary: int
    tied: bool = False
    kernel_norms: bool = True

    @property
    def query_size(self) -> int:
        """Width of all query heads together."""
        return self.heads * self.head_size

    @property
    def kv_size(self) -> int:
        """Width of all key (or value) heads together."""
        return self.kv_heads * self.head_size

    def linears(self) -> dict[str, tuple[int, int]]:
        """(in, out) of the linear modules of one layer."""
        h, i, q, kv = self.hidden, self.intermediate, self.query_size, self.kv_size
        return dict(zip(LINEARS, [(h, q), (h, kv), (h, kv), (q, h), (h, i), (h, i), (i, h)], strict=True))

    @property
    def layer_linear_parameters(self) -> int:
        """Weights of the linear modules of one layer."""
        return sum(rows * columns for rows, columns in self.linears().values())

    @property
    def embedding_parameters(self) -> int:
        """Weights of the token embedding and, unless tied to it, the head."""
        return self.vocabulary * self.hidden * (1 if self.tied else 2)

    @property
    def num_parameters(self) -> int:
        """All parameters, norms included."""
        norms = self.hidden * (2 * self.layers + 1)
        return self.layers * self.layer_linear_parameters + self.embedding_parameters + norms


@dataclass(frozen=True)
class Vision:
    """A CLIP vision tower."""

    hidden: int
    intermediate: int
    layers: int
    image_size: int
    patch_size: int
    heads: int = 16

    @property
    def num_patches(self) -> int:
        """Tokens that one view of a picture takes in the language model."""
        return (self.image_size // self.patch_size) ** 2

    @property
    def layer_parameters(self) -> int:
        """Parameters of a layer: attention, MLP and two norms."""
        h, i = self.hidden, self.intermediate
        return 4 * (h * h + h) + 2 * h * i + h + i + 4 * h

    @property
    def num_parameters(self) -> int:
        """All parameters of CLIPVisionModel."""
        h = self.hidden
        return self.layers * self.layer_parameters + h + 3 * self.patch_size**2 * h + (self.num_patches + 1) * h + 4 * h


@dataclass(frozen=True)
class SigLip(Vision):
    """A tower without a class token."""

    @property
    def num_parameters(self) -> int:
        """All parameters but those of a head."""
        h = self.hidden
        return self.layers * self.layer_parameters + (3 * self.patch_size**2 + 1) * h + self.num_patches * h + 2 * h


@dataclass(frozen=True)
class DinoV2(Vision):
    """DINOv2: layer scales, a token for masked patches."""

    @property
    def layer_parameters(self) -> int:
        """Two scales beside what CLIP's layers have."""
        return super().layer_parameters + 2 * self.hidden

    @property
    def num_parameters(self) -> int:
        """All parameters of Dinov2Model without registers and without gates."""
        h = self.hidden
        return (
            self.layers * self.layer_parameters + (3 * self.patch_size**2 + 1) * h + (self.num_patches + 1) * h + 4 * h
        )


@dataclass(frozen=True)
class Shape:
    """A whole LLaVA: language model, vision tower, projector and how pictures are cut."""

    name: str
    language: Language
    vision: Vision
    projector: str
    anyres: bool = False
    pinpoints: tuple[tuple[int, int], ...] = ()
    select_layer: int = -2

    @property
    def projector_parameters(self) -> int:
        """Parameters of the projector, and of the newline of a model that cuts pictures into views."""
        inner, outer = self.vision.hidden, self.language.hidden
        newline = outer if self.anyres else 0
        if self.projector == "identity":
            return newline
        depth = 1 if self.projector == "linear" else int(self.projector[3 : self.projector.index("x")])
        return inner * outer + outer + (depth - 1) * (outer * outer + outer) + newline

    @property
    def image_tokens(self) -> int:
        """Most tokens that one picture takes: one view, or for anyres the overview, the views and their newlines."""
        one = self.vision.num_patches
        if not self.anyres:
            return one
        side, size = self.vision.image_size // self.vision.patch_size, self.vision.image_size
        grids = [(width // size, height // size) for width, height in self.pinpoints] or [(2, 2)]
        return one + max(columns * rows * one + rows * side for columns, rows in grids)

    @property
    def views(self) -> int:
        """Most views of one picture that go through the tower."""
        size = self.vision.image_size
        return 1 + max((w // size * (h // size) for w, h in self.pinpoints), default=4) if self.anyres else 1

    @property
    def uncut(self) -> Shape | None:
        """The same with pictures left whole (--image_aspect_ratio pad), where a run may choose and they are cut."""
        return None

    def lora_parameters(self, rank: int, targets: str = "language") -> int:
        """Parameters of LoRA of this rank on language, language.attention, vision, projector (comma-separated)."""
        return sum(self._adapter(part.strip(), rank) for part in targets.split(","))

    def _adapter(self, part: str, rank: int) -> int:
        linears = self.language.linears()
        if part in ("language", "language.attention"):
            names = LINEARS if part == "language" else LINEARS[:4]
            return self.language.layers * rank * sum(sum(linears[name]) for name in names)
        if part == "vision":
            h, i = self.vision.hidden, self.vision.intermediate
            # Layers behind the one that is read get no gradient, and no adapter.
            used = self.select_layer % (self.vision.layers + 1)
            return used * rank * (4 * 2 * h + 2 * (h + i))
        if part == "projector":
            inner, outer = self.vision.hidden, self.language.hidden
            depth = 1 if self.projector == "linear" else int(self.projector[3 : self.projector.index("x")])
            return rank * (inner + outer + (depth - 1) * 2 * outer)
        raise UserError(
            f"plan knows the targets language, language.attention, vision and projector, not {part!r}; "
            "leave out --lora_targets for an estimate with the default"
        )


NO_PICTURE = PictureCost(connector=0, tokens=0, views=1)


@dataclass(frozen=True)
class FamilyShape(Shape):
    """The shape of a family of transformers' own classes; gated cross-attention counts as layers of the language model.

    LoRA on the connector is counted as on one layer from the tower's width to the language model's and back.
    """

    picture: PictureCost = NO_PICTURE
    cross_layers: int = 0

    @property
    def projector_parameters(self) -> int:
        """Parameters of the connector."""
        return self.picture.connector

    @property
    def image_tokens(self) -> int:
        """Most tokens that one picture takes, cut into as many tiles as it can be."""
        return self.picture.tokens

    @property
    def views(self) -> int:
        """Most views of one picture that go through the tower."""
        return self.picture.views

    @property
    def uncut(self) -> FamilyShape | None:
        """With pictures in one view each."""
        if not self.picture.whole or self.is_whole:
            return None
        return replace(self, picture=replace(self.picture, tokens=self.picture.whole, views=1))

    @property
    def is_whole(self) -> bool:
        """Whether pictures are left whole that could be cut."""
        return self.picture.tokens == self.picture.whole

    def _adapter(self, part: str, rank: int) -> int:
        if part == "projector":
            return rank * 2 * (self.vision.hidden + self.language.hidden)
        if part == "cross" and self.cross_layers:
            return super()._adapter("language", rank) * self.cross_layers // self.language.layers
        return super()._adapter(part, rank)
