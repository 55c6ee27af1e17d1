"""The shapes of a LLaVA from its config alone, and how many parameters each part has: what `plan` counts with.

Configs are read in upstream's layout, in llava-hf's, or as a plain language model; the published ones are built in
(llava_finetune/known_models.json), so that a plan needs no download.

    >>> read_shape("liuhaotian/llava-v1.5-7b").language.num_parameters
    6738415616
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from llava_finetune.errors import UserError
from llava_finetune.planning.family_pictures import COSTS, PictureCost, Widths, picture_cost
from llava_finetune.saved.documents import read_document
from llava_finetune.saved.model_files import ADAPTER_CONFIG
from llava_finetune.saved.promises import require_projector

KNOWN_MODELS = Path(__file__).with_name("known_models.json")
DEFAULT_TOWER = "openai/clip-vit-large-patch14-336"
FAMILIES = ("llama", "llava", "llava_llama", "mistral", "llava_mistral")
IDEFICS = {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32}
LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True)
class Language:
    """A Llama- or Mistral-like language model."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_size: int
    vocabulary: int
    tied: bool = False

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
    def num_parameters(self) -> int:
        """All parameters of CLIPVisionModel."""
        h, i = self.hidden, self.intermediate
        layer = 4 * (h * h + h) + 2 * h * i + h + i + 4 * h
        return self.layers * layer + h + 3 * self.patch_size**2 * h + (self.num_patches + 1) * h + 4 * h


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


@dataclass(frozen=True)
class SigLip(Vision):
    """A tower without a class token."""

    @property
    def num_parameters(self) -> int:
        """All parameters but those of a head."""
        h, i = self.hidden, self.intermediate
        layer = 4 * (h * h + h) + 2 * h * i + h + i + 4 * h
        return self.layers * layer + (3 * self.patch_size**2 + 1) * h + self.num_patches * h + 2 * h


NO_PICTURE = PictureCost(connector=0, tokens=0, views=1)


@dataclass(frozen=True)
class FamilyShape(Shape):
    """The shape of a family of transformers' own classes; gated cross-attention counts as layers of the language model.

    LoRA on the connector is counted as on one layer from the tower's width to the language model's and back.
    """

    picture: PictureCost = NO_PICTURE

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

    def _adapter(self, part: str, rank: int) -> int:
        if part == "projector":
            return rank * 2 * (self.vision.hidden + self.language.hidden)
        return super()._adapter("language" if part == "cross" else part, rank)


def read_shape(model: str, vision_tower: str | None = None) -> Shape:
    """The shape of a hub id that is built in, or of a folder with config.json. UserError says what else is possible."""
    config, where = read_config(model)
    return replace(shape_of(config, where, vision_tower), name=str(model))


def read_config(model: str) -> tuple[dict[str, Any], str]:
    """The config of a hub id that is built in or of a folder, and where it is from: an adapter's is its base's."""
    folder = Path(model)
    if (folder / "config.json").is_file():
        return _load(folder / "config.json"), str(model)
    if (folder / ADAPTER_CONFIG).is_file():
        return read_config(_load(folder / ADAPTER_CONFIG).get("base_model_name_or_path") or "")
    known = json.loads(KNOWN_MODELS.read_text(encoding="utf-8"))["models"]
    if model in known:
        return dict(known[model]), model
    if folder.is_dir():
        raise UserError(f"{model}: no config.json in it; give a model folder")
    raise UserError(
        f"{model}: neither a folder with config.json nor a hub id that is built in; download its config.json into a "
        f"folder and give that, or one of: {', '.join(known)}"
    )


def shape_of(config: Mapping[str, Any], name: str, vision_tower: str | None = None) -> Shape:
    """The shape that a config.json describes (upstream's, llava-hf's, or a plain language model's)."""
    if config.get("model_type") in COSTS:
        return _family_shape(config, name)
    if "text_config" in config:
        return _hf_shape(config, name)
    family = config.get("model_type", "llama")
    if family not in FAMILIES:
        raise UserError(f"{name}: model family {family!r} is not supported; known: {', '.join(FAMILIES)}")
    tower = vision_tower or config.get("mm_vision_tower") or DEFAULT_TOWER
    projector = config.get("mm_projector_type") or ("linear" if "mm_vision_tower" in config else "mlp2x_gelu")
    require_projector(projector, name)
    return Shape(
        name=name,
        language=_language(config, family),
        vision=_tower(str(tower), name),
        projector=projector,
        anyres=config.get("image_aspect_ratio") == "anyres",
        pinpoints=_pinpoints(config),
        select_layer=int(config.get("mm_vision_select_layer") or -2),
    )


def _hf_shape(config: Mapping[str, Any], name: str) -> Shape:
    text = config["text_config"]
    language = _language({**text, "vocab_size": text.get("vocab_size", 32064)}, text.get("model_type", "llama"))
    known = json.loads(KNOWN_MODELS.read_text(encoding="utf-8"))
    vision = {**known["towers"][DEFAULT_TOWER], **config.get("vision_config", {})}
    anyres = config.get("model_type") == "llava_next"
    return Shape(name, language, _vision(vision), "mlp2x_gelu", anyres, _pinpoints(config))


def _family_shape(config: Mapping[str, Any], name: str) -> FamilyShape:
    text = config.get("text_config") or {**IDEFICS, **config}
    vision = dict(config.get("vision_config") or {})
    vision["hidden_size"] = vision.get("hidden_size") or vision.get("embed_dim")
    tower = _vision(vision)
    language = _language(text, str(text.get("model_type", "llama")))
    crossed = language.layers // int(config.get("cross_layer_interval") or 10**9)
    language = replace(
        language,
        layers=language.layers + crossed,
        vocabulary=language.vocabulary + int(config.get("additional_vocab_size") or 0),
        tied=bool(config.get("tie_word_embeddings", language.tied)),
    )
    widths = Widths(language.hidden, language.intermediate, tower.hidden, tower.image_size, tower.patch_size)
    return FamilyShape(
        name, language, SigLip(**vars(tower)), "connector", select_layer=-1, picture=picture_cost(config, widths)
    )


def _language(config: Mapping[str, Any], family: str) -> Language:
    mistral = "mistral" in family
    heads = int(config.get("num_attention_heads") or 32)
    hidden = int(config.get("hidden_size") or 4096)
    return Language(
        hidden=hidden,
        intermediate=int(config.get("intermediate_size") or (14336 if mistral else 11008)),
        layers=int(config.get("num_hidden_layers") or 32),
        heads=heads,
        kv_heads=int(config.get("num_key_value_heads") or (8 if mistral else heads)),
        head_size=int(config.get("head_dim") or hidden // heads),
        vocabulary=int(config.get("vocab_size") or 32000),
        tied=bool(config.get("tie_word_embeddings", False)),
    )


def _tower(tower: str, model: str) -> Vision:
    towers = json.loads(KNOWN_MODELS.read_text(encoding="utf-8"))["towers"]
    for folder in (Path(tower), Path(model) / tower):
        if (folder / "config.json").is_file():
            config = _load(folder / "config.json")
            return _vision(config.get("vision_config", config))
    if tower not in towers:
        raise UserError(
            f"{model}: vision tower {tower} is neither a folder nor built in; give --vision_tower with a CLIP folder "
            f"or one of: {', '.join(towers)}"
        )
    return _vision(towers[tower])


def _vision(config: Mapping[str, Any]) -> Vision:
    names = ("hidden_size", "intermediate_size", "num_hidden_layers", "image_size", "patch_size")
    if lacking := [name for name in names if not config.get(name)]:
        raise UserError(f"the vision tower's config.json lacks {', '.join(lacking)}; give a CLIP folder")
    heads = config.get("num_attention_heads") or int(config["hidden_size"]) // 64  # CLIP's heads are 64 wide
    return Vision(
        int(config["hidden_size"]),
        int(config["intermediate_size"]),
        int(config["num_hidden_layers"]),
        int(config["image_size"]),
        int(config["patch_size"]),
        heads=int(heads),
    )


def _pinpoints(config: Mapping[str, Any]) -> tuple[tuple[int, int], ...]:
    points = config.get("image_grid_pinpoints") or ()
    return tuple((int(width), int(height)) for width, height in points) if not isinstance(points, str) else ()


def _load(path: Path) -> dict[str, Any]:
    return dict(read_document(path))
